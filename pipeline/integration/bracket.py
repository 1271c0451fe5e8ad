"""start-oracle, run-tests, stop-oracle, and the bracket of the three: itest.

The three steps are the same functions whether one process calls them or three do. Everything the configuration can have
wrong is found by `plan_run`, before a database is started.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Protocol

from pipeline.config import CONFIG_FILE, Config
from pipeline.databases.engine import DatabaseEngine
from pipeline.databases.prepare import Program, Script, read_steps
from pipeline.document import line_of
from pipeline.errors import ConfigurationError, EngineError, PipelineError, TestsFailedError
from pipeline.integration.address import address_variables, remove_address_files, write_address_files
from pipeline.integration.database import ROLE, Database, DatabaseHost, DatabaseSpec, Engine
from pipeline.integration.interruption import Interruption
from pipeline.integration.results import Counts, Results
from pipeline.sessions import Session

RESULTS = "PIPELINE_RESULTS"  # the variable that tells the tests where they may write reports


class Programs(Protocol):
    """What is needed to run foreign programs."""

    def find_program(self, program: str, folder: Path, environment: Mapping[str, str] | None = None) -> Path | None: ...

    def run_program(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> int: ...


@dataclass(frozen=True)
class Run:
    """Everything a run needs, checked."""

    root: Path
    state: Path
    database: DatabaseSpec
    steps: tuple[Script | Program, ...]
    command: tuple[str, ...]
    folder: Path
    junit: tuple[str, ...]


def plan_run(config: Config, image: str, kind: DatabaseEngine, programs: Programs, tests: bool = True) -> Run:
    """Check all that `itest:` says. Without `tests` the test command is not looked at. Raises ConfigurationError."""
    itest = config.itest
    folder = config.root / itest.folder
    check = _Checks(config.root, programs)
    check.holds(folder.is_dir(), ["folder"], f"there is no folder {itest.folder}", "It is relative to pipeline.yaml.")
    if tests:
        check.holds(bool(itest.run), ["run"], "there is no test command", "Write for example `run: [mvn, verify]`.")
        check.program(itest.run[0], ["run"], folder)
    ours = itest.user.lower() in ("sys", kind.administrator.lower())
    check.holds(not ours, ["user"], f"'{itest.user}' is the database's own", "Name a user that the application has for itself.")
    for number, step in enumerate(itest.prepare):
        if step.run:
            check.program(step.run[0], ["prepare", number, "run"], config.root)
    for number, glob in enumerate(itest.junit):
        good = bool(glob) and not Path(glob).is_absolute() and ".." not in Path(glob).parts
        check.holds(good, ["junit", number], f"'{glob}' leaves the project", "Globs are relative to pipeline.yaml and stay below it.")
    database = DatabaseSpec(itest.engine, image, itest.service, itest.user, itest.bind, itest.memory, itest.shm, itest.deadline)
    steps = tuple(read_steps(config.root, itest.prepare, kind))
    return Run(config.root, config.state, database, steps, itest.run, folder, itest.junit)


class Bracket:
    """The steps of a run on one container engine."""

    def __init__(self, engine: Engine, kind: DatabaseEngine, programs: Programs, say: Callable[[str], None]) -> None:
        self._engine = engine
        self._kind = kind
        self._programs = programs
        self._say = say

    def start(self, run: Run, session: Session) -> Database:
        """The session's database, ready and prepared, its address in the files of the session."""
        with Interruption() as interruption:
            return self._start(run, session, interruption)

    def run_tests(self, run: Run, session: Session) -> Counts:
        """Run the test command against the session's database, which goes on running. Raises TestsFailedError."""
        with Interruption() as interruption:
            database = self._host(interruption).find(session, run.database.deadline)
            return self._run_tests(run, database, interruption)

    def stop(self, state: Path, session: Session) -> int:
        """End the session; how many containers that were. Nothing there is no error."""
        with Interruption() as interruption:
            return self._stop(Results(state.parent, state), state, session, interruption)

    def whole(self, run: Run, session: Session) -> Counts:
        """Start, run the tests, stop, whatever happens."""
        with Interruption() as interruption:
            failure: BaseException | None = None
            Results(run.root, run.state).begin()
            try:
                database = self._start(run, session, interruption)
                return self._run_tests(run, database, interruption)
            except BaseException as error:
                failure = error
                raise
            finally:
                try:
                    self._stop(Results(run.root, run.state), run.state, session, interruption)
                except PipelineError as error:
                    if failure is None:
                        raise
                    self._say(f"warning: {error.message}")  # why the run failed matters more

    def _host(self, interruption: Interruption) -> DatabaseHost:
        return DatabaseHost(self._engine, self._kind, interruption, self._say)

    def _start(self, run: Run, session: Session, interruption: Interruption) -> Database:
        results = Results(run.root, run.state)
        self._say(f"database: {run.database.image}, session {session.key}")

        def keep_log(log: bytes) -> None:
            results.begin()
            results.keep_log(log)

        def run_program(database: Database, command: Sequence[str]) -> int:
            return self._programs.run_program(command, run.root, self._environment(database, run, results))

        database: Database | None = None
        try:
            database = self._host(interruption).start(session, run.database, run.steps, run_program, keep_log)
        except PipelineError as error:
            results.write_summary([("result", f"not started: {error.message}"), ("database", run.database.image), ("session", session.key)])
            raise
        finally:
            if database is None:
                self._discard_address(run.state, session)
        write_address_files(run.state, session.key, address_variables(database, self._kind))
        return database

    def _run_tests(self, run: Run, database: Database, interruption: Interruption) -> Counts:
        results = Results(run.root, run.state)
        results.begin()
        environment = self._environment(database, run, results)
        begun = time.monotonic()
        self._say(f"tests: {run.command[0]}")
        code: int | None = None
        try:
            with interruption.allowed():
                code = self._programs.run_program(run.command, run.folder, environment)
        finally:
            outcome = "interrupted" if code is None else _outcome(code)
            seconds = time.monotonic() - begun
            counts = self._keep(run, database, results, outcome, seconds, interruption)
        if code:
            ended = self._host(interruption).epitaph(database)
            also = f"; meanwhile {ended}" if ended else ""
            raise TestsFailedError(
                f"{_outcome(code)}: {counts}{also}", f"Results and the database's log are in {_shown(results.folder, run.root)}/."
            )
        self._say(f"tests: {counts}")
        return counts

    def _discard_address(self, state: Path, session: Session) -> None:
        """Preparing wrote it; it goes with the database, unless that is another process's and lives on."""
        try:
            if self._engine.find_container(session.name_of(ROLE)) is not None:
                return
        except EngineError as error:
            self._say(f"warning: {error.message}")
        remove_address_files(state, session.key)

    def _keep(self, run: Run, database: Database, results: Results, outcome: str, seconds: float, interruption: Interruption) -> Counts:
        properties = {"database.image": database.image, "database.standin": str(database.standin).lower()}
        counts = results.collect(run.junit, properties, database.mask)
        try:
            results.keep_log(self._host(interruption).read_log(database))
        except EngineError as error:
            self._say(f"warning: {error.message}")
        results.write_summary(
            [
                ("result", outcome),
                ("tests", str(counts)),
                ("database", database.description),
                ("ready after", f"{database.ready_seconds:.1f} s"),
                ("tests took", f"{seconds:.1f} s"),
                ("session", database.session.key),
            ]
        )
        return counts

    def _stop(self, results: Results, state: Path, session: Session, interruption: Interruption) -> int:
        remove_address_files(state, session.key)
        return self._host(interruption).stop(session, results.keep_log)

    def _environment(self, database: Database, run: Run, results: Results) -> dict[str, str]:
        address = address_variables(database, self._kind)
        files = write_address_files(run.state, database.session.key, address)
        return {**os.environ, **address, **files, RESULTS: str(results.folder)}


class _Checks:
    """Checks of `itest:` that name file, line and key."""

    def __init__(self, root: Path, programs: Programs) -> None:
        self._path = root / CONFIG_FILE
        self._programs = programs

    def holds(self, condition: bool, place: Sequence[str | int], what: str, hint: str) -> None:
        if not condition:
            line = line_of(self._path, "itest", *place)
            key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
            raise ConfigurationError(f"{CONFIG_FILE}:{line}: 'itest{key}': {what}", hint)

    def program(self, program: str, place: Sequence[str | int], folder: Path) -> None:
        found = self._programs.find_program(program, folder)
        hint = f"With a slash it is looked for in {folder}, else on PATH: {os.environ.get('PATH', '')}"
        self.holds(found is not None, place, f"there is no program '{program}'", hint)


def _outcome(code: int) -> str:
    if code < 0:
        return f"the test command was killed by {Signals(-code).name}"
    return "the tests passed" if code == 0 else f"the test command failed with exit code {code}"


def _shown(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path
