"""TLS with registries: whom is trusted, and what happens on this very machine."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.adapters import registry_transport as module
from pipeline.adapters.connections import Connections
from pipeline.adapters.credentials import Credentials
from pipeline.adapters.registry import Registry
from pipeline.errors import RegistryUnreachableError
from pipeline.reference import Reference
from tests.certificates import Identity, issue, make_authority

DIGEST = "sha256:" + "a" * 64
OK = f"HTTP/1.1 200 OK\r\nDocker-Content-Digest: {DIGEST}\r\nContent-Length: 0\r\n\r\n"
COMPLAINT = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"


class TlsServer:
    """Answers every request over TLS alike; in clear, with `complaint`, or by closing where that is empty."""

    def __init__(self, context: ssl.SSLContext, complaint: str = COMPLAINT, answer: str = OK) -> None:
        self._context, self._complaint, self._answer = context, complaint, answer
        self.peers: list[object] = []  # the certificates that clients showed
        self.in_clear = 0
        self.waits = False  # a complaint, but the first one, until a request came over TLS
        self._asked = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            if client.recv(1, socket.MSG_PEEK) != b"\x16":  # a TLS handshake record
                self.in_clear += 1
                is_first = self.in_clear == 1
                client.recv(65536)
                if self.waits and not is_first:
                    self._asked.wait(5)
                client.sendall(self._complaint.encode())
                return
            with self._context.wrap_socket(client, server_side=True) as secure:
                self.peers.append(secure.getpeercert())
                while secure.recv(65536):
                    self._asked.set()
                    secure.sendall(self._answer.encode())


@pytest.fixture(scope="module")
def authority() -> Identity:
    return make_authority("Company CA")


def server_context(authority: Identity, folder: Path) -> ssl.SSLContext:
    identity = issue(authority, "registry", ["127.0.0.1"])
    save(identity, folder / "server.cert")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.cert", folder / "server.key")
    return context


def save(identity: Identity, path: Path) -> None:
    path.write_bytes(identity.certificate_pem)
    path.with_suffix(".key").write_bytes(identity.key_pem)


Serve = Callable[..., TlsServer]


@pytest.fixture
def serve(authority: Identity, tmp_path: Path) -> Iterator[Serve]:
    made: list[TlsServer] = []

    def start(**options: str) -> TlsServer:
        made.append(TlsServer(server_context(authority, tmp_path), **options))
        return made[-1]

    yield start
    for server in made:
        server.close()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """127.0.0.1 counts as another machine; the folder that stands for /etc/docker/certs.d."""
    monkeypatch.setattr(module, "is_loopback", lambda _host: False)
    monkeypatch.setattr(module, "CERTIFICATES", tmp_path / "certs.d")
    monkeypatch.setattr(Connections, "wait", lambda connections, seconds: pytest.fail("asked again"))
    return tmp_path / "certs.d"


def digest(host: str, credentials: Credentials | None = None) -> str:
    with contextlib.closing(Registry(host, lambda _host: credentials)) as registry:
        return registry.digest(Reference(host, "team/app", "main"))


@pytest.mark.parametrize("complaint", [COMPLAINT, "\x15\x03\x01\x00\x02\x02\x46", ""], ids=["400", "alert", "close"])
def test_a_registry_on_this_machine_may_speak_tls_with_any_certificate(serve: Serve, complaint: str) -> None:
    server = serve(complaint=complaint)
    with contextlib.closing(Registry(server.host, lambda _host: None)) as registry:
        reference = Reference(server.host, "team/app", "main")
        assert [registry.digest(reference) for _ in range(3)] == [DIGEST] * 3
    assert server.in_clear == 1


def test_many_threads_find_out_at_the_same_time(serve: Serve) -> None:
    server = serve()
    server.waits = True  # so that most threads have asked in clear while one has found out
    with contextlib.closing(Registry(server.host, lambda _host: None)) as registry, ThreadPoolExecutor(8) as pool:
        references = [Reference(server.host, "team/app", f"tag-{number}") for number in range(32)]
        assert set(pool.map(registry.digest, references)) == {DIGEST}


@pytest.mark.parametrize("name", ["ca.crt", "company-root.crt"])
def test_the_authority_of_one_registry_lies_in_its_folder(serve: Serve, elsewhere: Path, authority: Identity, name: str) -> None:
    server = serve()
    with pytest.raises(RegistryUnreachableError, match="a certificate that is not trusted") as caught:
        digest(server.host)
    assert f"{elsewhere}/{server.host}/ca.crt" in caught.value.hint
    folder = elsewhere / server.host
    folder.mkdir(parents=True)
    (folder / name).write_bytes(authority.certificate_pem)
    assert digest(server.host) == DIGEST


def test_an_authority_in_ssl_cert_file(
    serve: Serve, elsewhere: Path, authority: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "company.crt").write_bytes(authority.certificate_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "company.crt"))
    assert digest(serve().host) == DIGEST


def test_a_certificate_of_ones_own_is_shown(elsewhere: Path, authority: Identity, tmp_path: Path) -> None:
    context = server_context(authority, tmp_path)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.certificate_pem.decode())
    server = TlsServer(context)
    folder = elsewhere / server.host
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes(authority.certificate_pem)
    save(issue(authority, "build-agent"), folder / "client.cert")
    assert digest(server.host) == DIGEST
    assert "build-agent" in str(server.peers)
    server.close()


def test_a_file_that_is_no_certificate_is_named(serve: Serve, elsewhere: Path) -> None:
    server = serve()
    folder = elsewhere / server.host
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_text("no certificate")
    with pytest.raises(RegistryUnreachableError, match=rf"{folder}/ca.crt is no certificate to reach {server.host} with"):
        digest(server.host)


def test_the_token_service_is_trusted_as_the_registry_is(serve: Serve, elsewhere: Path, authority: Identity) -> None:
    token = '{"token": "T"}'
    service = serve(answer=f"HTTP/1.1 200 OK\r\nContent-Length: {len(token)}\r\n\r\n{token}")
    challenge = f'WWW-Authenticate: Bearer realm="https://{service.host}/token",service="x"'
    server = serve(answer=f"HTTP/1.1 401 Unauthorized\r\n{challenge}\r\nContent-Length: 0\r\n\r\n")
    folder = elsewhere / server.host
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes(authority.certificate_pem)
    with pytest.raises(Exception, match="401"):  # this registry is never content, but it has got its token
        digest(server.host, Credentials("me", "secret"))
    assert len(service.peers) == 1


def test_plain_http_on_another_machine_is_refused_at_once(elsewhere: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer() -> None:
            client, _ = plain.accept()
            with client:
                client.recv(65536)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request")

        threading.Thread(target=answer, daemon=True).start()
        host = f"127.0.0.1:{plain.getsockname()[1]}"
        with pytest.raises(RegistryUnreachableError, match=f"the registry {host} does not speak TLS") as caught:
            digest(host)
    assert "certificate" in caught.value.hint
