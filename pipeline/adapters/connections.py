"""Kept-alive HTTP connections to one place, one a thread."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable


class Connections:
    """Gives each thread a connection of its own, opened on first use; `close` ends all of them."""

    def __init__(self, connect: Callable[[], http.client.HTTPConnection]) -> None:
        self._connect = connect
        self._local = threading.local()
        self._all: list[http.client.HTTPConnection] = []

    def get(self) -> http.client.HTTPConnection:
        """This thread's connection; its `sock` is None while it is not open."""
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
            self._all.append(connection)
        return connection

    def close(self) -> None:
        """Close every thread's connection."""
        for connection in self._all:
            connection.close()
