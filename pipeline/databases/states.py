"""A database state for each worker: copies of the prepared state, made ahead, handed out, and made clean again.

A state is what one test at a time has for itself: a database of PostgreSQL, a user of Oracle, or a whole container. The
kind of database knows how to copy and to restore it (a `Source`); the pool sees to it that a clean one lies ready.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from pipeline.databases.engine import Account, Address, Connection, OpenEngine
from pipeline.errors import DatabaseNotReadyError, PipelineError, PreparationError

_FETCHED = 2000  # rows in one answer: a data dictionary in few round trips
PATIENCE = 300.0  # seconds for a state to come; a container that is pulled, started and prepared takes longest


@dataclass(frozen=True)
class State:
    """A database state: where it is reached, and as whom. Its account may do in it what the application's user may."""

    name: str
    address: Address
    account: Account


@dataclass(frozen=True)
class Server:
    """A database that is ready and prepared: what the states are copied from."""

    address: Address
    user: Account
    administrator: Account


class Source(Protocol):
    """Where states come from. One thread at a time calls it. A failure is a PipelineError."""

    def create(self) -> State:
        """A new copy of the prepared state."""

    def restore(self, state: State, /) -> bool:
        """Make `state` equal to the prepared state again, whatever was done to it; False where only a new one can be."""

    def drop(self, state: State) -> None:
        """Take `state` away, with whoever is still logged in to it."""

    def close(self) -> None: ...


# Runs the preparation again for a state, given what logs in as the state's own user. Raises PreparationError.
Prepare = Callable[[Callable[[], Connection], State], None]


@runtime_checkable
class StatefulEngine(OpenEngine, Protocol):
    """A kind of database that can copy states. One that cannot still has containers to offer."""

    def watch(self, connection: Any, original: str) -> Callable[[], bool]:
        """Look at what a test does on `connection`: the returned function, called at its end, rolls back and says whether that undid it.

        A test that has committed, itself or by DDL, or begun a transaction of its own, has left something.
        """

    def make_original(self, server: Server, name: str, prepare: Prepare) -> str:
        """Once in a run: keep the prepared state as `name`, where no test comes near it; what `states` is to be given.

        Raises PreparationError. Where it has failed it is not tried again: the cause was said the first time, and is named again in short.
        """

    def drop_original(self, server: Server, original: str) -> None:
        """Take away what `make_original` has kept; nothing where it is gone. Raises PreparationError.

        For whoever made it in a database that goes on running. Sources of its copies are to be closed before.
        """

    def states(self, server: Server, original: str, prefix: str, prepare: Prepare) -> Source:
        """Copies of the original, their names beginning with `prefix`."""


class StatementError(Exception):
    """The database refused a statement."""


class Sql:
    """A connection of any PEP 249 driver, as far as states need one; its errors become StatementError."""

    def __init__(self, connection: Any, error: type[Exception]) -> None:
        self._connection = connection
        self._error = error

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.rows(statement)

    def rows(self, statement: str, binds: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """Run it; its rows, where it has any. `binds`: values of its bind variables, where the driver has names for them."""
        with self._executed(statement, binds) as cursor:
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    def columns(self, query: str) -> list[str]:
        """The names of what `query` selects, in lower case."""
        with self._executed(query) as cursor:
            return [str(column[0]).lower() for column in cursor.description or ()]

    @contextlib.contextmanager
    def _executed(self, statement: str, binds: Mapping[str, object] | None = None) -> Iterator[Any]:
        try:
            with self._connection.cursor() as cursor:
                cursor.arraysize = _FETCHED
                cursor.execute(*((statement, binds) if binds else (statement,)))
                yield cursor
        except self._error as error:
            raise StatementError(f"{' '.join(str(error).split())} (statement: {statement[:200]})") from error

    def commit(self) -> None:
        try:
            self._connection.commit()
        except self._error as error:
            raise StatementError(str(error)) from error

    def rollback(self) -> None:
        try:
            self._connection.rollback()
        except self._error as error:
            raise StatementError(str(error)) from error

    def close(self) -> None:
        with contextlib.suppress(self._error):  # the database is gone, and so is the connection
            self._connection.close()


class Originals:
    """What is known of the originals that could not be made, so that not every test of a run tries in vain, and says so at length."""

    def __init__(self) -> None:
        self._failed: dict[Address, str] = {}

    def make(self, server: Server, make: Callable[[], str]) -> str:
        """What `make` answers. Raises PreparationError: its own the first time, and then without trying again."""
        if server.address in self._failed:
            raise PreparationError("no database state can be had: the prepared state could not be kept", self._failed[server.address])
        try:
            return make()
        except PreparationError as error:
            self._failed[server.address] = f"Why, the first test that asked was told: {error.message[:120]} …"
            raise


class StatePool:
    """States of one worker: handed out at once where one lies ready, made clean in the background when they come back."""

    def __init__(self, source: Source, ahead: int = 1) -> None:
        """`ahead`: how many clean states to have in stock once the first one has come back. Nothing is made before it is asked for."""
        self._source = source
        self._ahead = ahead
        self._changed = threading.Condition()
        self._ready: deque[State] = deque()
        self._returned: deque[State] = deque()
        self._trash: deque[State] = deque()
        self._all: set[State] = set()
        self._waiting = 0
        self._circulating = False
        self._closed = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def take(self, patience: float = PATIENCE) -> State:
        """A clean state, for nobody else. Raises what went wrong in making it, or DatabaseNotReadyError after `patience` seconds."""
        with self._changed:
            self._begin()
            self._waiting += 1
            self._changed.notify_all()
            try:
                there = self._changed.wait_for(lambda: self._ready or self._failure, patience)
            finally:
                self._waiting -= 1
            if self._ready:
                state = self._ready.popleft()
                self._changed.notify_all()
                return state
            failure, self._failure = self._failure, None
        if there and failure is not None:
            raise failure
        raise DatabaseNotReadyError(f"no database state was ready after {patience:.0f} s", "Is another session holding locks in it?")

    def give_back(self, state: State) -> None:
        """Whatever was done to `state`: it is made clean in the background, or replaced."""
        with self._changed:
            self._circulating = True
            self._returned.append(state)
            self._changed.notify_all()

    def reset(self, state: State) -> State:
        """A clean state in exchange."""
        self.give_back(state)
        return self.take()

    def settle(self, patience: float = PATIENCE) -> bool:
        """Wait until there is nothing to do in the background; whether that came about."""
        with self._changed:
            return self._changed.wait_for(lambda: self._chore() is None and not self._working, patience)

    def close(self, drop: bool = True) -> None:
        """Take every state away, also those that are handed out; without `drop` they end with the database."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        if drop:
            for state in list(self._all):
                with contextlib.suppress(PipelineError):  # it ends with the database's container
                    self._source.drop(state)
        self._source.close()

    _working = False

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="database states", daemon=True)
            self._thread.start()

    def _chore(self) -> Callable[[], None] | None:
        """What is to be done next. First what someone may be waiting for, and of that the cheapest."""
        wanted = max(self._waiting, self._ahead if self._circulating else 0)
        if self._returned:
            return self._clean
        if len(self._ready) < wanted and self._failure is None:
            return self._make
        return self._throw_away if self._trash else None

    def _work(self) -> None:
        while True:
            with self._changed:
                self._working = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closed or self._chore())
                chore = self._chore()
                if self._closed or chore is None:
                    return
                self._working = True
            try:
                chore()
            except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the thread that waits for a state
                with self._changed:
                    self._failure = error
                    self._changed.notify_all()

    def _clean(self) -> None:
        state = self._returned.popleft()
        clean = self._source.restore(state)
        with self._changed:
            (self._ready if clean else self._trash).append(state)
            self._changed.notify_all()

    def _make(self) -> None:
        state = self._source.create()
        with self._changed:
            self._all.add(state)
            self._ready.append(state)
            self._changed.notify_all()

    def _throw_away(self) -> None:
        state = self._trash.popleft()
        self._all.discard(state)
        self._source.drop(state)


def quote_plain(name: str, plain: Callable[[str], bool]) -> str:
    """`name` as an identifier: as it is where it is plain, else in double quotes."""
    return name if plain(name) else '"' + name.replace('"', '""') + '"'


def in_order(tables: Sequence[str], references: Sequence[tuple[str, str]]) -> list[str] | None:
    """`tables` with each one after those it references (child, parent); None where they reference each other in a circle."""
    parents: dict[str, set[str]] = {table: set() for table in tables}
    for child, parent in references:
        if child != parent and child in parents and parent in parents:
            parents[child].add(parent)
    ordered: list[str] = []
    while parents:
        free = sorted(table for table, needed in parents.items() if not needed)
        if not free:
            return None
        ordered += free
        for table in free:
            del parents[table]
        for needed in parents.values():
            needed.difference_update(free)
    return ordered
