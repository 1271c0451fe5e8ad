"""PostgreSQL's protocol at the edge of the process: servers that misbehave. The real one is asked in tests/engine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters.postgres_driver import LoginFailure, PostgresDriver


@contextlib.contextmanager
def server(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError), listening.accept()[0] as connection:
                connection.recv(1000)
                behave(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
    thread.join(timeout=5)


def log_in(port: int, patience: float = 5.0) -> LoginFailure:
    failure = asyncio.run(PostgresDriver().try_login("127.0.0.1", port, "app", "secret", "app", "SELECT 1", patience))
    assert failure is not None
    return failure


def message(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack(">I", len(payload) + 4) + payload


def refusal(code: str) -> bytes:
    return message(b"E", f"SFATAL\0C{code}\0Mthe reason\0\0".encode())


def _wait(over: threading.Event) -> None:
    over.wait(30)


@pytest.mark.parametrize("code", ["57P03", "28P01", "3D000"])
def test_a_refusal_says_its_code(code: str) -> None:
    with server(lambda connection: connection.sendall(refusal(code))) as port:
        failure = log_in(port)
    assert (failure.code, failure.message, failure.answered, failure.logged_in) == (code, f"{code} the reason", True, False)


def test_a_port_where_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    failure = log_in(port)
    assert not failure.connected
    assert failure.message.endswith("failed: Connection refused")


def test_a_connection_that_is_accepted_and_closed() -> None:
    with server(lambda _connection: None) as port:
        failure = log_in(port)
    assert (failure.connected, failure.answered) == (True, False)
    assert "accepted and closed" in failure.message


def test_a_server_that_stays_silent_is_given_up() -> None:
    over = threading.Event()
    with server(lambda _connection: _wait(over)) as port:
        failure = log_in(port, patience=0.2)
        over.set()
    assert "the login was not answered for 0.2 s" in failure.message


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 20, b"SSH-2.0-OpenSSH\r\n"])
def test_something_else_on_the_port_is_told(said: bytes) -> None:
    with server(lambda connection: connection.sendall(said)) as port:
        failure = log_in(port)
    assert not failure.answered
    assert not failure.logged_in


def test_a_login_of_an_unknown_kind_is_told() -> None:
    with server(lambda connection: connection.sendall(message(b"R", struct.pack(">I", 7)))) as port:
        assert "a login of kind 7" in log_in(port).message


def test_a_server_that_does_not_know_the_password_is_not_believed() -> None:
    def pretend(connection: socket.socket) -> None:
        connection.sendall(message(b"R", struct.pack(">I", 10) + b"SCRAM-SHA-256\0\0"))
        nonce = connection.recv(1000).rpartition(b"r=")[2].decode()
        connection.sendall(message(b"R", struct.pack(">I", 11) + f"r={nonce}more,s=c2FsdA==,i=4096".encode()))
        connection.recv(1000)
        connection.sendall(message(b"R", struct.pack(">I", 12) + b"v=" + b"A" * 43 + b"="))
        connection.recv(1000)

    with server(pretend) as port:
        assert "does not know the password" in log_in(port).message


def test_a_query_that_is_not_answered_is_told_from_a_login() -> None:
    over = threading.Event()

    def let_in(connection: socket.socket) -> None:
        connection.sendall(message(b"R", struct.pack(">I", 0)) + message(b"Z", b"I"))
        over.wait(30)

    with server(let_in) as port:
        failure = log_in(port, patience=0.3)
        over.set()
    assert failure.logged_in
    assert "the query was not answered" in failure.message


MESSAGES = st.tuples(st.sampled_from([b"R", b"E", b"Z", b"N", b"D", b"S", b"v", b"?"]), st.binary(max_size=40)).map(
    lambda parts: message(*parts)
)
LOGINS = st.tuples(
    st.sampled_from([0, 3, 5, 10, 11, 12]), st.binary(max_size=40) | st.just(b"SCRAM-SHA-256\0\0") | st.just(b"r=x,s=!,i=\xb2")
).map(lambda parts: message(b"R", struct.pack(">I", parts[0]) + parts[1]))


@settings(max_examples=150, deadline=None)
@given(st.lists(MESSAGES | LOGINS | st.binary(max_size=20), max_size=6).map(b"".join))
def test_whatever_a_server_says_is_an_answer_and_no_accident(said: bytes) -> None:
    def speak(connection: socket.socket) -> None:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1000):
            pass

    with server(speak) as port:
        failure = asyncio.run(PostgresDriver().try_login("127.0.0.1", port, "app", "secret", "app", "SELECT 1", 5.0))
    assert failure is None or failure.message
    assert failure is not None or b"D" in said
