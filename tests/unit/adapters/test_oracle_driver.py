"""What logins come to, against real sockets that misbehave as Oracle's listeners do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pipeline.adapters.oracle_driver import LoginFailure, OracleDriver

Peer = Callable[[socket.socket], None]
_REFUSE = 4  # packet type of Oracle Net


@contextlib.contextmanager
def listener(peer: Peer) -> Iterator[int]:
    """A server on loopback whose every connection is handed to `peer`; its port."""
    server = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                kept.append(connection)
                peer(connection)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        for connection in kept:
            connection.close()


def refuse_with(code: int) -> Peer:
    def peer(connection: socket.socket) -> None:
        connection.recv(4096)
        text = f"(DESCRIPTION=(TMP=)(VSNNUM=0)(ERR={code})(ERROR_STACK=(ERROR=(CODE={code})(EMFI=4))))".encode()
        body = struct.pack(">BBH", 0, 0, len(text)) + text
        connection.sendall(struct.pack(">HHBBH", 8 + len(body), 0, _REFUSE, 0, 0) + body)

    return peer


def close_at_once(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.close()


def stay_silent(_connection: socket.socket) -> None:
    """A listener that accepts and never says a word."""


def log_in(port: int, patience: float = 5.0) -> LoginFailure:
    failure = asyncio.run(OracleDriver().try_login(f"127.0.0.1:{port}/FREEPDB1", "app", "secret", "SELECT 1 FROM DUAL", patience))
    assert failure is not None
    return failure


def test_a_silent_listener_does_not_hold_us_longer_than_our_patience() -> None:
    began = time.monotonic()
    with listener(stay_silent) as port:
        failure = log_in(port, patience=0.3)
    assert "the login was not answered for 0.3 s" in failure.message
    assert time.monotonic() - began < 1.5


def test_a_closed_port_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "111" in log_in(port).message


def test_a_connection_that_is_closed_at_once_is_a_failure_of_its_own() -> None:
    with listener(close_at_once) as port:
        assert "DPY-4011" in log_in(port).codes


@pytest.mark.parametrize(("code", "inner"), [(12514, "DPY-6001"), (12505, "DPY-6003"), (12528, "DPY-6000")])
def test_a_listener_s_refusal_is_found_in_the_causes(code: int, inner: str) -> None:
    with listener(refuse_with(code)) as port:
        failure = log_in(port)
    assert failure.codes[0] == "DPY-6005"
    assert inner in failure.codes
    assert inner in failure.message
