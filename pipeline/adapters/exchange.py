"""One HTTP/1.1 request and its answer over a connection that is kept (RFC 9112), within a bounded time.

http.client makes the connections. Its answers are bounded between two bytes only, so that one that drips never ends, and
cost three times as much: a run with nothing to do sends hundreds of HEAD requests.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Mapping

import msgspec

SILENCE = 15.0  # seconds without a byte of the answer
ANSWER = 60.0  # seconds for the whole answer
SENDING = 120.0  # seconds for the whole request
_LONGEST_HEAD = 1 << 18  # bytes


class Answer(msgspec.Struct, frozen=True):
    """`headers` by name in lower case; those that came several times in one, separated by commas."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def exchange(connection: http.client.HTTPConnection, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
    """Ask, and read the whole answer; the connection stays open where the server allows it, and is closed after an error.

    Raises OSError (TimeoutError included) or http.client.HTTPException where no whole answer comes.
    """
    try:
        if connection.sock is None:
            connection.connect()
        connected: socket.socket = connection.sock
        reader = _Reader(connected)
        connected.settimeout(SENDING)
        try:
            connected.sendall(_request(connection, method, path, headers, body))
        except (BrokenPipeError, ConnectionResetError):
            if not body:
                raise
            with contextlib.suppress(OSError, http.client.HTTPException):
                return reader.answer(method)  # who refuses a body need not read it to its end
            raise
        reader.deadline = time.monotonic() + ANSWER
        answer = reader.answer(method)
        if not reader.is_kept:
            connection.close()
    except BaseException:
        connection.close()
        raise
    return answer


def _request(connection: http.client.HTTPConnection, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    host = connection.host if ":" not in connection.host else f"[{connection.host}]"
    port = "" if connection.port == connection.default_port else f":{connection.port}"
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}{port}", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None or method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(body or b'')}")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1") + (body or b"")


class _Reader:
    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._data = b""
        self.deadline = time.monotonic() + ANSWER
        self.is_kept = True

    def answer(self, method: str) -> Answer:
        status, headers = self._head()
        while status < 200:  # 100 Continue and its like announce the answer
            status, headers = self._head()
        body = b"" if method == "HEAD" or status in (204, 304) else self._body(headers)
        if self._data or "close" in headers.get("connection", "").lower():
            self.is_kept = False  # what nobody asked for would be taken for the next answer
        return Answer(status, headers, body)

    def _head(self) -> tuple[int, dict[str, str]]:
        while (end := self._data.find(b"\r\n\r\n")) < 0:
            if len(self._data) > _LONGEST_HEAD:
                raise http.client.HTTPException(f"the answer's head is longer than {_LONGEST_HEAD} bytes")
            if self._data[:5] != b"HTTP/"[: len(self._data)]:
                raise http.client.BadStatusLine(repr(self._data[:50]))
            if not self._receive():
                if self._data:
                    raise http.client.IncompleteRead(self._data)
                raise http.client.RemoteDisconnected("the connection was closed without an answer")
        first, *lines = self._data[:end].decode("latin-1").split("\r\n")
        self._data = self._data[end + 4 :]
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdecimal():
            raise http.client.BadStatusLine(first[:50])
        self.is_kept = version != "HTTP/1.0"
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return int(rest[:3]), headers

    def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return b"".join(self._chunks())
        if "content-length" in headers:
            try:
                return self._exactly(int(headers["content-length"]))
            except ValueError as error:
                raise http.client.HTTPException(f"the answer's length is {headers['content-length']!r}") from error
        while self._receive():
            pass
        self.is_kept = False
        found, self._data = self._data, b""
        return found

    def _chunks(self) -> list[bytes]:
        found: list[bytes] = []
        while True:
            try:
                size = int(self._line().partition(b";")[0], 16)
            except ValueError as error:
                raise http.client.HTTPException("a chunk of the answer has no size") from error
            if not size:
                while self._line():
                    pass  # trailers
                return found
            found.append(self._exactly(size))
            self._line()

    def _line(self) -> bytes:
        while (end := self._data.find(b"\r\n")) < 0:
            if len(self._data) > _LONGEST_HEAD or not self._receive():
                raise http.client.IncompleteRead(self._data)
        line, self._data = self._data[:end], self._data[end + 2 :]
        return line

    def _exactly(self, size: int) -> bytes:
        parts, missing = [self._data], size - len(self._data)
        while missing > 0:
            self._data = b""
            if not self._receive():
                raise http.client.IncompleteRead(b"".join(parts), missing)
            parts.append(self._data)
            missing -= len(self._data)
        whole = b"".join(parts)
        self._data = whole[size:]
        return whole[:size]

    def _receive(self) -> bool:
        """More of the answer; false where the connection was closed."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"the answer was not complete after {ANSWER:.0f} s")
        self._socket.settimeout(min(SILENCE, left))
        data = self._socket.recv(1 << 16)
        self._data += data
        return bool(data)
