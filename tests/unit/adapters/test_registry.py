"""The registry's client, against real HTTP servers that misbehave."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.adapters import registry as module
from pipeline.adapters.credentials import Credentials
from pipeline.adapters.registry import Manifest, Registry
from pipeline.adapters.registry_transport import is_loopback
from pipeline.errors import RegistryRefusedError, RegistryUnreachableError
from pipeline.reference import Reference

BODY = b'{"schemaVersion": 2, "config": {"size": 10}, "layers": [{"size": 5}, {"size": 7}]}'
DIGEST = "sha256:" + hashlib.sha256(BODY).hexdigest()
OK = {"Docker-Content-Digest": DIGEST, "Content-Type": "application/vnd.oci.image.manifest.v1+json; charset=utf-8"}


@dataclass
class Answer:
    """What the server does with one request: `status` 0 resets the connection, -1 closes it without an answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    close_after: bool = False


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Server:
    """An HTTP server whose answers come from a list, then from `otherwise`; it keeps connections alive."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.otherwise: Callable[[Asked], Answer] = lambda asked: Answer(200, dict(OK), BODY)
        self.asked: list[Asked] = []
        self.connections = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 5

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                asked = Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, self.rfile.read(length))
                outer.asked.append(asked)
                answer = outer.script.pop(0) if outer.script else outer.otherwise(asked)
                if answer.status <= 0:
                    if answer.status == 0:
                        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close_connection = True
                    self.connection.close()
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)
                self.close_connection = answer.close_after

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

            def finish(self) -> None:
                with contextlib.suppress(OSError, ValueError):
                    super().finish()

            def log_message(self, *_arguments: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                pass

        self._server: socketserver.BaseServer = Quiet(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.005)
    made = Server()
    yield made
    made.close()


Connect = Callable[..., Registry]


@pytest.fixture
def connect(server: Server) -> Iterator[Connect]:
    made: list[Registry] = []

    def make(credentials: Credentials | None = None) -> Registry:
        made.append(Registry(server.host, lambda host: credentials))
        return made[-1]

    yield make
    for registry in made:
        registry.close()


def tag(server: Server, name: str = "main") -> Reference:
    return Reference(server.host, "team/app", name)


def test_a_digest_is_asked_with_one_request_on_one_connection(server: Server, connect: Connect) -> None:
    registry = connect()
    assert registry.digest(tag(server)) == registry.digest(tag(server)) == DIGEST
    assert [(asked.method, asked.path) for asked in server.asked] == [("HEAD", "/v2/team/app/manifests/main")] * 2
    assert "application/vnd.oci.image.index.v1+json" in server.asked[0].headers["accept"]
    assert server.connections == 1


def test_what_is_not_there_has_no_digest(server: Server, connect: Connect) -> None:
    server.otherwise = lambda asked: Answer(404, body=b"{}")
    assert connect().digest(tag(server)) == ""
    with pytest.raises(RegistryRefusedError, match="refused to read team/app/manifests/main: 404") as caught:
        connect().manifest(tag(server))
    assert "push it first" in caught.value.hint


def test_a_registry_that_names_no_digest_is_asked_for_the_manifest(server: Server, connect: Connect) -> None:
    server.otherwise = lambda asked: Answer(200, {}, BODY)
    assert connect().digest(tag(server)) == DIGEST


def test_a_manifest_is_kept_byte_for_byte(server: Server, connect: Connect) -> None:
    manifest = connect().manifest(tag(server))
    assert manifest == Manifest(BODY, "application/vnd.oci.image.manifest.v1+json")
    assert manifest.digest == DIGEST
    assert connect().image_size(manifest) == 22
    connect().put_manifest(tag(server, "other"), manifest)
    put = server.asked[-1]
    assert (put.method, put.path, put.body) == ("PUT", "/v2/team/app/manifests/other", BODY)
    assert put.headers["content-type"] == manifest.media_type


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_registry_is_asked_again(server: Server, connect: Connect, status: int) -> None:
    server.script = [Answer(status, {"Retry-After": "1"}), Answer(status, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), Answer(status)]
    assert connect().digest(tag(server)) == DIGEST
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    "answer", [Answer(503), Answer(429, {"Retry-After": "3600"}), Answer(0), Answer(-1)], ids=["503", "429", "reset", "close"]
)
def test_patience_ends(server: Server, connect: Connect, answer: Answer) -> None:
    server.otherwise = lambda asked: answer
    with pytest.raises(RegistryUnreachableError, match=f"the registry {server.host} does not answer") as caught:
        connect().digest(tag(server))
    assert len(server.asked) == module.ATTEMPTS
    assert "PIPELINE_REGISTRY" in caught.value.hint


def test_retry_after_is_followed_up_to_a_bound(server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("pipeline.adapters.registry.time.sleep", pauses.append)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 10.0)
    server.script = [Answer(429, {"Retry-After": value}) for value in ("3", "3600", "nan", "-5")]
    assert connect().digest(tag(server)) == DIGEST
    assert [pause for pause in pauses if pause][:2] == [3.0, 10.0]
    assert max(pauses) <= 10.0


@pytest.mark.parametrize("status", [0, -1])
def test_a_broken_connection_is_made_anew(server: Server, connect: Connect, status: int) -> None:
    server.script = [Answer(status), Answer(status)]
    assert connect().digest(tag(server)) == DIGEST


def test_a_kept_connection_that_the_registry_closed_costs_no_attempt(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.adapters.registry.time.sleep", lambda seconds: seconds and pytest.fail("counted as an attempt"))
    server.script = [Answer(200, dict(OK), BODY), Answer(-1)]
    registry = connect()
    assert registry.digest(tag(server)) == registry.digest(tag(server)) == DIGEST
    assert server.connections == 2


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.adapters.registry.time.sleep", lambda seconds: seconds and pytest.fail("waited for nobody"))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(RegistryUnreachableError, match="ConnectionRefusedError") as caught:
            Registry(host, lambda name: None).digest(Reference(host, "a", "b"))
    assert "registry.start" in caught.value.hint


def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_host(*_arguments: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    monkeypatch.setattr("pipeline.adapters.registry.time.sleep", lambda seconds: seconds and pytest.fail("waited for nobody"))
    with pytest.raises(RegistryUnreachableError, match="Name or service not known"):
        Registry("registry.invalid", lambda name: None).ping()


@pytest.mark.parametrize(("status", "hint"), [(403, "may not do this"), (405, "read-only"), (400, "registry's own log")])
def test_a_refusal_is_not_tried_again(server: Server, connect: Connect, status: int, hint: str) -> None:
    body = json.dumps({"errors": [{"code": "DENIED", "message": "not for you"}]}).encode()
    server.otherwise = lambda asked: Answer(status, body=body)
    with pytest.raises(RegistryRefusedError, match=f"refused to write to team/app/manifests/main: {status} not for you") as caught:
        connect().put_manifest(tag(server), Manifest(BODY, "x"))
    assert hint in caught.value.hint
    assert len(server.asked) == 1


@pytest.mark.parametrize("body", [b"<html>no</html>", b"[]", b'{"errors": [5]}', b"\xff", b""])
def test_a_refusal_in_no_known_form_is_told_all_the_same(server: Server, connect: Connect, body: bytes) -> None:
    server.otherwise = lambda asked: Answer(400, body=body)
    with pytest.raises(RegistryRefusedError, match="refused to read"):
        connect().manifest(tag(server))


BASIC = "Basic " + base64.b64encode(b"me:secret").decode()


def basic_only(asked: Asked) -> Answer:
    if asked.headers.get("authorization") != BASIC:
        return Answer(401, {"WWW-Authenticate": 'Basic realm="x"'})
    return Answer(200, dict(OK), BODY)


def test_a_basic_challenge_is_answered_from_dockers_configuration(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.otherwise = basic_only
    auth = base64.b64encode(b"me:secret").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {server.host: {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    registry = Registry(server.host)
    assert registry.digest(tag(server)) == registry.digest(tag(server)) == DIGEST
    assert len(server.asked) == 3  # challenged once
    registry.close()


@pytest.mark.parametrize("credentials", [None, Credentials("me", "wrong")])
def test_credentials_that_are_missing_or_wrong(server: Server, connect: Connect, credentials: Credentials | None) -> None:
    server.otherwise = basic_only
    with pytest.raises(RegistryRefusedError, match="401") as caught:
        connect(credentials).digest(tag(server))
    assert caught.value.hint == f"Log in: docker login {server.host}"
    assert "wrong" not in caught.value.message


class TokenRealm:
    """A registry with a token service beside it, as Docker's token authentication describes them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.requests: list[Asked] = []
        self.token: Answer = Answer(200, body=b'{"token": "T"}')

    def __call__(self, asked: Asked) -> Answer:
        if asked.path.startswith("/token"):
            self.requests.append(asked)
            return self.token
        if asked.headers.get("authorization") == "Bearer T":
            return Answer(200, dict(OK), BODY)
        repository = asked.path.removeprefix("/v2/").partition("/manifests")[0]
        scope = f"repository:{repository}:" + ("pull" if asked.method in ("GET", "HEAD") else "pull,push")
        challenge = f'Bearer realm="http://{self.server.host}/token?kept=yes",service="reg",scope="{scope}"'
        return Answer(401, {"WWW-Authenticate": challenge})


def test_a_bearer_challenge_fetches_a_token_for_each_scope(server: Server, connect: Connect) -> None:
    realm = server.otherwise = TokenRealm(server)
    registry = connect(Credentials("me", "secret"))
    assert registry.digest(tag(server)) == registry.digest(tag(server)) == DIGEST
    registry.put_manifest(tag(server), Manifest(BODY, "x"))
    first, second = realm.requests
    assert first.headers["authorization"] == BASIC
    assert "kept=yes" in first.path
    assert "service=reg" in first.path
    assert "scope=repository%3Ateam%2Fapp%3Apull&" in first.path
    assert "pull%2Cpush" in second.path


def test_a_token_without_credentials_and_by_another_name(server: Server, connect: Connect) -> None:
    realm = server.otherwise = TokenRealm(server)
    realm.token = Answer(200, body=b'{"access_token": "T"}')
    assert connect().digest(tag(server)) == DIGEST
    assert "authorization" not in realm.requests[0].headers


def test_an_identity_token_is_exchanged(server: Server, connect: Connect) -> None:
    realm = server.otherwise = TokenRealm(server)
    assert connect(Credentials("", "", "identity")).digest(tag(server)) == DIGEST
    assert realm.requests[0].method == "POST"
    assert b"refresh_token=identity" in realm.requests[0].body
    assert "identity" not in realm.requests[0].path


@pytest.mark.parametrize(
    ("token", "message"),
    [(Answer(401), "refused the credentials"), (Answer(200, body=b"<html>"), "answered no token"), (Answer(200, body=b"[]"), "no token")],
)
def test_a_token_service_that_refuses(server: Server, connect: Connect, token: Answer, message: str) -> None:
    realm = server.otherwise = TokenRealm(server)
    realm.token = token
    with pytest.raises(RegistryRefusedError, match=message):
        connect(Credentials("me", "secret")).digest(tag(server))


def test_a_token_service_that_is_busy_is_asked_again(server: Server, connect: Connect) -> None:
    realm = TokenRealm(server)
    server.otherwise = realm
    challenge = realm(Asked("HEAD", "/v2/team/app/manifests/main", {}, b""))
    server.script = [challenge, Answer(503)]
    assert connect().digest(tag(server)) == DIGEST


def test_pushing_is_tried_out_and_taken_back(server: Server, connect: Connect) -> None:
    server.script = [Answer(202, {"Location": f"http://{server.host}/v2/team/app/blobs/uploads/1?state=x"}), Answer(204)]
    connect().check_writable("team/app")
    assert [(asked.method, asked.path) for asked in server.asked] == [
        ("POST", "/v2/team/app/blobs/uploads/"),
        ("DELETE", "/v2/team/app/blobs/uploads/1?state=x"),
    ]


def test_an_upload_that_cannot_be_taken_back_is_no_matter(server: Server, connect: Connect) -> None:
    server.script = [Answer(202, {"Location": "/v2/x"}), Answer(405)]
    connect().check_writable("team/app")


def test_a_read_only_registry_is_noticed(server: Server, connect: Connect) -> None:
    server.otherwise = lambda asked: Answer(405)
    with pytest.raises(RegistryRefusedError, match="refused to write to team/app/blobs/uploads/: 405") as caught:
        connect().check_writable("team/app")
    assert "read-only" in caught.value.hint


def test_ping_asks_once(server: Server, connect: Connect) -> None:
    connect().ping()
    server.otherwise = lambda asked: Answer(503)
    with pytest.raises(RegistryUnreachableError, match="answers 503"):
        connect().ping()
    assert [asked.path for asked in server.asked] == ["/v2/"] * 2


def test_threads_have_connections_of_their_own(server: Server, connect: Connect) -> None:
    registry = connect()
    together = threading.Barrier(4)

    def ask(_number: int) -> str:
        together.wait(5)
        return registry.digest(tag(server))

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, range(4))) == {DIGEST}
    assert server.connections == 4


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("localhost", True), ("localhost:5000", True), ("127.0.0.1:5000", True), ("127.1.2.3", True), ("[::1]:5000", True), ("[::1]", True),
        ("127.example.com", False), ("127.0.0.1.example.com:80", False), ("localhost.example", False), ("10.0.0.1:5000", False),
    ],
)  # fmt: skip
def test_only_this_machine_is_spoken_to_in_clear(host: str, plain: bool) -> None:
    assert is_loopback(host) == plain
