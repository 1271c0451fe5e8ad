"""The real engine behind a TCP port that a test can take away: an engine on another host, or one that dies."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from pipeline.adapters.docker_context import engine_endpoint


class EngineProxy:
    """Hands connections on to the engine's socket."""

    def __init__(self, host: str) -> None:
        self._server = socket.create_server((host, 0))
        self._open: list[socket.socket] = []
        self.address = f"tcp://{host}:{self._server.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Refuse new connections and break those there are."""
        for sock in (self._server, *self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self.connections += 1
                engine = socket.socket(socket.AF_UNIX)
                engine.connect(engine_endpoint().host.removeprefix("unix://"))
                self._open += [client, engine]
                for source, target in ((client, engine), (engine, client)):
                    threading.Thread(target=_relay, args=(source, target), daemon=True).start()


@contextlib.contextmanager
def engine_proxy(host: str = "127.0.0.1") -> Iterator[EngineProxy]:
    proxy = EngineProxy(host)
    try:
        yield proxy
    finally:
        proxy.stop()


def _relay(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
