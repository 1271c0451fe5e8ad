"""A listener on a real port that misbehaves on purpose, for the real driver: it plays what Oracle's listeners do while they start.

What only a database can say (a refused login, a database that is not open) is a recording of what one said, with the number of
the error replaced; what a listener says it makes itself. In the end it hands everything through to a real database.
"""

from __future__ import annotations

import contextlib
import dataclasses
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.databases.engine import Address

PARTING = 1.0  # seconds for the other side to hang up, too
QUIET = 0.005  # seconds without a byte after which the client is taken to wait for an answer
_REFUSE = 4  # packet type of Oracle Net
_REFUSED_LOGIN = 1017

Recording = tuple[bytes, ...]  # what the server said, answer by answer


@dataclass(frozen=True)
class Case:
    """What is done to each new connection. Without a port open there are none."""

    name: str
    play: Play = dataclasses.field(repr=False)
    open: bool = True

    def __str__(self) -> str:
        return self.name


Play = Callable[["ScriptedListener", socket.socket], None]


class ScriptedListener:
    """Listens on a port of its own and plays `case`; `target` is the database behind it, `login` a recorded refused login."""

    def __init__(self, target: Address, login: Recording = ()) -> None:
        self.target, self.login = target, login
        self.accepted = 0
        self.over = threading.Event()
        self._kept: list[socket.socket] = []
        self._case: Case = REFUSED
        # Bound and not listening: it keeps the port, whose connections are refused until another socket listens there.
        self._place = _reuse(socket.socket())
        self._place.bind(("127.0.0.1", 0))
        self._door: socket.socket | None = None

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self._place.getsockname()[1], self.target.service)

    def play(self, case: Case) -> None:
        """From now on, until told otherwise."""
        self._case = case
        if case.open and self._door is None:
            self._door = _reuse(socket.socket())
            self._door.bind(self._place.getsockname())
            self._door.listen(128)
            threading.Thread(target=self._serve, args=(self._door,), daemon=True).start()
        elif not case.open and self._door is not None:
            door, self._door = self._door, None
            door.shutdown(socket.SHUT_RDWR)
            door.close()

    def close(self) -> None:
        self.over.set()
        self.play(REFUSED)
        self._place.close()
        for connection in self._kept:
            _hang_up(connection)

    def keep(self, connection: socket.socket) -> socket.socket:
        """Close it when all is over; until then nobody else does."""
        self._kept.append(connection)
        return connection

    def _serve(self, door: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = door.accept()
                self.accepted += 1
                case = self._case  # what is begun is played to its end, whatever is played to others by then
                threading.Thread(target=self._play, args=(case, self.keep(connection)), daemon=True).start()

    def _play(self, case: Case, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):  # it was closed by the other side, or because all is over
            case.play(self, connection)


@contextlib.contextmanager
def scripted_listener(target: Address, login: Recording = ()) -> Iterator[ScriptedListener]:
    listener = ScriptedListener(target, login)
    try:
        yield listener
    finally:
        listener.close()


# What it plays


def _close(_listener: ScriptedListener, connection: socket.socket) -> None:
    connection.recv(4096)
    _hang_up(connection)


def _stay_silent(listener: ScriptedListener, _connection: socket.socket) -> None:
    listener.over.wait()


def refusal(code: int) -> Case:
    """A listener that refuses with ORA-`code`, as Oracle's does: two reason bytes, a length, a description."""
    text = f"(DESCRIPTION=(TMP=)(VSNNUM=0)(ERR={code})(ERROR_STACK=(ERROR=(CODE={code})(EMFI=4))))".encode()
    body = struct.pack(">BBH", 0x22, 0, len(text)) + text
    packet = struct.pack(">HHBBH", 8 + len(body), 0, _REFUSE, 0, 0) + body

    def play(_listener: ScriptedListener, connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(packet)
        _part(connection)

    return Case(f"ORA-{code} from the listener", play)


def failing_login(code: int) -> Case:
    """A database that answers a login with ORA-`code`, word for word as it was recorded but for the number."""

    def play(listener: ScriptedListener, connection: socket.socket) -> None:
        for answer in listener.login:
            if not _heard(connection):
                return
            connection.sendall(_renumber(answer, code))
        _part(connection)

    return Case(f"ORA-{code:05} at the login", play)


def _hand_through(listener: ScriptedListener, connection: socket.socket) -> None:
    _relay(listener, connection, lambda said: True)


def _never_answer_the_query(listener: ScriptedListener, connection: socket.socket) -> None:
    _relay(listener, connection, lambda said: b"SELECT 1" not in said)


def slow(seconds: float) -> Case:
    """A database that takes its time over a connection."""

    def play(listener: ScriptedListener, connection: socket.socket) -> None:
        if not listener.over.wait(seconds):
            _hand_through(listener, connection)

    return Case(f"answers after {seconds} s", play)


REFUSED = Case("connection refused", _close, open=False)
CLOSED = Case("accepted and closed", _close)
SILENT = Case("accepted and silent", _stay_silent)
NO_ANSWER = Case("the query is not answered", _never_answer_the_query)
READY = Case("handed through", _hand_through)


# How


def record_login(target: Address, log_in: Callable[[Address], object]) -> Recording:
    """What a database says when it refuses `log_in`."""
    said: list[bytes] = []

    def listen(listener: ScriptedListener, connection: socket.socket) -> None:
        server = listener.keep(socket.create_connection((target.host, target.port)))
        ends = [connection, server]
        while True:
            for end in select.select(ends, [], [])[0]:
                data = end.recv(65536)
                if not data:
                    return
                if end is connection:
                    server.sendall(data)
                    said.append(b"")  # what comes now answers this
                else:
                    connection.sendall(data)
                    said[-1] += data

    with scripted_listener(target) as listener:
        listener.play(Case("recording", listen))
        log_in(listener.address)
    return tuple(answer for answer in said if answer)


def _renumber(answer: bytes, code: int) -> bytes:
    """Another error in the same packet: its number in binary, preceded by its length, and in the text."""
    number = struct.pack(">BH", 2, _REFUSED_LOGIN), struct.pack(">BH", 2, code)
    text = f"ORA-{_REFUSED_LOGIN:05}".encode(), f"ORA-{code:05}".encode()
    return answer.replace(*number).replace(*text) if text[0] in answer else answer


def _relay(listener: ScriptedListener, connection: socket.socket, is_let_through: Callable[[bytes], bool]) -> None:
    """Hand through in both directions, until the client says what is not let through; from then on, stay silent."""
    server = listener.keep(socket.create_connection((listener.target.host, listener.target.port)))
    other = {connection: server, server: connection}
    while True:
        for end in select.select(list(other), [], [])[0]:
            data = end.recv(65536)
            if not data:
                _hang_up(other[end])
                return
            if end is connection and not is_let_through(data):
                listener.over.wait()
                return
            other[end].sendall(data)


def _heard(connection: socket.socket) -> bool:
    """Whether the client said something and now waits; False when it hung up."""
    if not connection.recv(65536):
        return False
    while select.select([connection], [], [], QUIET)[0]:
        if not connection.recv(65536):
            return False
    return True


def _reuse(end: socket.socket) -> socket.socket:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return end


def _part(connection: socket.socket) -> None:
    """Hang up once the other side has heard all: what it sent and nobody read would cut the answer off on its way."""
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(PARTING)
    with contextlib.suppress(OSError):
        while connection.recv(4096):
            pass
    _hang_up(connection)


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
