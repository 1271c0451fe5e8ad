"""What a test is given: the run's database, or a state that one process of the run has for its own tests."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.config import find_root, read_config
from pipeline.databases.engine import Account, Address, OpenEngine
from pipeline.databases.states import PATIENCE, Source, State, StatefulEngine, StatePool
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.integration.database import ROLE
from pipeline.pytest_run import STATES, Run

_SCHEMA, _CONTAINER = "schema", "container"


@contextlib.contextmanager
def failing_clearly() -> Iterator[None]:
    """What a person can act on is said in two lines, without a traceback through this package."""
    try:
        yield
    except PipelineError as error:
        raise pytest.fail.Exception(f"{error.message}\n{error.hint}".strip(), pytrace=False) from None


@dataclass(frozen=True)
class TestState:
    """What a test is given."""

    __test__ = False  # its name looks like a test class to pytest

    name: str
    engine: str
    address: Address
    account: Account
    dsn: str
    jdbc_url: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables that `invoke run-tests` sets, for this state: what a program under test is to be started with."""
        return {
            "DB_HOST": self.address.host,
            "DB_PORT": str(self.address.port),
            "DB_SERVICE": self.address.service,
            "DB_USER": self.account.name,
            "DB_PASSWORD": self.account.password.value,
            "DB_DSN": self.dsn,
            "DB_JDBC_URL": self.jdbc_url,
        }


@dataclass(frozen=True)
class RunDatabase(TestState):
    """The database of the run."""

    image: str = ""
    standin: bool = False


class Worker:
    """One process that runs tests, and its states."""

    def __init__(self, root: Path, key: str, owner: str, worker: str, image: str, isolation: str) -> None:
        """Raises ConfigurationError for what pipeline.yaml lacks."""
        config = read_config(find_root(root))
        self.passwords: set[str] = set()  # of all that tests were given
        self._run = Run(config, key, owner, image)
        self._isolation = isolation or config.itest.isolation
        self._prefix = f"{re.sub('[^a-z0-9]', '', worker.lower())[:12]}_{secrets.token_hex(3)}"
        self._kept: dict[str, State] = {}
        self._watches: dict[int, Callable[[], bool]] = {}
        self._clean = True
        self._closed = False

    def keep_prepared(self) -> None:
        """Keep the prepared state, before any test can spoil it. That it cannot be kept, the tests that need it are told."""
        if self._isolation == _SCHEMA:
            with contextlib.suppress(PipelineError):
                self._run.known(original=True, telling=False)

    def database(self) -> RunDatabase:
        known, kind = self._run.known(), self._run.kind
        server = known.server
        self.passwords |= {known.password, known.administrator_password} - {""}
        dsn, jdbc_url = kind.dsn(server.address), kind.jdbc_url(server.address)
        engine = self._run.config.itest.engine
        return RunDatabase(known.service, engine, server.address, server.user, dsn, jdbc_url, known.image, known.standin)

    def begin(self, mode: str) -> TestState:
        """The state for a test of that mode."""
        if mode == "shared":
            return self.database()
        if mode == "test":
            return self._shown(self._take())
        if mode not in self._kept:
            self._kept[mode] = self._take()
        self._clean = True
        return self._shown(self._kept[mode])

    def end(self, mode: str, state: TestState, known_to_test: bool) -> None:
        """The test is over, however it ended."""
        if mode == "test":
            self._pool.give_back(State(state.name, state.address, state.account))
        elif mode == "rollback" and (known_to_test or not self._clean):
            self._pool.give_back(self._kept.pop(mode))

    def connect(self, state: TestState) -> Any:
        connection = self._engine.open(state.address, state.account)
        if "rollback" in self._kept and self._kept["rollback"].name == state.name:
            if not isinstance(self._engine, StatefulEngine):  # nobody can tell what the test has left
                self._clean = False
                return connection
            original = self._run.known(original=True).original if self._isolation == _SCHEMA else ""
            self._watches[id(connection)] = self._engine.watch(connection, original)
        return connection

    def disconnect(self, _state: TestState, connection: Any) -> None:
        nothing_left = self._watches.pop(id(connection), None)
        if nothing_left is not None:
            self._clean = nothing_left()
        with contextlib.suppress(self._engine.error):  # the test may have closed it
            connection.close()

    def close(self) -> None:
        """Take the states away; a container that is being started is not waited for. Twice is no error."""
        if self._closed or "_pool" not in self.__dict__:
            return
        self._closed = True
        if isinstance(self._source, ContainerStates):
            self._source.abort()
        # In a database that ends with this run, its states end with it.
        self._pool.close(drop=self._isolation == _CONTAINER or self._run.known().announced)

    def _take(self) -> State:
        deadline = self._run.deadline
        # A container may have to be pulled and prepared; what starts it keeps the deadline by itself.
        return self._pool.take(deadline + PATIENCE if self._isolation == _CONTAINER else deadline)

    @cached_property
    def _engine(self) -> OpenEngine:
        engine = self._run.kind.engine
        if not isinstance(engine, OpenEngine):
            raise ConfigurationError(
                f"the database engine '{self._run.config.itest.engine}' opens no connections",
                "Use the fixture `schema`, and connect with a driver of your own.",
            )
        return engine

    @cached_property
    def _pool(self) -> StatePool:
        return StatePool(self._source)

    @cached_property
    def _source(self) -> Source:
        if self._isolation == _CONTAINER:
            return ContainerStates(self._run, self._prefix)
        known = self._run.known(original=True)  # which an engine without states has refused
        engine = cast(StatefulEngine, self._engine)
        source = engine.states(known.server, known.original, self._prefix, self._run.prepare_again)
        return RecordedStates(source, self._run.folder / STATES) if known.announced else source

    def _shown(self, state: State) -> TestState:
        kind = self._run.kind
        self.passwords.add(state.account.password.value)
        dsn, jdbc_url = kind.dsn(state.address), kind.jdbc_url(state.address)
        return TestState(state.name, self._run.config.itest.engine, state.address, state.account, dsn, jdbc_url)


class RecordedStates:
    """States of a database that goes on running: each stands in a folder for as long as it is there.

    The end of the run drops what a killed worker could not.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        self._source = source
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def create(self) -> State:
        state = self._source.create()
        (self._folder / state.name).touch()
        return state

    def restore(self, state: State) -> bool:
        return self._source.restore(state)

    def drop(self, state: State) -> None:
        self._source.drop(state)
        (self._folder / state.name).unlink(missing_ok=True)

    def close(self) -> None:
        self._source.close()


class ContainerStates:
    """A container for each state, for code with fixed schema names. One that comes back is replaced."""

    def __init__(self, run: Run, prefix: str) -> None:
        self._run = run
        self._prefix = prefix
        self._engine = run.engine()
        self._containers: dict[State, str] = {}
        self._started = 0

    def create(self) -> State:
        self._started += 1
        known, database = self._run.start_container(self._engine, f"{ROLE}-{self._prefix}-{self._started}")
        state = State(f"{known.host}:{known.port}", known.server.address, known.server.user)
        self._containers[state] = database.container
        return state

    def restore(self, _state: State) -> bool:
        return False

    def drop(self, state: State) -> None:
        self._engine.remove_container(self._containers.pop(state))

    def abort(self) -> None:
        """Remove all, also the one that is being started: nobody is going to ask for it."""
        self._engine.abort()

    def close(self) -> None:
        """Nothing is held open."""


def mask(report: pytest.TestReport, passwords: set[str]) -> None:
    """Take passwords out of what is shown and written down of a test."""

    def masked(text: str) -> str:
        for password in passwords:
            text = text.replace(password, "***")
        return text

    report.sections = [(name, masked(content)) for name, content in report.sections]
    if any(password in report.longreprtext for password in passwords):
        report.longrepr = masked(report.longreprtext)
