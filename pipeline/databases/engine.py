"""What a kind of database must offer to be started for a test run, and the values that go with it.

An engine is an object of an ordinary package, found through the entry point group `pipeline.databases` and loaded only
when the configuration names it.
"""

from __future__ import annotations

import enum
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from pipeline.document import nearest
from pipeline.errors import ConfigurationError

ENTRY_POINTS = "pipeline.databases"


@dataclass(frozen=True)
class Password:
    """A password; only `value` shows it."""

    value: str

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


@dataclass(frozen=True)
class Account:
    """A database user who can log in."""

    name: str
    password: Password


@dataclass(frozen=True)
class Address:
    """Where a database is reached from the tests' side."""

    host: str
    port: int
    service: str

    @property
    def host_and_port(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Phase(enum.StrEnum):
    """What a start waits for, in this order."""

    CONTAINER = "container"  # it runs
    PORT = "port"  # a TCP connection is accepted
    LISTENER = "listener"  # what accepts it speaks the database's protocol
    SERVICE = "service"  # it knows the service, and the database behind it is open
    LOGIN = "login"  # it takes the application's user and password
    QUERY = "query"  # a SELECT is answered


@dataclass(frozen=True)
class Answer:
    """What one attempt to log in and to SELECT came to."""

    ready: bool
    reason: str = ""  # why not ready, for people
    refused: bool = False  # user or password were refused; too many of these lock the account
    final: bool = False  # waiting longer cannot help
    phase: Phase = Phase.LOGIN  # the first one that the attempt did not get through


@dataclass(frozen=True)
class Problem:
    """Why a statement failed."""

    message: str
    offset: int = 0  # characters into the statement, where the database said so


@dataclass(frozen=True)
class Statement:
    """One statement of a script."""

    text: str
    line: int  # 1-based, where it begins
    number: int  # 1-based, in its script


@dataclass(frozen=True)
class Probe:
    """Something that applications need of a database: statements that must run, and a query that must then answer `expected`."""

    name: str
    statements: Sequence[str]
    query: str
    expected: str  # the first column of the first row, as text


class Connection(Protocol):
    """A logged-in user."""

    def execute(self, statement: str) -> Problem | None:
        """Run one statement; why it failed, or None."""

    def commit(self) -> Problem | None:
        """Commit what was run; why it failed, or None."""

    def close(self) -> None:
        """Log out; never raises."""


class DatabaseEngine(Protocol):
    """A kind of database: the protocol it speaks and its SQL. What its container images want is a contract (see contract.py)."""

    @property
    def default_contract(self) -> str:
        """The name of the contract that is meant where none is named."""

    @property
    def contracts(self) -> Path:
        """The folder that holds the contracts of this engine's images."""

    @property
    def administrator(self) -> str:
        """The name of the user who may do anything in the tests' service."""

    @property
    def own_users(self) -> Sequence[str]:
        """The database's own users, in lower case, which an application cannot have."""

    @property
    def knock(self) -> bytes:
        """What a listener of this kind answers, in whatever words, without a login; empty where nothing is known."""

    def dsn(self, address: Address) -> str:
        """What the engine's own Python driver takes as address."""

    def jdbc_url(self, address: Address) -> str:
        """What a JDBC driver of this kind takes as address."""

    def split(self, script: str) -> Sequence[Statement]:
        """The statements of a script. Raises ScriptError for what cannot be run statement by statement."""

    async def log_in(self, address: Address, account: Account, patience: float) -> Answer:
        """Log in, SELECT, log out; at most `patience` seconds. A failure is an answer, not an exception."""

    def connect(self, address: Address, account: Account) -> Connection:
        """Log in to a database that is ready. Raises PreparationError."""


@runtime_checkable
class OpenEngine(DatabaseEngine, Protocol):
    """A kind of database that hands out connections of a driver: for `invoke db.shell`, the suite of `db.verify` and the fixtures."""

    def open(self, address: Address, account: Account) -> Any:
        """An open connection of the kind's own driver, as PEP 249 has it. Raises PreparationError."""

    @property
    def error(self) -> type[Exception]:
        """What that driver raises."""


class PlainConnection:
    """What `connect` may return where the driver is one of PEP 249 and does not tell at which character a statement failed."""

    def __init__(self, connection: Any, error: type[Exception]) -> None:
        self._connection = connection
        self._error = error

    def execute(self, statement: str) -> Problem | None:
        return self._try(lambda: self._connection.cursor().execute(statement))

    def commit(self) -> Problem | None:
        return self._try(self._connection.commit)

    def close(self) -> None:
        self._try(self._connection.close)

    def _try(self, what: Callable[[], object]) -> Problem | None:
        try:
            what()
        except self._error as error:
            return Problem(" ".join(str(error).split()))
        return None


class ScriptError(Exception):
    """A script holds, at `line`, what cannot be run statement by statement."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def load_engine(name: str) -> DatabaseEngine:
    """The engine that the configuration calls `name`. Raises ConfigurationError for one that is not installed."""
    entry_points = importlib.metadata.entry_points(group=ENTRY_POINTS)
    for entry_point in entry_points:
        if entry_point.name == name:
            return cast(DatabaseEngine, entry_point.load())
    raise ConfigurationError(
        f"there is no database engine '{name}'", f"{nearest(name, entry_points.names)} Others come with packages of their own."
    )
