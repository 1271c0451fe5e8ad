"""Kept-alive HTTP connections to one place, as many as are in use at the same time."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator


class Connections:
    """Lends connections to threads and keeps them open in between; `close` ends all of them."""

    def __init__(self, connect: Callable[[], http.client.HTTPConnection]) -> None:
        self._connect = connect
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._all: list[http.client.HTTPConnection] = []
        self._aborted = threading.Event()

    def take(self) -> http.client.HTTPConnection:
        """A connection that nobody else uses, until it is given back; its `sock` is None while it is not open."""
        if self._aborted.is_set():
            raise ConnectionAbortedError("interrupted")
        try:
            return self._idle.pop()  # the one used last: it is the least likely to have been closed at the other end
        except IndexError:
            connection = self._connect()
            self._all.append(connection)
            return connection

    def give_back(self, connection: http.client.HTTPConnection) -> None:
        """Let others use it; one that broke must have been closed."""
        self._idle.append(connection)

    @contextlib.contextmanager
    def borrow(self) -> Iterator[http.client.HTTPConnection]:
        """A connection for as long as the block lasts."""
        connection = self.take()
        try:
            yield connection
        finally:
            self.give_back(connection)

    def wait(self, seconds: float) -> None:
        """Let time pass; raises ConnectionAbortedError as soon as `abort` is called."""
        if self._aborted.wait(seconds):
            raise ConnectionAbortedError("interrupted")

    def close(self) -> None:
        """Close every connection."""
        for connection in list(self._all):
            connection.close()

    def abort(self) -> None:
        """Break off what every thread waits for, and open no connection any more: the program was interrupted."""
        self._aborted.set()
        for connection in list(self._all):
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)  # closing alone would not wake a thread that reads
