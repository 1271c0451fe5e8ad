"""The one run that several processes belong to (the workers of pytest-xdist), and its one database.

The processes share a folder that only their user can read. Whoever comes first starts the database, under a lock, and writes
down what the others need; the process that distributes the tests takes it away. Should that one be killed, a guardian does it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from pipeline import sessions
from pipeline.config import Config, read_config
from pipeline.databases.contract import DatabaseKind
from pipeline.databases.engine import Account, Address, Connection, Password
from pipeline.databases.prepare import Program, Script, read_steps, run_steps
from pipeline.databases.states import Server, State, StatefulEngine
from pipeline.errors import ConfigurationError, PipelineError, PreparationError
from pipeline.integration.address import address_variables, login_variables
from pipeline.integration.database import ROLE, Database, DatabaseHost
from pipeline.integration.interruption import Interruption
from pipeline.integration.results import Results
from pipeline.integration.run import Run as Checked
from pipeline.integration.run import read_kind
from pipeline.pytest_containers import TestcontainersEngine
from pipeline.pytest_session import Announced, find_announced
from pipeline.sessions import OWNER, Session

RECORD = "database.json"
STATES = "states"  # the folder of what is to be dropped from a database that goes on running


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
    announced: bool = False  # it is that of a running session, and goes on running
    original: str = ""

    @property
    def server(self) -> Server:
        return Server(
            Address(self.host, self.port, self.service),
            Account(self.user, Password(self.password)),
            Account(self.administrator, Password(self.administrator_password)),
        )


class Run:
    """The run, as one of its processes sees it."""

    def __init__(self, config: Config, key: str, owner: str, image: str) -> None:
        self.config = config
        self.kind: DatabaseKind = read_kind(config)
        self.folder = run_folder(key)
        self._owner = owner or sessions.current_owner()
        self._image = image
        self._known: Known | None = None
        self._session = Session(
            config.project,
            f"pytest-{key}",
            str(config.root.resolve()),
            config.itest.lease * 3600,
            sessions.ci_build(os.environ),
            one_shot=True,
        )

    @property
    def deadline(self) -> float:
        """Seconds within which a database is to be ready."""
        return self.config.itest.deadline or self.kind.contract.deadline

    def known(self, original: bool = False, telling: bool = True) -> Known:
        """The run's database: that of the session that these tests run in, or one that is started for them.

        With `original`, the prepared state is kept, from which states are copied. What cannot be had is tried once in a run: the
        first one who asks with `telling` is told why, the others in short. Raises PipelineError.
        """
        if self._known is None or (original and not self._known.original):
            with self._locked() as record:
                known = record.get("known", lambda: self._found() or self.start_container(self.engine(), ROLE)[0], telling)
                if original:
                    known = record.get("original", lambda: replace(known, original=self._make_original(known.server)), telling)
            self._known = known
        return self._known

    def engine(self) -> TestcontainersEngine:
        """What starts containers of this run. They belong to the process that distributes the tests, and end with it."""
        return TestcontainersEngine(self.kind.engine, {OWNER: self._owner})

    def start_container(self, engine: TestcontainersEngine, role: str) -> tuple[Known, Database]:
        """A database container of this run, ready and prepared, as `invoke itest` would start it; in its session it is `role`."""
        self._watch()
        checked = self._checked
        sessions.sweep(engine, self.config.project)

        def run_program(database: Database, command: Sequence[str]) -> int:
            return self._run_program(command, address_variables(database, self.kind.engine))

        host = DatabaseHost(engine, self.kind, Interruption(), _say)
        keep_log = Results(checked.root, checked.state).keep_log
        database = host.start(self._session, checked.database, checked.steps, run_program, keep_log, role)
        address, user, administrator = database.address, database.user, database.administrator
        known = Known(
            *(address.host, address.port, address.service),
            *(user.name, user.password.value, administrator.name, administrator.password.value),
            database.image,
            database.standin,
        )
        return known, database

    def prepare_again(self, connect: Callable[[], Connection], state: State) -> None:
        """What of `itest.prepare` the application's user does, as the user of `state`. What SYSTEM does is done for the database."""
        steps = [step for step in self._steps if isinstance(step, Program) or step.user == "app"]
        variables = login_variables(state.address, state.account, self.kind.engine)
        run_steps(steps, lambda _user: connect(), lambda command: self._run_program(command, variables), lambda _line: None)

    @cached_property
    def _checked(self) -> Checked:
        """All that `invoke itest` checks before a start, and the image it would take: a baked one where there is one."""
        from pipeline.tasks.testing import TestBench  # git, BuildKit, registry: only a start needs them

        with _own_programs():
            return TestBench(self.config).prepare_run(self._image, tests=False)

    @cached_property
    def _steps(self) -> Sequence[Script | Program]:
        return read_steps(self.config.root, self.config.itest.prepare, self.kind.engine)

    def _run_program(self, command: Sequence[str], variables: dict[str, str]) -> int:
        from pipeline.adapters.processes import run_program

        with _own_programs():
            return run_program(command, self.config.root, {**os.environ, **variables}, quiet=True)

    def _found(self) -> Known | None:
        """The database of the session that these tests run in."""
        found = find_announced(os.environ)
        return None if found is None else _of_session(found)

    def _make_original(self, server: Server) -> str:
        engine = self.kind.engine
        if not isinstance(engine, StatefulEngine):
            raise ConfigurationError(
                f"the database engine '{self.config.itest.engine}' cannot copy a prepared state",
                "Use `isolation: container` in pipeline.yaml, or the mode 'shared'.",
            )
        if not server.administrator.name:
            raise ConfigurationError(
                "a state for each worker needs the administrator's account, which the session does not name",
                "It is in DB_ADMIN_USER and DB_ADMIN_PASSWORD of the session's file. Or use the mode 'shared'.",
            )
        return engine.make_original(server, f"original_{secrets.token_hex(3)}", self.prepare_again)

    def _watch(self) -> None:
        """Start a guardian, once in a run, that removes the run's containers should the process that owns them be killed."""
        self._make_folder()
        with contextlib.suppress(FileExistsError):
            (self.folder / "guarded").touch(exist_ok=False)
            charge = (self._session.project, self._session.key, self._owner, str(self.config.state), "yes")
            _start_guardian(self._owner.split(":")[-2], self.folder, charge)

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        path = self.folder / "session"
        if not path.exists():
            new = self.folder / f"session.{os.getpid()}"
            told = {"project": self._session.project, "key": self._session.key, "root": str(self.config.root)}
            new.write_text(json.dumps(told), encoding="utf-8")
            new.replace(path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Record]:
        self._make_folder()
        with (self.folder / "lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Record(self.folder / RECORD)


class Record:
    """What the run's processes have found out, in a file; for one of them at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, what: str, find: Callable[[], Known], telling: bool) -> Known:
        """What is written down as `what`, or else what `find` answers. That this failed is written down, too.

        It is not tried again: the first one who asks with `telling` is told why, the others in short.
        """
        document = self._read()
        if what in document:
            return Known(**document[what])
        failure = document.get(f"no {what}")
        if failure is None:
            try:
                found = find()
            except PipelineError as error:
                self._write({**document, f"no {what}": {"message": error.message, "hint": error.hint, "told": telling}})
                raise
            self._write({**document, what: asdict(found)})
            return found
        if failure["told"]:
            short = str(failure["message"]).partition("\n")[0][:120]
            raise PreparationError("no database state can be had in this run", f"Why, the first test that asked was told: {short} …")
        self._write({**document, f"no {what}": {**failure, "told": telling}})
        raise PreparationError(failure["message"], failure["hint"])

    def find(self) -> Known | None:
        """The run's database with all that is known of it, if it ever came to one."""
        document = self._read()
        found = document.get("original") or document.get("known")
        return Known(**found) if found else None

    def _read(self) -> dict[str, dict[str, Any]]:
        return dict(json.loads(self._path.read_text(encoding="utf-8"))) if self._path.exists() else {}

    def _write(self, document: Mapping[str, Mapping[str, Any]]) -> None:
        with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(document, file)


def end_run(folder: Path) -> None:
    """Take away what the run has started or made, and its folder. What cannot be taken away now is left to the guardian."""
    from pipeline.adapters.docker_engine import DockerEngine

    told = json.loads((folder / "session").read_text(encoding="utf-8"))
    try:
        if (folder / "guarded").exists():  # a container was started, or about to be
            sessions.end_session(DockerEngine(), Session(told["project"], told["key"], "", 0.0))
        known = Record(folder / RECORD).find()
        if known is not None and known.announced and known.original:
            _drop_states(folder, read_kind(read_config(Path(told["root"]))).engine, known)
    except PipelineError as error:
        print(f"\nwarning: {error.message}\n{error.hint}", file=sys.stderr)
        if (folder / "guarded").exists():
            return
    shutil.rmtree(folder, ignore_errors=True)


def _drop_states(folder: Path, engine: object, known: Known) -> None:
    """What a killed worker has left, and what all states were copied from. Raises PreparationError."""
    if not isinstance(engine, StatefulEngine):
        return
    server = known.server
    left = sorted(path.name for path in (folder / STATES).glob("*"))
    if left:
        source = engine.states(server, known.original, "left", lambda _connect, _state: None)
        try:
            for name in left:
                source.drop(State(name, server.address, server.user))
        finally:
            source.close()
    engine.drop_original(server, known.original)


def run_folder(key: str) -> Path:
    return Path(gettempdir(), f"pipeline-pytest-{key}")


def _of_session(session: Announced) -> Known:
    said = session.variables
    return Known(
        host=said["DB_HOST"],
        port=int(said["DB_PORT"]),
        service=said["DB_SERVICE"],
        user=said["DB_USER"],
        password=said["DB_PASSWORD"],
        administrator=said.get("DB_ADMIN_USER", ""),
        administrator_password=said.get("DB_ADMIN_PASSWORD", ""),
        image=said.get("DB_IMAGE", ""),
        announced=True,
    )


def _start_guardian(pid: str, folder: Path, charge: Sequence[str]) -> None:
    """It acts when the process `pid` has ended and the run's folder is still there.

    This process may end before the run does, so the guardian's pipe is held open by a program that waits for the run's end. The
    folder goes last where a run ends in order: then the guardian is told, and ends as well.
    """
    from pipeline.adapters.processes import COOKIES, FAREWELL

    wait = 'while [ -d "$2" ] && kill -0 "$1" 2>/dev/null; do sleep 1; done; [ -d "$2" ] || printf "$3"; rm -rf "$2"'
    environment = {name: value for name, value in os.environ.items() if name not in COOKIES}
    waiting = subprocess.Popen(
        ["sh", "-c", wait, "sh", pid, str(folder), FAREWELL.decode()],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
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


@contextlib.contextmanager
def _own_programs() -> Iterator[None]:
    """`python` and its like in `itest.prepare` are those of the environment that pytest runs in, as if it were activated."""
    before = os.environ.get("PATH")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before or os.defpath])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = before


def _say(line: str) -> None:
    print(line, file=sys.stderr)
