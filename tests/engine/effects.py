"""What a run changes in the outside world, seen as it passes: proxies before the engine and a registry, and a watch on files.

Every request that changes something, and every change below `.pipeline/`, is an effect. A test may look at them, hold them
until another publisher is as far, or end the process just before or just after one of them.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.adapters.docker_context import engine_endpoint

Side = Literal["before", "after"]


class Effect(NamedTuple):
    """`what` it is without anything that differs from run to run, and its number among those of a run that are the same."""

    place: str  # engine, registry or files
    what: str
    number: int

    def __str__(self) -> str:
        return f"{self.place}: {self.what} #{self.number}"


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]  # names in lower case

    @property
    def is_change(self) -> bool:
        return self.method not in ("GET", "HEAD", "OPTIONS")

    @property
    def is_ours(self) -> bool:
        """Whether the pipeline's own process sent it; else buildx or the engine did, which go on when that process is killed."""
        return self.headers.get("user-agent", "pipeline") == "pipeline"


class Dropped(Exception):  # noqa: N818 - no error: the request's sender is dead
    """The request is not handed on."""


class Effects:
    """The effects of one run after the other.

    `meet` is called with each of them, before and after it takes place; `over` once nothing more comes of it, whether it took
    place or its sender died while it was on its way.
    """

    def __init__(self) -> None:
        self.meet: Callable[[Effect, Side, Request], None] = lambda *_: None
        self.over: Callable[[Effect], None] = lambda _: None
        self._seen: list[Effect] = []
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Forget what was seen: another run begins."""
        with self._lock:
            self._seen, self._counts = [], Counter()

    @property
    def seen(self) -> list[Effect]:
        with self._lock:
            return list(self._seen)

    def note(self, place: str, what: str) -> Effect:
        with self._lock:
            self._counts[place, what] += 1
            effect = Effect(place, what, self._counts[place, what])
            self._seen.append(effect)
            return effect


_FRAMED = {"content-length", "transfer-encoding"}  # headers of a body that ends before its connection does
_VARYING = (
    (re.compile(r"^/v[0-9.]+/"), "/"),
    (re.compile(r"%[0-9A-Fa-f]{2}"), lambda found: bytes.fromhex(found[0][1:]).decode("latin-1")),
    (re.compile(r"127\.0\.0\.1:\d+/"), ""),
    (re.compile(r"(/blobs/uploads/)([0-9a-f-]{36})?\?.*digest=.*"), r"\1ID?digest"),
    (re.compile(r"/blobs/uploads/\?.*mount=.*"), "/blobs/uploads/?mount"),
    (re.compile(r"/blobs/uploads/[0-9a-f-]{36}.*"), "/blobs/uploads/ID"),
    (re.compile(r"[0-9a-f]{64}"), "DIGEST"),
    (re.compile(r"content-[0-9a-f]{32}"), "content-CONTENT"),
    (re.compile(r"-[0-9a-f]{12}\b"), "-COMMIT"),
    (re.compile(r"(?<=[?&]name=)[^&]*"), "NAME"),  # of a container
    (re.compile(r"\btest-[0-9a-f]{8}/"), ""),  # the namespace of a test's project
)


def describe(method: str, path: str) -> str:
    """A request in words that are the same in each run."""
    for pattern, replacement in _VARYING:
        path = pattern.sub(replacement, path)
    return f"{method} {path}"


class HttpProxy:
    """Hands HTTP on, one connection for one, and notes the effects. `address`: HOST:PORT."""

    def __init__(self, place: str, connect: Callable[[], socket.socket], effects: Effects) -> None:
        self._place, self._connect, self._effects = place, connect, effects
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._open: set[socket.socket] = set()
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for sock in (self._server, *list(self._open)):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._handle, args=(client,), daemon=True).start()

    def _handle(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, ValueError, Dropped), self._connect() as upstream:
            self._open |= {client, upstream}
            for sock in (client, upstream):
                if sock.family == socket.AF_INET:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # head and body are sent one after the other
            try:
                with client.makefile("rb") as requests, upstream.makefile("rb") as answers:
                    while self._exchange(client, requests, upstream, answers):
                        pass
            finally:
                self._open -= {client, upstream}

    def _exchange(self, client: socket.socket, requests: io.BufferedReader, upstream: socket.socket, answers: io.BufferedReader) -> bool:
        """One request and its answer; whether another one may follow."""
        if requests.peek(1)[:1] == b"\x16":  # a TLS handshake: engines try that first, and know by "HTTP/" that it is not spoken here
            requests.read1(1 << 16)  # else the connection would be reset, and the answer with it
            client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return False
        start = requests.readline(1 << 16)
        head = _read_head(start, requests)
        if not head:
            return False
        method, path, _ = start.decode("latin-1").split(maxsplit=2)
        request = Request(method, path, _headers(head))
        effect = self._effects.note(self._place, describe(method, path)) if request.is_change else None
        try:
            return self._hand_on(client, requests, upstream, answers, request, head, effect)
        finally:
            if effect:
                self._effects.over(effect)

    def _hand_on(
        self,
        client: socket.socket,
        requests: io.BufferedReader,
        upstream: socket.socket,
        answers: io.BufferedReader,
        request: Request,
        head: bytes,
        effect: Effect | None,
    ) -> bool:
        if effect:
            self._effects.meet(effect, "before", request)
        upstream.sendall(head)
        if "upgrade" not in request.headers:
            _copy_body(requests, upstream.sendall, request.headers, bool(_FRAMED & request.headers.keys()))
        while True:
            start = answers.readline(1 << 16)
            head = _read_head(start, answers)
            if not head:
                return False
            status, headers = int(start.split()[1]), _headers(head)
            if status >= 200 or status == 101:
                break
            client.sendall(head)
        if status == 101 or "upgrade" in headers:
            client.sendall(head)
            _copy_both(client, requests, upstream, answers)
            if effect:
                self._effects.meet(effect, "after", request)
            return False
        has_body = request.method != "HEAD" and status not in (204, 304)
        if effect is None:
            client.sendall(head)
            _copy_body(answers, client.sendall, headers, has_body)
        else:  # held back until it is there as a whole: it has taken place, and its sender does not know yet
            answer = io.BytesIO()
            _copy_body(answers, answer.write, headers, has_body)
            self._effects.meet(effect, "after", request)
            client.sendall(head + answer.getvalue())
        ends = "close" in (headers.get("connection", "").lower(), request.headers.get("connection", "").lower())
        return not ends and (not has_body or bool(_FRAMED & headers.keys()))


@contextlib.contextmanager
def engine_effects(effects: Effects) -> Iterator[HttpProxy]:
    """A proxy before the engine under test; `tcp://ADDRESS` is a DOCKER_HOST."""
    path = engine_endpoint().host.removeprefix("unix://")

    def connect() -> socket.socket:
        engine = socket.socket(socket.AF_UNIX)
        engine.connect(path)
        return engine

    yield from _open("engine", connect, effects)


@contextlib.contextmanager
def registry_effects(host: str, effects: Effects) -> Iterator[HttpProxy]:
    """A proxy before the registry at `host`."""
    name, _, port = host.rpartition(":")
    yield from _open("registry", lambda: socket.create_connection((name, int(port))), effects)


def _open(place: str, connect: Callable[[], socket.socket], effects: Effects) -> Iterator[HttpProxy]:
    proxy = HttpProxy(place, connect, effects)
    try:
        yield proxy
    finally:
        proxy.close()


# Python runs this first in every process whose PYTHONPATH leads to it. It sees what the process does with files before it is
# done (an audit hook), notes it, and ends the process there where that was ordered; "after" is seen from another thread.
_WATCH = """
import collections, os, re, signal, sys, threading
top, log = os.path.join(os.getcwd(), ".pipeline"), os.environ["EFFECTS_LOG"]
order, counts, lock = os.environ.get("EFFECTS_KILL", ""), collections.Counter(), threading.Lock()
pending = []

def end():
    os.kill(os.getpid(), signal.SIGKILL)

def end_when(path, there):
    while os.path.lexists(path) != there:
        pass
    end()

def hook(event, arguments):
    if event == "os.kill":
        return
    for path, there in pending:  # what lasts for microseconds only would be over before the thread has its turn
        if os.path.lexists(path) == there:
            end()
    if event == "open":
        path, flags, there = arguments[0], arguments[2], True
        if not isinstance(path, str) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
    elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
        path, there = arguments[0], event == "os.mkdir"
    else:
        return
    path = os.path.abspath(os.fspath(path))
    if not isinstance(path, str) or not path.startswith(top):
        return
    name = re.sub(r"itest-[0-9a-f]{12}", "itest-KEY", os.path.relpath(path, top))
    name = re.sub(r"tmp[a-z0-9_]{8}", "TMP", re.sub(r"[0-9]{2,}", "N", name))
    what = event.removeprefix("os.") + " " + name
    with lock:
        counts[what] += 1
        what = f"{what} #{counts[what]}"
        with open(log, "a") as file:
            file.write(what + "\\n")
        if order == "before " + what:
            end()
        if order == "after " + what:
            pending.append((path, there))
            threading.Thread(target=end_when, args=(path, there), daemon=True).start()

sys.addaudithook(hook)
"""


class FileEffects:
    """What processes change below `.pipeline/` of the folder they run in; `environment` is to be given to them."""

    def __init__(self, folder: Path) -> None:
        (folder / "sitecustomize.py").write_text(_WATCH)
        self._log = folder / "log"
        path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment = {"PYTHONPATH": os.pathsep.join(path), "EFFECTS_LOG": str(self._log)}
        self.begin()

    def begin(self) -> None:
        self._log.write_text("")

    @property
    def seen(self) -> list[Effect]:
        lines = [line.rpartition(" #") for line in self._log.read_text().splitlines()]
        return [Effect("files", what, int(number)) for what, _, number in lines]

    def environment(self, effect: Effect | None = None, side: Side = "before") -> dict[str, str]:
        """For a process that is watched, and ended at `effect` where one is given."""
        return {**self._environment, "EFFECTS_KILL": f"{side} {effect.what} #{effect.number}" if effect else ""}


def kill_at(target: Effect, side: Side, pid: Callable[[], int]) -> Callable[[Effect, Side, Request], None]:
    """A `meet` that kills a process at one side of an effect. What the dead process had not sent yet is never sent."""
    killed = threading.Event()

    def meet(effect: Effect, now: Side, request: Request) -> None:
        if effect == target and now == side and not killed.is_set():
            killed.set()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid(), signal.SIGKILL)
        if killed.is_set() and request.is_ours and now == "before":
            raise Dropped

    return meet


def _read_head(start: bytes, stream: io.BufferedReader) -> bytes:
    """The lines up to the empty one; empty where the connection ended."""
    lines = [start]
    while lines[-1] not in (b"\r\n", b""):
        lines.append(stream.readline(1 << 16))
    return b"".join(lines) if lines[-1] else b""


def _headers(head: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
    return {name.strip().lower(): value.strip() for name, _, value in pairs if name}


def _copy_body(source: io.BufferedReader, write: Callable[[bytes], object], headers: dict[str, str], has_body: bool) -> None:
    """One without a length goes on until the connection ends."""
    if has_body and "chunked" in headers.get("transfer-encoding", ""):
        size = -1
        while size:
            line = source.readline(1 << 16)
            size = int(line.partition(b";")[0], 16)
            write(line + source.read(size + 2))
    elif has_body:
        left = int(headers.get("content-length", 1 << 62))
        while left and (data := source.read1(min(left, 1 << 16))):
            write(data)
            left -= len(data)
        if left and "content-length" in headers:
            raise ValueError("cut off: the other side is to see that, too")


def _copy_both(client: socket.socket, requests: io.BufferedReader, upstream: socket.socket, answers: io.BufferedReader) -> None:
    def copy(source: io.BufferedReader, target: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := source.read1(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    back = threading.Thread(target=copy, args=(answers, client), daemon=True)
    back.start()
    copy(requests, upstream)
    back.join()
