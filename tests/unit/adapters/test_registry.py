"""The registry's client, against real HTTP servers that misbehave."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import json
import socket
import socketserver
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.adapters import exchange
from pipeline.adapters.connections import Connections
from pipeline.adapters.credentials import Credentials
from pipeline.adapters.patience import Patience, retry_after
from pipeline.adapters.refusals import FEW
from pipeline.adapters.registry import CONNECTIONS, Manifest, Registry
from pipeline.adapters.registry_transport import is_loopback
from pipeline.errors import RegistryRefusedError, RegistryUnreachableError, TagImmutableError
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
    raw: bytes | None = None  # sent as it is, then the connection ends
    drip: bool = False  # then a byte now and then, for ever


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
                if answer.raw is not None:
                    self.close_connection = not answer.raw.endswith(b"0\r\nTrailer: 1\r\n\r\n")
                    with contextlib.suppress(OSError):
                        self.wfile.write(answer.raw)
                        while answer.drip:
                            time.sleep(0.02)
                            self.wfile.write(b" ")
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
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


Connect = Callable[..., Registry]


@pytest.fixture
def connect(server: Server) -> Iterator[Connect]:
    made: list[Registry] = []

    def make(credentials: Credentials | None = None, total: float = 30.0, say: Callable[[str], None] = lambda _: None) -> Registry:
        made.append(Registry(server.host, lambda host: credentials, say, Patience(total, first=0.001, longest=0.005)))
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


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_busy_registry_is_asked_again(server: Server, connect: Connect, status: int) -> None:
    server.script = [Answer(status)] * 10
    assert connect().digest(tag(server)) == DIGEST
    assert len(server.asked) == 11


@pytest.mark.parametrize("answer", [Answer(503), Answer(429), Answer(0), Answer(-1)], ids=["503", "429", "reset", "close"])
def test_patience_ends_with_the_last_reason(server: Server, connect: Connect, answer: Answer) -> None:
    server.otherwise = lambda asked: answer
    said: list[str] = []
    server.script = [Answer(200)]
    registry = connect(total=0.05, say=said.append)
    registry.ping()
    server.asked.clear()
    with pytest.raises(RegistryUnreachableError, match=f"the registry {server.host} does not answer") as caught:
        registry.digest(tag(server))
    asked = len(server.asked)
    assert asked > 3
    assert (str(answer.status) if answer.status > 0 else "Error") in caught.value.message or "RemoteDisconnected" in caught.value.message
    assert f"{asked} times" in caught.value.message or answer.status <= 0
    assert len(said) == 1  # a person is told why nothing happens


def test_who_gave_up_once_does_not_wait_as_long_again(server: Server, connect: Connect) -> None:
    server.otherwise = lambda asked: Answer(503)
    registry = connect(total=0.05)
    for _ in range(2):
        with pytest.raises(RegistryUnreachableError):
            registry.digest(tag(server))
        first, server.asked = len(server.asked), []
    assert first == 1
    server.script = [Answer(200, dict(OK), BODY), Answer(503), Answer(503), Answer(200, dict(OK), BODY)]
    assert registry.digest(tag(server)) == DIGEST  # it answers again
    assert registry.digest(tag(server)) == DIGEST


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_nobody_asks_before_the_registry_wants_to_be_asked_again(server: Server, connect: Connect, form: str) -> None:
    """Not even in another thread about another image."""
    times: list[float] = []
    value = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)  # dates have no fractions
    due = time.monotonic() + 0.9

    def answer(asked: Asked) -> Answer:
        times.append(time.monotonic())
        return Answer(429, {"Retry-After": value}) if len(times) == 1 else Answer(200, dict(OK), BODY)

    server.otherwise = answer
    registry = connect()
    first = threading.Thread(target=registry.digest, args=[tag(server)])
    first.start()
    while len(times) < 1 or not registry._requests._come_back:
        time.sleep(0.001)
    assert registry.digest(tag(server, "other")) == DIGEST
    first.join()
    assert len(times) == 3
    assert min(times[1:]) >= due


def test_a_registry_that_wants_to_be_asked_tomorrow_is_not_waited_for(server: Server, connect: Connect) -> None:
    server.otherwise = lambda asked: Answer(429, {"Retry-After": "86400"})
    registry = connect(total=120)
    for _ in range(2):
        with pytest.raises(RegistryUnreachableError) as caught:
            registry.digest(tag(server))
        assert "docker login" in caught.value.hint
    assert "86400 s" in caught.value.message
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), (" 0 ", 0.0), ("1.5", 1.5), ("nan", 0.0), ("-5", 0.0), ("soon", 0.0), ("", 0.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
def test_what_retry_after_says(value: str, seconds: float) -> None:
    assert retry_after(value) == seconds


def test_pauses_grow_and_drift_apart() -> None:
    patience = Patience(total=120, first=0.2, longest=10)
    for failures, longest in ((1, 0.2), (2, 0.4), (6, 6.4), (7, 10), (5000, 10)):
        pauses = {patience.pause(failures) for _ in range(20)}
        assert len(pauses) > 1
        assert longest / 2 <= min(pauses) and max(pauses) <= longest


def test_an_interrupt_ends_a_wait(server: Server) -> None:
    server.otherwise = lambda asked: Answer(503, {"Retry-After": "60"})
    registry = Registry(server.host, lambda name: None)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(registry.digest, tag(server))
        while not server.asked:
            time.sleep(0.001)
        registry.abort()
        with pytest.raises(RegistryUnreachableError, match="interrupted|Connection"):
            asking.result(10)
    registry.close()
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\nConte",
        b"HTTP/1.1 200 OK\r\nDocker-Content-Digest: " + DIGEST.encode() + b"\r\n\r\n" + BODY[:20],  # until the connection ends
        b"HTTP/1.1 2",
        b"",
    ],
    ids=["length", "chunk", "no last chunk", "head", "other digest", "status line", "nothing"],
)
def test_an_answer_that_is_cut_is_asked_for_again(server: Server, connect: Connect, raw: bytes) -> None:
    server.script = [Answer(200, raw=raw), Answer(200, raw=raw)]
    assert connect().manifest(tag(server)).content == BODY
    assert len(server.asked) >= 3


def test_an_answer_that_drips_for_ever_ends(server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "ANSWER", 0.2)
    server.script = [Answer(200, raw=b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", drip=True)]
    assert connect().manifest(tag(server)).content == BODY
    assert len(server.asked) == 2


def test_an_answer_in_chunks_is_put_together(server: Server, connect: Connect) -> None:
    raw = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    raw += b"5;x=y\r\n" + BODY[:5] + b"\r\n" + f"{len(BODY) - 5:X}".encode() + b"\r\n" + BODY[5:] + b"\r\n0\r\nTrailer: 1\r\n\r\n"
    server.script = [Answer(200, raw=raw)]
    registry = connect()
    assert registry.manifest(tag(server)).content == BODY
    assert registry.digest(tag(server)) == DIGEST  # the connection is still good, or a new one is made


@pytest.mark.parametrize("status", [0, -1])
def test_a_broken_connection_is_made_anew(server: Server, connect: Connect, status: int) -> None:
    server.script = [Answer(status), Answer(status)]
    assert connect().digest(tag(server)) == DIGEST


def test_a_kept_connection_that_the_registry_closed_costs_no_attempt(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connections, "wait", lambda connections, seconds: pytest.fail("counted as an attempt"))
    server.script = [Answer(200, dict(OK), BODY), Answer(-1)]
    registry = connect()
    assert registry.digest(tag(server)) == registry.digest(tag(server)) == DIGEST
    assert server.connections == 2


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connections, "wait", lambda connections, seconds: pytest.fail("waited for nobody"))
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
    monkeypatch.setattr(Connections, "wait", lambda connections, seconds: pytest.fail("waited for nobody"))
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


def test_a_token_that_has_expired_is_replaced(server: Server, connect: Connect) -> None:
    realm = TokenRealm(server)
    server.otherwise = realm
    registry = connect(Credentials("me", "secret"))
    assert registry.digest(tag(server)) == DIGEST
    expired = realm(Asked("HEAD", "/v2/team/app/manifests/main", {}, b""))
    expired.headers["WWW-Authenticate"] += ',error="invalid_token"'
    server.script = [expired]
    assert registry.digest(tag(server)) == DIGEST
    assert len(realm.requests) == 2


def test_a_new_token_that_is_called_invalid_is_tried_a_few_times(server: Server, connect: Connect) -> None:
    """The clocks of registry and token service may differ, or another of its machines has not heard of it yet."""
    realm = TokenRealm(server)
    invalid = realm(Asked("HEAD", "/v2/team/app/manifests/main", {}, b""))
    invalid.headers["WWW-Authenticate"] += ',error="invalid_token"'
    server.otherwise = lambda asked: realm(asked) if asked.path.startswith("/token") else invalid
    with pytest.raises(RegistryRefusedError, match="401") as caught:
        connect(Credentials("me", "secret")).digest(tag(server))
    assert len(realm.requests) == FEW
    assert "docker login" in caught.value.hint


def test_a_token_that_is_not_enough_is_a_refusal(server: Server, connect: Connect) -> None:
    realm = TokenRealm(server)
    denied = realm(Asked("HEAD", "/v2/team/app/manifests/main", {}, b""))
    denied.headers["WWW-Authenticate"] += ',error="insufficient_scope"'
    server.otherwise = lambda asked: realm(asked) if asked.path.startswith("/token") else denied
    with pytest.raises(RegistryRefusedError, match="401") as caught:
        connect(Credentials("me", "secret")).digest(tag(server))
    assert len(realm.requests) == 1
    assert "permission" in caught.value.hint


def test_a_manifest_that_is_not_there_is_nothing(server: Server, connect: Connect) -> None:
    registry = connect()
    assert registry.find_manifest(tag(server)) == Manifest(BODY, "application/vnd.oci.image.manifest.v1+json")
    server.otherwise = lambda asked: Answer(404)
    assert registry.find_manifest(tag(server)) is None


def test_a_registry_that_keeps_something_else_than_was_put(server: Server, connect: Connect) -> None:
    server.otherwise = lambda asked: Answer(201, {"Docker-Content-Digest": "sha256:" + "0" * 64})
    with pytest.raises(RegistryRefusedError, match="it changes what is pushed to it"):
        connect().put_manifest(tag(server), Manifest(BODY, "x"))


def test_a_tag_that_may_not_be_overwritten_is_told_apart(server: Server, connect: Connect) -> None:
    body = json.dumps({"errors": [{"code": "TAG_INVALID", "message": "the tag is immutable"}]}).encode()
    server.otherwise = lambda asked: Answer(400, body=body)
    with pytest.raises(TagImmutableError, match="the tag is immutable"):
        connect().put_manifest(tag(server), Manifest(BODY, "x"))
    assert len(server.asked) == 1


class Blobs:
    """A repository's blobs, as a registry keeps them."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.kept: dict[str, bytes] = {}
        self.is_forgetful = False  # it does not know its own uploads
        self.is_silent = False  # it keeps the next upload, and breaks the connection

    def __call__(self, asked: Asked) -> Answer:
        place = urllib.parse.urlsplit(asked.path)
        name = place.path.rpartition("/")[2]
        if asked.method == "HEAD":
            return Answer(200 if name in self.kept else 404)
        if asked.method == "POST":
            return Answer(202, {"Location": f"http://{self.host}/v2/team/app/blobs/uploads/1?_state=a%3D%26b"})
        query = urllib.parse.parse_qs(place.query)
        assert query["_state"] == ["a=&b"]
        if self.is_forgetful or query["digest"][0] in self.kept:
            return Answer(404)
        self.kept[query["digest"][0]] = asked.body
        was_silent, self.is_silent = self.is_silent, False
        return Answer(0 if was_silent else 201)


def test_a_blob_is_uploaded_once(server: Server, connect: Connect) -> None:
    blobs = server.otherwise = Blobs(server.host)
    registry = connect()
    assert registry.put_blob("team/app", BODY) == registry.put_blob("team/app", BODY) == DIGEST
    assert blobs.kept == {DIGEST: BODY}
    assert [asked.method for asked in server.asked] == ["HEAD", "POST", "PUT", "HEAD"]


def test_a_blob_whose_upload_was_never_confirmed_is_there(server: Server, connect: Connect) -> None:
    blobs = server.otherwise = Blobs(server.host)
    blobs.is_silent = True
    assert connect().put_blob("team/app", BODY) == DIGEST
    assert blobs.kept == {DIGEST: BODY}


def test_a_registry_that_forgets_its_uploads(server: Server, connect: Connect) -> None:
    blobs = server.otherwise = Blobs(server.host)
    blobs.is_forgetful = True
    with pytest.raises(RegistryUnreachableError, match="forgets uploads to team/app") as caught:
        connect().put_blob("team/app", BODY)
    assert "REGISTRY_HTTP_SECRET" in caught.value.hint


def test_a_blob_is_checked(server: Server, connect: Connect) -> None:
    server.script = [Answer(200, body=b"cut")]
    assert connect().blob("team/app", DIGEST) == BODY
    with pytest.raises(RegistryRefusedError, match=f"answers {DIGEST} where team/app@sha256:0"):
        connect().blob("team/app", "sha256:" + "0" * 64)
    server.otherwise = lambda asked: Answer(404)
    with pytest.raises(RegistryRefusedError, match="404"):
        connect().blob("team/app", DIGEST)


@pytest.mark.parametrize("status", [302, 307])
def test_a_storage_behind_a_redirection_learns_no_password(server: Server, connect: Connect, status: int) -> None:
    storage = Server()
    location = f"http://{storage.host}/bucket/1?signature=x%2Fy"
    server.otherwise = lambda asked: basic_only(asked) if "authorization" not in asked.headers else Answer(status, {"Location": location})
    storage.script = [Answer(503)]
    assert connect(Credentials("me", "secret")).blob("team/app", DIGEST) == BODY
    assert [asked.path for asked in storage.asked] == ["/bucket/1?signature=x%2Fy"] * 2
    assert all("authorization" not in asked.headers for asked in storage.asked)
    storage.close()


def test_a_redirection_on_the_registry_itself(server: Server, connect: Connect) -> None:
    def answer(asked: Asked) -> Answer:
        return basic_only(asked) if asked.path.startswith("/prefix") else Answer(308, {"Location": f"/prefix{asked.path}"})

    server.otherwise = answer
    assert connect(Credentials("me", "secret")).digest(tag(server)) == DIGEST


def test_tags_come_page_after_page(server: Server, connect: Connect) -> None:
    def answer(asked: Asked) -> Answer:
        last = urllib.parse.parse_qs(urllib.parse.urlsplit(asked.path).query).get("last", [""])[0]
        following = {"": "b", "b": "d"}.get(last)
        names = {"": ["a", "b"], "b": ["c", "d"], "d": None}[last]
        link = {"Link": f'</v2/team/app/tags/list?last={following}&n=2>; rel="next"'} if following else {}
        return Answer(200, link, json.dumps({"name": "team/app", "tags": names}).encode())

    server.otherwise = answer
    assert connect().tags("team/app") == ["a", "b", "c", "d"]
    server.otherwise = lambda asked: Answer(404)
    assert connect().tags("team/app") == []
    server.otherwise = lambda asked: Answer(200, body=b"<html>")
    with pytest.raises(RegistryRefusedError, match="no list of tags"):
        connect().tags("team/app")


def test_repositories_come_page_after_page_and_a_registry_may_list_none(server: Server, connect: Connect) -> None:
    def answer(asked: Asked) -> Answer:
        more = {"Link": '</v2/_catalog?last=b&n=2>; rel="next"'} if "last" not in asked.path else {}
        return Answer(200, more, json.dumps({"repositories": ["a", "b"] if more else ["c"]}).encode())

    server.otherwise = answer
    assert connect().repositories() == ["a", "b", "c"]
    for status in (401, 403, 404, 405, 501):
        server.otherwise = lambda asked, status=status: Answer(status)  # type: ignore[misc]
        with pytest.raises(RegistryRefusedError):
            connect().repositories()


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


def test_as_many_connections_as_are_in_use_at_the_same_time(server: Server, connect: Connect) -> None:
    registry = connect()
    together = threading.Barrier(4)

    def answer(asked: Asked) -> Answer:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(5)
        return Answer(200, dict(OK), BODY)

    server.otherwise = answer
    for _ in range(2):
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(lambda number: registry.digest(tag(server)), range(4))) == {DIGEST}
    assert server.connections == 4  # other threads use them again


def test_many_digests_come_in_order_over_few_connections(server: Server, connect: Connect) -> None:
    def answer(asked: Asked) -> Answer:
        name = asked.path.rpartition("/")[2]
        return Answer(404) if name == "t7" else Answer(200, {"Docker-Content-Digest": f"sha256:{name}"})

    server.otherwise = answer
    server.script = [Answer(503), Answer(503)]
    registry = connect()
    expected = ["" if number == 7 else f"sha256:t{number}" for number in range(100)]
    assert registry.digests([tag(server, f"t{number}") for number in range(100)]) == expected
    assert registry.digests([tag(server, "t3")]) == ["sha256:t3"]
    assert registry.digests([]) == []
    assert len(server.asked) == 103
    assert server.connections <= CONNECTIONS + 1


def test_one_refusal_among_many_digests_is_told(server: Server, connect: Connect) -> None:
    server.otherwise = lambda asked: Answer(403 if asked.path.endswith("t5") else 404)
    with pytest.raises(RegistryRefusedError, match="t5: 403"):
        connect().digests([tag(server, f"t{number}") for number in range(10)])


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("localhost", True), ("localhost:5000", True), ("127.0.0.1:5000", True), ("127.1.2.3", True), ("[::1]:5000", True), ("[::1]", True),
        ("127.example.com", False), ("127.0.0.1.example.com:80", False), ("localhost.example", False), ("10.0.0.1:5000", False),
    ],
)  # fmt: skip
def test_only_this_machine_is_spoken_to_in_clear(host: str, plain: bool) -> None:
    assert is_loopback(host) == plain
