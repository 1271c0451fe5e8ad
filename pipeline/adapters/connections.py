"""Kept-alive HTTP connections to one place, one a thread."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable


class Connections:
    """Gives each thread a connection of its own, opened on first use; `close` ends all of them."""

    def __init__(self, connect: Callable[[], http.client.HTTPConnection]) -> None:
        self._connect = connect
        self._local = threading.local()
        self._all: list[http.client.HTTPConnection] = []
        self._aborted = False

    def get(self) -> http.client.HTTPConnection:
        """This thread's connection; its `sock` is None while it is not open."""
        if self._aborted:
            raise ConnectionAbortedError("interrupted")
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
            self._all.append(connection)
        return connection

    def close(self) -> None:
        """Close every thread's connection."""
        for connection in self._all:
            connection.close()

    def abort(self) -> None:
        """Break off what every thread waits for, and open no connection any more: the program was interrupted."""
        self._aborted = True
        for connection in self._all:
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)  # closing alone would not wake a thread that reads
