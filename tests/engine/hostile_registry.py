"""A registry as bad days make it: a real HTTP proxy before a real registry, which it never lies about.

What it lets pass reaches the registry unchanged, and the registry's answer goes back unchanged. The rest is drawn by chance from
a seed (`rate`, `kinds`), or refused by a rule (`refuse`) in the words of a product that refuses so. Every request is noted.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.client
import http.server
import json
import os
import random
import secrets
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

KINDS = ("429", "500", "503", "reset", "lost", "slow", "cut", "expired")
OWN_CLIENT = "pipeline"  # the User-Agent of the pipeline's own requests; any other is the engine's
RETRY_AFTER = 1  # seconds that a 429 asks for
SLOW = 1.0  # seconds that a slow answer takes
_TOKENS = "/hostile/token"
_HOP = frozenset({"transfer-encoding", "connection", "content-length", "keep-alive"})


@dataclass(frozen=True)
class Refusal:
    """A registry's no: its status and what it says."""

    status: int
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)


Rule = Callable[["HostileRegistry", str, str, bytes], Refusal | None]


@dataclass(frozen=True)
class Seen:
    """One request: when by the monotonic clock, from whom, and the fault it met (empty: the registry's own answer)."""

    time: float
    method: str
    path: str
    agent: str
    fault: str
    wait: float = 0.0  # seconds that were asked for with Retry-After

    @property
    def is_own(self) -> bool:
        return self.agent.startswith(OWN_CLIENT)


class HostileRegistry(http.server.ThreadingHTTPServer):
    """The proxy before the registry at `target`; `host` is its own address."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, target: str, seed: int = 0, rate: float = 0.0, kinds: Sequence[str] = KINDS, refuse: Rule = lambda *_: None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.host = f"127.0.0.1:{self.server_address[1]}"
        self.rate = rate
        self.kinds = kinds
        self.refuse = refuse
        self.seen: list[Seen] = []
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._tokens: set[str] = set()
        self._local = threading.local()

    def enter(self, handler: _Handler) -> None:
        """This thread answers a request from now on."""
        self._local.handler = handler

    def is_own_request(self) -> bool:
        """For a rule: whether the request comes from the pipeline itself, and not from the engine."""
        return str(self._local.handler.headers.get("User-Agent", "")).startswith(OWN_CLIENT)

    def client_is_gone(self) -> bool:
        """For a rule: whether who asked has closed the connection meanwhile."""
        connection = self._local.handler.connection
        if not select.select([connection], [], [], 0)[0]:
            return False
        try:
            return not connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    @property
    def faults(self) -> Counter[str]:
        """How often each kind was met."""
        return Counter(seen.fault for seen in list(self.seen) if seen.fault)

    def asked(self, method: str, part: str = "") -> list[Seen]:
        """The requests of a method whose path holds `part`."""
        return [seen for seen in list(self.seen) if seen.method == method and part in seen.path]

    def draw(self) -> tuple[str, float]:
        """The fault that the next request meets, and a number between 0 and 1 for its details."""
        with self._lock:
            hit, kind, detail = self._random.random() < self.rate, self._random.choice(self.kinds), self._random.random()
        return kind if hit else "", detail

    def new_token(self) -> str:
        token = secrets.token_urlsafe(16)
        self._tokens.add(token)
        return token

    def forget_token(self, authorization: str) -> bool:
        """Let a token expire; false where it was not one."""
        token = authorization.removeprefix("Bearer ")
        with self._lock:
            known = token in self._tokens
            self._tokens.discard(token)
        return known

    def knows_token(self, authorization: str) -> bool:
        return authorization.removeprefix("Bearer ") in self._tokens

    def handle_error(self, *_: Any) -> None:
        pass  # a client that hung up


@contextlib.contextmanager
def hostile_registry(target: str, **options: Any) -> Iterator[HostileRegistry]:
    """A proxy before the registry at `target` (HOST:PORT) for as long as the block lasts."""
    with HostileRegistry(target, **options) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HostileRegistry
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.1"  # so that a TLS handshake is answered with "HTTP/": engines try TLS first, and know it by that
    disable_nagle_algorithm = True
    timeout = 60

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _handle(self) -> None:
        self.server.enter(self)
        body = self._body()
        if refusal := self.server.refuse(self.server, self.command, self.path, body):
            self._note("refused")
            said = {"Content-Type": "application/json", **refusal.headers}
            return self._answer(refusal.status, said, refusal.body.replace("HOST", self.server.host).encode())
        fault, detail = self.server.draw()
        if fault == "expired" and self.path.startswith(_TOKENS):
            fault = "503"
        if fault in ("429", "500", "503"):
            return self._busy(int(fault), detail)
        if fault == "expired":
            return self._expired()
        if fault == "reset":
            self._note(fault)
            return self._hang_up()
        if self.path.startswith(_TOKENS):
            answer = (200, [("Content-Type", "application/json")], json.dumps({"token": self.server.new_token()}).encode())
        elif self.headers.get("Authorization", "").startswith("Bearer ") and not self.server.knows_token(self.headers["Authorization"]):
            return self._expired(note="")  # it has expired indeed, whoever asks now
        else:
            try:
                answer = self._forward(body)
            except (OSError, http.client.HTTPException):
                self._note("gone")
                return self._hang_up()  # the registry itself is not there
        self._note(fault)
        status, headers, content = answer
        if fault == "lost":  # done, and nobody is told
            return self._hang_up()
        head = self._head(status, headers, len(content))
        if self.command == "HEAD":
            content = b""
        if fault == "cut":
            whole = head + content
            self.wfile.write(whole[: len(head) + len(content) // 2] if content else head[: len(head) // 2])
            self.close_connection = True
            return None
        if fault == "slow":
            return self._drip(head + content)
        self.wfile.write(head + content)
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _handle

    def _note(self, fault: str, wait: float = 0.0) -> None:
        self.server.seen.append(Seen(time.monotonic(), self.command, self.path, self.headers.get("User-Agent", ""), fault, wait))

    def _busy(self, status: int, detail: float) -> None:
        headers = {"Content-Type": "application/json"}
        body = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"too many requests"}]}' if status == 429 else b""
        wait = 0.0
        if status == 429 or (status == 503 and detail < 0.3):
            wait = RETRY_AFTER
            headers["Retry-After"] = str(RETRY_AFTER)
            if detail < 0.5:  # as a date, which has whole seconds only: the next one that begins after the wait
                due = int(time.time()) + 1 + RETRY_AFTER
                headers["Retry-After"] = email.utils.formatdate(due, usegmt=True)
        if status == 503 or (status == 500 and detail < 0.5):  # not the registry itself, but a proxy before it
            headers["Content-Type"] = "text/html"
            body = f"<html><body><h1>{status} {http.client.responses[status]}</h1></body></html>".encode()
        self._note(str(status), wait)
        self._answer(status, headers, body)

    def _expired(self, note: str = "expired") -> None:
        """The token that was sent holds no more, or there was none: a new one is to be had."""
        known = self.server.forget_token(self.headers.get("Authorization", ""))
        scope = self.path.removeprefix("/v2/").partition("/manifests/")[0].partition("/blobs/")[0]
        challenge = f'Bearer realm="http://{self.server.host}{_TOKENS}",service="hostile",scope="repository:{scope}:pull,push"'
        challenge += ',error="invalid_token"' if known or "Authorization" in self.headers else ""
        self._note(note)
        body = b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}'
        self._answer(401, {"Content-Type": "application/json", "WWW-Authenticate": challenge}, body)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.target)
        try:
            # The Host header goes along: the registry makes the addresses of uploads from it.
            kept_headers = {name for name in self.headers if name.lower() not in _HOP | {"authorization"}}
            headers = {name: ", ".join(self.headers.get_all(name, [])) for name in kept_headers}  # engines send Accept several times
            if body or self.command in ("POST", "PUT", "PATCH"):
                headers["Content-Length"] = str(len(body))
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        kept = [
            (name, value.replace(self.server.target, self.server.host) if name.lower() == "location" else value)
            for name, value in answer.getheaders()
            if name.lower() not in _HOP
        ]
        if self.command == "HEAD" and "Content-Length" in answer.headers:
            kept.append(("Content-Length", answer.headers["Content-Length"]))
        return answer.status, kept, content

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.wfile.write(self._head(status, list(headers.items()), len(body)) + (b"" if self.command == "HEAD" else body))

    def _head(self, status: int, headers: Sequence[tuple[str, str]], length: int) -> bytes:
        lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, '')}", *(f"{name}: {value}" for name, value in headers)]
        if status not in (204, 304) and not any(name.lower() == "content-length" for name, _ in headers):
            lines.append(f"Content-Length: {length}")
        return "\r\n".join([*lines, "\r\n"]).encode("latin-1")

    def _drip(self, answer: bytes) -> None:
        steps = 10
        size = max(len(answer) // steps, 1)
        for start in range(0, len(answer), size):
            self.wfile.write(answer[start : start + size])
            time.sleep(SLOW / steps)  # this is what slow means

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            pass  # answered by http.server
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = bytearray()
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(body)

    def _hang_up(self) -> None:
        """Reset the connection rather than close it."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())  # closing it would wait for the files made of it, and say goodbye first


def no_overwriting(status: int, body: str) -> Rule:
    """No tag gets another digest than it has."""

    def rule(proxy: HostileRegistry, method: str, path: str, content: bytes) -> Refusal | None:
        if method != "PUT" or "/manifests/" not in path or "/manifests/sha256:" in path:
            return None
        connection = http.client.HTTPConnection(proxy.target)
        try:
            connection.request("GET", path, headers={"Accept": "*/*, application/vnd.oci.image.manifest.v1+json, " + _DOCKER_TYPES})
            answer = connection.getresponse()
            there = answer.read()
        finally:
            connection.close()
        is_other = answer.status == 200 and hashlib.sha256(there).digest() != hashlib.sha256(content).digest()
        return Refusal(status, body) if is_other else None

    return rule


_DOCKER_TYPES = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json"


def no_writing(status: int, body: str, headers: Mapping[str, str] | None = None, part: str = "") -> Rule:
    """No PUT, POST or PATCH of a path that holds `part`."""

    def rule(proxy: HostileRegistry, method: str, path: str, content: bytes) -> Refusal | None:
        return Refusal(status, body, headers or {}) if method in ("PUT", "POST", "PATCH") and part in path else None

    return rule


def says(code: str, message: str) -> str:
    """A refusal's body as the distribution specification wants it."""
    return json.dumps({"errors": [{"code": code, "message": message}]})
