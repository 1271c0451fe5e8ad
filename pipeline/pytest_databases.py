"""What stands behind the pytest plugin: the one database of a run, and a worker's states. Imported when a test asks for one.

The processes of a run (the workers of pytest-xdist) share a folder that only their user can read. Whoever comes first starts
the database, under a lock, and writes down what the others need; the process that distributes the tests takes it away. Should
that one be killed, a guardian does it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest

from pipeline import sessions
from pipeline.config import Config, find_root, read_config
from pipeline.databases.contract import DatabaseKind, load_kind
from pipeline.databases.engine import Account, Address, Connection, Password
from pipeline.databases.prepare import Program, Script, read_steps, run_steps
from pipeline.databases.states import Server, State, StatefulEngine, StatePool
from pipeline.errors import ConfigurationError, PipelineError, PreparationError
from pipeline.sessions import OWNER, Session

RECORD = "database.json"
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


@dataclass(frozen=True)
class Known:
    """What a run's processes tell each other; its text form is in a file that only their user can read."""

    host: str
    port: int
    service: str
    user: str
    password: str = field(repr=False)
    administrator: str
    administrator_password: str = field(repr=False)  # pytest shows local variables where it is told to
    image: str = ""
    standin: bool = False
    original: str = ""

    @property
    def server(self) -> Server:
        return Server(
            Address(self.host, self.port, self.service),
            Account(self.user, Password(self.password)),
            Account(self.administrator, Password(self.administrator_password)),
        )


class Run:
    """The one run that all its processes belong to."""

    def __init__(self, config: Config, kind: DatabaseKind, key: str, owner: str, image: str) -> None:
        self.config = config
        self.kind = kind
        self.folder = run_folder(key)
        self._owner = owner or sessions.current_owner()
        self._given_image = image
        self._session = Session(
            config.project,
            f"pytest-{key}",
            str(config.root.resolve()),
            config.itest.lease * 3600,
            sessions.ci_build(os.environ),
            one_shot=True,
        )

    def database(self) -> RunDatabase:
        known = self.known()
        server = known.server
        return RunDatabase(
            name=known.service,
            engine=self.config.itest.engine,
            address=server.address,
            account=server.user,
            dsn=self.kind.dsn(server.address),
            jdbc_url=self.kind.jdbc_url(server.address),
            image=known.image,
            standin=known.standin,
        )

    def known(self, original: bool = False) -> Known:
        """The run's database: the one of the session that these tests run in, or one that is started for them."""
        with self._locked() as record:
            known = _read(record)
            if known is None:
                try:
                    known = self._found() or self._start_shared()
                except PipelineError as error:
                    record.write_text(json.dumps({"failure": [error.message, error.hint]}), encoding="utf-8")
                    raise
                _write(record, known)
            if original and not known.original:
                known = replace(known, original=self._make_original(known.server))
                _write(record, known)
        return known

    def start_container(self) -> Known:
        """A database container of this run, ready and prepared, which belongs to its session."""
        from pipeline.pytest_containers import start_database

        self._watch()
        itest, limits = self.config.itest, self.kind.contract.limits
        accounts = [Account(name, Password(f"Aa1{secrets.token_hex(10)}")) for name in (itest.user, self.kind.administrator)]
        started = start_database(
            self.kind,
            engine=itest.engine,
            image=self._image,
            service=itest.service or self.kind.contract.service.default,
            user=accounts[0],
            administrator=accounts[1],
            host=_reached_at(itest.bind),
            bind=itest.bind,
            labels={**self._session.labels("database"), OWNER: self._owner},
            lease=self._session.lease,
            deadline=itest.deadline or self.kind.contract.deadline,
            memory=itest.memory or limits.memory,
            shm=itest.shm or limits.shm,
            processes=itest.processes or limits.processes,
        )
        server = Server(started.address, *accounts)
        self.prepare_all(server)
        return Known(
            *(started.address.host, started.address.port, started.address.service),
            *(server.user.name, server.user.password.value, server.administrator.name, server.administrator.password.value),
            self._image,
            started.standin,
        )

    def remove_container(self, port: int) -> None:
        """The container of this run whose database is reached at `port`."""
        from pipeline.adapters.docker_engine import DockerEngine

        engine = DockerEngine()
        for container in engine.list_containers(self._session.mark):
            found = engine.find_container(container.id)
            if found is not None and port in found.ports.values():
                engine.remove_container(container.id)

    def prepare_all(self, server: Server) -> None:
        """All of `itest.prepare`, on a database that is fresh."""

        def connect(user: str) -> Connection:
            return self.kind.connect(server.address, server.user if user == "app" else server.administrator)

        self._run(self._steps, connect, server.address, server.user)

    def prepare_again(self, connect: Callable[[], Connection], state: State) -> None:
        """What of `itest.prepare` the application's user does, as the user of `state`. What SYSTEM does is done for the database."""
        steps = [step for step in self._steps if isinstance(step, Program) or step.user == "app"]
        self._run(steps, lambda _user: connect(), state.address, state.account)

    @cached_property
    def _steps(self) -> Sequence[Script | Program]:
        return read_steps(self.config.root, self.config.itest.prepare, self.kind.engine)

    def _run(self, steps: Sequence[Script | Program], connect: Callable[[str], Connection], address: Address, account: Account) -> None:
        from pipeline.adapters.processes import run_program

        state = TestState("", self.config.itest.engine, address, account, self.kind.dsn(address), self.kind.jdbc_url(address))
        environment = {**os.environ, **state.environment}
        run_steps(steps, connect, lambda command: run_program(command, self.config.root, environment, quiet=True), lambda _line: None)

    @cached_property
    def _image(self) -> str:
        from pipeline.tasks.wiring import provide_image  # git, BuildKit, registry: only a start needs them

        name = self._given_image or self.config.itest.image
        return provide_image(self.config, name, lambda line: print(line, file=sys.stderr))

    def _found(self) -> Known | None:
        """The database of the session that these tests run in (`invoke run-tests`), by its variables."""
        names = ("DB_HOST", "DB_PORT", "DB_SERVICE", "DB_USER", "DB_PASSWORD")
        given = [os.environ.get(name, "") for name in names]
        if not given[0]:
            return None
        lacking = [name for name, value in zip(names, given, strict=True) if not value]
        if lacking or not given[1].isdigit():
            raise ConfigurationError(
                f"DB_HOST is set, but {', '.join(lacking) or 'DB_PORT is no number'}",
                "Run the tests by `invoke run-tests`, or take DB_HOST out of the environment: a database is then started for them.",
            )
        return Known(
            given[0],
            int(given[1]),
            given[2],
            given[3],
            given[4],
            os.environ.get("DB_ADMIN_USER", ""),
            os.environ.get("DB_ADMIN_PASSWORD", ""),
            os.environ.get("DB_IMAGE", ""),
        )

    def _start_shared(self) -> Known:
        return self.start_container()

    def _make_original(self, server: Server) -> str:
        engine = self.kind.engine
        if not isinstance(engine, StatefulEngine):
            raise ConfigurationError(
                f"the database engine '{self.config.itest.engine}' cannot copy a prepared state",
                "Use `isolation: container` in pipeline.yaml, or the mode 'shared'.",
            )
        if not server.administrator.name:
            raise ConfigurationError(
                "a state for each worker needs the administrator's account, which the environment does not name",
                "Set DB_ADMIN_USER and DB_ADMIN_PASSWORD, run by `invoke run-tests`, or use the mode 'shared'.",
            )
        return engine.make_original(server, f"original_{secrets.token_hex(3)}", self.prepare_again)

    def _watch(self) -> None:
        """Start a guardian, once in a run, that removes the run's containers should the process that owns them be killed."""
        self._make_folder()
        mark = self.folder / "guarded"
        with contextlib.suppress(FileExistsError):
            mark.touch(exist_ok=False)
            pid = self._owner.split(":")[-2]
            from pipeline.adapters.processes import COOKIES

            environment = {name: value for name, value in os.environ.items() if name not in COOKIES}
            # This process may end before the run does, so the guardian's pipe is held open by a program that waits for the owner.
            waiting = subprocess.Popen(
                ["sh", "-c", 'while kill -0 "$1" 2>/dev/null; do sleep 1; done; rm -rf "$2"', "sh", pid, str(self.folder)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            charge = (self._session.project, self._session.key, self._owner, str(self.config.state), "yes")
            guardian = subprocess.Popen(
                [sys.executable, "-m", "pipeline.guardian", *charge],
                cwd=Path(__file__).resolve().parent.parent,
                env=environment,
                stdin=waiting.stdout,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            if waiting.stdout is not None:
                waiting.stdout.close()
            waiting.returncode = guardian.returncode = 0  # both outlive this process, and nobody waits for them

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        path = self.folder / "session"
        if not path.exists():
            new = self.folder / f"session.{os.getpid()}"
            new.write_text(json.dumps({"project": self._session.project, "key": self._session.key}), encoding="utf-8")
            new.replace(path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Path]:
        self._make_folder()
        with (self.folder / "lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.folder / RECORD


class Worker:
    """One process that runs tests, and its states."""

    def __init__(self, root: Path, key: str, owner: str, worker: str, image: str, isolation: str) -> None:
        """Raises ConfigurationError for what pipeline.yaml lacks."""
        config = read_config(find_root(root))
        kind = load_kind(config.itest.engine, config.itest.contract, config.root)
        self.run = Run(config, kind, key, owner, image)
        self._isolation = isolation or config.itest.isolation
        self._prefix = f"{re.sub('[^a-z0-9]', '', worker.lower())[:12]}_{secrets.token_hex(3)}"
        self._kept: dict[str, State] = {}
        self._watches: dict[int, Callable[[], bool]] = {}
        self._clean = True

    def begin(self, mode: str) -> TestState:
        """The state for a test of that mode."""
        if mode == "shared":
            return self.run.database()
        if mode == "test":
            return self._shown(self._pool.take())
        if mode not in self._kept:
            self._kept[mode] = self._pool.take()
        self._clean = True
        return self._shown(self._kept[mode])

    def end(self, mode: str, state: TestState, known_to_test: bool) -> None:
        """The test is over, however it ended."""
        if mode == "test":
            self._pool.give_back(_plain(state))
        elif mode == "rollback" and (known_to_test or not self._clean):
            self._pool.give_back(self._kept.pop(mode))

    def connect(self, state: TestState) -> Any:
        connection = self._engine.open(state.address, state.account)
        if "rollback" in self._kept and self._kept["rollback"].name == state.name:
            original = self.run.known(original=True).original if self._isolation == _SCHEMA else ""
            self._watches[id(connection)] = self._engine.watch(connection, original)
        return connection

    def disconnect(self, _state: TestState, connection: Any) -> None:
        nothing_left = self._watches.pop(id(connection), None)
        if nothing_left is not None:
            self._clean = nothing_left()
        with contextlib.suppress(self._engine.error):  # the test may have closed it
            connection.close()

    def close(self) -> None:
        if "_pool" in self.__dict__:
            self._pool.close()

    @cached_property
    def _engine(self) -> StatefulEngine:
        engine = self.run.kind.engine
        if not isinstance(engine, StatefulEngine):
            raise ConfigurationError(
                f"the database engine '{self.run.config.itest.engine}' opens no connections",
                "Use the fixture `schema`, and connect with a driver of your own.",
            )
        return engine

    @cached_property
    def _pool(self) -> StatePool:
        if self._isolation == _CONTAINER:
            return StatePool(ContainerStates(self.run))
        known = self.run.known(original=True)
        return StatePool(self._engine.states(known.server, known.original, self._prefix, self.run.prepare_again))

    def _shown(self, state: State) -> TestState:
        kind = self.run.kind
        return TestState(
            state.name, self.run.config.itest.engine, state.address, state.account, kind.dsn(state.address), kind.jdbc_url(state.address)
        )


class ContainerStates:
    """A container for each state, for code with fixed schema names. One that comes back is replaced."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def create(self) -> State:
        server = self._run.start_container().server
        return State(f"{server.address.host}:{server.address.port}", server.address, server.user)

    def restore(self, _state: State) -> bool:
        return False

    def drop(self, state: State) -> None:
        self._run.remove_container(state.address.port)

    def close(self) -> None:
        """Nothing is held open."""


def end_run(folder: Path) -> None:
    """Take away what the run has started, and its folder."""
    from pipeline.adapters.docker_engine import DockerEngine

    told = json.loads((folder / "session").read_text(encoding="utf-8"))
    if (folder / "guarded").exists():  # a container was started, or about to be
        try:
            sessions.end_session(DockerEngine(), Session(told["project"], told["key"], "", 0.0))
        except PipelineError as error:
            print(f"\nwarning: {error.message}\n{error.hint}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)


def _reached_at(bind: str) -> str:
    """The address at which the tests reach what the engine publishes on `bind`."""
    from pipeline.adapters.docker_engine import DockerEngine

    own, anywhere = ("127.0.0.1", "localhost", "::1"), ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
    return DockerEngine().host if bind in (*own, *anywhere) else bind


def run_folder(key: str) -> Path:
    return Path(gettempdir(), f"pipeline-pytest-{key}")


def _read(record: Path) -> Known | None:
    """Raises PreparationError again where the first process could not start the database: nobody is to wait for that twice."""
    if not record.exists():
        return None
    document = json.loads(record.read_text(encoding="utf-8"))
    if "failure" in document:
        message, hint = document["failure"]
        raise PreparationError(message, hint)
    return Known(**document)


def _write(record: Path, known: Known) -> None:
    with os.fdopen(os.open(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(asdict(known), file)


def _plain(state: TestState) -> State:
    return State(state.name, state.address, state.account)
