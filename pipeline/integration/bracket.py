"""start-oracle, run-tests, stop-oracle, and the bracket of the three: itest.

The three steps are the same functions whether one process calls them or three do.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from signal import Signals

from pipeline.databases.contract import DatabaseKind
from pipeline.databases.engine import Connection
from pipeline.databases.prepare import Program, run_steps
from pipeline.databases.readiness import NotReadyError
from pipeline.databases.states import State
from pipeline.errors import CheckoutBusyError, EngineError, PipelineError, PreparationError, TestsFailedError
from pipeline.integration.address import address_files, address_variables, login_variables, remove_address_files, write_address_files
from pipeline.integration.container_engine import ContainerEngine
from pipeline.integration.database import ALIVE, ROLE, Database, DatabaseHost
from pipeline.integration.diagnosis import ACTIVITY, ask_activity
from pipeline.integration.guardian import Companion, guarded
from pipeline.integration.interruption import Interruption
from pipeline.integration.lease import look, renewing
from pipeline.integration.results import FAILURE_LOG, Counts, Results
from pipeline.integration.run import Programs, Run
from pipeline.integration.warm import WarmDatabases
from pipeline.integration.workers import Workers, containers_of, role_of, states_of
from pipeline.sessions import CHECKOUT, PROJECT, SESSION, Session, sweep

RESULTS = "PIPELINE_RESULTS"  # the variable that tells the tests where they may write reports


class Bracket:
    """The steps of a run on one container engine."""

    def __init__(self, engine: ContainerEngine, kind: DatabaseKind, programs: Programs, say: Callable[[str], None]) -> None:
        self._engine = engine
        self._kind = kind
        self._programs = programs
        self._say = say

    def start(self, run: Run, session: Session) -> Database:
        """The session's database, ready and prepared, its address in the files of the session."""
        with Interruption() as interruption:
            ours = not Results(run.root, run.state).are_claimed() and not self._runs(run, session)
            with guarded(self._programs, session, run.state):
                return self._start(run, session, interruption, ours)

    def start_clean(self, run: Run, session: Session) -> Database:
        """The same, but whatever ran there before: a clean one, from the baked image of `run`, and the next one laid aside."""
        with Interruption() as interruption:
            if Results(run.root, run.state).are_claimed():
                raise CheckoutBusyError(
                    "tests are running in this checkout, maybe on the database that would be replaced",
                    "Wait until they have ended, or have another session: --session KEY in a checkout of its own",
                )
            self._runs(run, session)
            warm = WarmDatabases(self._engine, self._host(interruption), self._say)
            with guarded(self._programs, session, run.state):
                warm.make_way(session, run.database)
                database = self._start(run, session, interruption)
                warm.lay_aside(session, run.database)
                return database

    def run_tests(self, run: Run, session: Session) -> Counts:
        """Run the test command against the session's database, which goes on running. Raises TestsFailedError."""
        with Interruption() as interruption:
            results = Results(run.root, run.state)
            results.begin()
            try:
                database = self._host(interruption).find(session, run.database.deadline, results.keep_log)
            except PipelineError as error:
                results.write_summary([("result", f"not run: {error.message}"), ("session", session.key)])
                raise
            return self._run_tests(run, database, interruption)

    def keep_alive(self, session: Session, seconds: float) -> None:
        """Let the session's database live for so many seconds from now on. Raises SessionMissingError where none runs."""
        with Interruption() as interruption:
            self._host(interruption).renew(session, seconds)

    def find(self, run: Run, session: Session) -> Database:
        """The session's running database. Raises SessionMissingError where there is none."""
        with Interruption() as interruption:
            return self._host(interruption).find(session, run.database.deadline, lambda _log: None)

    def read_log(self, session: Session, follow: bool = False) -> Iterator[bytes]:
        """The log of the session's database by lines, without passwords; with `follow` until it ends. Raises SessionMissingError."""
        with Interruption() as interruption, interruption.allowed():
            yield from self._host(interruption).follow_log(session, follow)

    def stop(self, state: Path, session: Session) -> int:
        """End the session; how many containers that were. Nothing there is no error."""
        with Interruption() as interruption:
            return self._stop(Results(state.parent, state), state, session, interruption)

    def whole(self, run: Run, session: Session) -> Counts:
        """Start, run the tests, stop, whatever happens."""
        with Interruption() as interruption:
            self._runs(run, session)  # where the engine does not answer, there is nothing to clean up, either
            with guarded(self._programs, session, run.state) as guardian:
                return self._whole(run, session, interruption, guardian)

    def _whole(self, run: Run, session: Session, interruption: Interruption, guardian: Companion) -> Counts:
        failure: BaseException | None = None
        try:
            database = self._start(run, session, interruption)
            return self._run_tests(run, database, interruption)
        except BaseException as error:
            failure = error
            raise
        finally:
            try:
                self._stop(Results(run.root, run.state), run.state, session, interruption)
            except (PipelineError, OSError) as error:
                if failure is None:
                    raise
                self._say(f"warning: {error}")  # why the run failed matters more
                guardian.abandon()

    def _host(self, interruption: Interruption) -> DatabaseHost:
        return DatabaseHost(self._engine, self._kind, interruption, self._say)

    def _runs(self, run: Run, session: Session) -> bool:
        """Whether the session's database runs; the first question to the engine, before anything is made."""
        try:
            container = look(self._engine, session.name_of(ROLE))
        except EngineError as error:
            Results(run.root, run.state).begin()
            self._fail_to_start(run, session, error)
            raise
        return container is not None and container.state in ALIVE

    def _fail_to_start(self, run: Run, session: Session, error: PipelineError) -> None:
        """Say so in the summary, and as a test that failed."""
        results = Results(run.root, run.state)
        results.write_summary([("result", f"not started: {error.message}"), ("database", run.database.image), ("session", session.key)])
        phase = error.phase if isinstance(error, NotReadyError) else "preparation" if isinstance(error, PreparationError) else "container"
        waited = {"database.waited": str(error.waited)} if isinstance(error, NotReadyError) else {}
        properties = {"database.image": run.database.image, "database.limits": _limits(run), "failure.phase": phase, **waited}
        results.write_failure(f"start of the database: {phase}", error.message, properties)

    def _start(self, run: Run, session: Session, interruption: Interruption, ours: bool = True) -> Database:
        """`ours`: the results are this start's, not those of tests that ran, or run, on a database that was there before."""
        results = Results(run.root, run.state)
        if ours:
            results.begin()
        self._say(f"database: {run.database.image}, session {session.key}")

        def run_program(database: Database, command: Sequence[str]) -> int:
            return self._programs.run_program(command, run.root, self._environment(database, run, results), quiet=True)

        database: Database | None = None
        try:
            self._sweep(run.state, session)
            database = self._host(interruption).start(session, run.database, run.steps, run_program, results.keep_log)
        except PipelineError as error:
            if ours:
                self._fail_to_start(run, session, error)
            raise
        finally:
            if database is None:
                self._discard_address(run.state, session)
        write_address_files(run.state, session.key, address_variables(database, self._kind.engine))
        return database

    def _run_tests(self, run: Run, database: Database, interruption: Interruption) -> Counts:
        if not run.workers:
            return self._run_command(run, database, Workers(), interruption)
        results = Results(run.root, run.state)
        results.begin()
        with contextlib.ExitStack() as ending:
            begun = time.monotonic()
            try:
                workers = ending.enter_context(self._workers(run, database, results, interruption))
            except PipelineError as error:
                results.write_summary([("result", f"not run: {error.message}"), ("session", database.session.key)])
                raise
            self._say(f"workers: {run.workers} × a {run.isolation} of their own, made in {time.monotonic() - begun:.1f} s")
            return self._run_command(run, replace(database, workers=workers.accounts), workers, interruption)

    @contextlib.contextmanager
    def _workers(self, run: Run, database: Database, results: Results, interruption: Interruption) -> Iterator[Workers]:
        """A state of its own for each worker, taken away at the end."""
        environment = self._environment(database, run, results)

        def run_program(variables: Mapping[str, str], command: Sequence[str]) -> int:
            return self._programs.run_program(command, run.root, {**environment, **variables}, quiet=True)

        def prepare(connect: Callable[[], Connection], state: State) -> None:
            """What of the preparation the application's user does, again. What the administrator does is done for the database."""
            steps = [step for step in run.steps if isinstance(step, Program) or step.user == "app"]
            variables = login_variables(state.address, state.account, self._kind.engine)
            run_steps(steps, lambda _user: connect(), lambda command: run_program(variables, command), lambda _line: None)

        def run_in_container(other: Database, command: Sequence[str]) -> int:
            return run_program(address_variables(other, self._kind.engine), command)

        if run.isolation == "container":
            watch = (self._engine, self._programs, run.state)
            host = self._host(interruption)
            made = containers_of(database.session, run.database, run.steps, run.workers, host, run_in_container, results.keep_log, watch)
        else:
            made = states_of(database, self._kind, run.workers, prepare)
        with contextlib.ExitStack() as ending:
            # A container must not be made half; what is left of a state goes with its container.
            with contextlib.nullcontext() if run.isolation == "container" else interruption.allowed():
                workers = ending.enter_context(made)
            try:
                yield workers
            finally:
                if not database.session.one_shot:  # its files are not to name what is gone
                    write_address_files(run.state, database.session.key, address_variables(database, self._kind.engine))

    def _run_command(self, run: Run, database: Database, workers: Workers, interruption: Interruption) -> Counts:
        results = Results(run.root, run.state)
        if not workers.states:
            results.begin()
        environment = self._environment(database, run, results, workers)
        begun = time.monotonic()
        self._say(f"tests: {run.command[0]}")
        code: int | None = None
        outcome = "interrupted"
        late = False

        def at_timeout() -> None:
            nonlocal late
            late = True
            self._say(f"tests: still running after {run.timeout:g} s; noting what the database is doing, then ending them")
            results.keep_log(database.mask(ask_activity(self._kind.engine, database).encode()), ACTIVITY)

        try:
            with self._renewing(database, workers, interruption), interruption.allowed():
                code = self._programs.run_program(run.command, run.folder, environment, timeout=run.timeout, at_timeout=at_timeout)
            outcome = f"ended after {run.timeout:g} s (`itest.timeout`)" if late else _outcome(code)
        except PipelineError as error:
            outcome = f"not run: {error.message}"
            raise
        finally:
            counts = self._keep(run, database, results, outcome, time.monotonic() - begun, interruption)
        if code or late:
            ended = self._host(interruption).epitaph(database)
            also = f"; meanwhile {ended}" if ended else ""
            what = f"the test command was {outcome}" if late else outcome
            raise TestsFailedError(f"{what}: {counts}{also}", f"Results and the database's log are in {_shown(results.folder, run.root)}/.")
        self._say(f"tests: {counts}")
        return counts

    @contextlib.contextmanager
    def _renewing(self, database: Database, workers: Workers, interruption: Interruption) -> Iterator[None]:
        """Renew the leases of the database and of the workers' containers while in here: tests may take longer than they last."""
        host, session = self._host(interruption), database.session

        def renew() -> None:
            for number in range(1, len(workers.states) + 1 if workers.containers else 1):
                with contextlib.suppress(PipelineError):  # it may be gone, which its tests will notice
                    host.renew(workers.containers or session, session.lease, role_of(number))
            host.renew(session, session.lease)

        with renewing(renew, session.lease):
            yield

    def _sweep(self, state: Path, session: Session) -> None:
        """Remove what outlived its lease, and the addresses of this checkout's sessions among it."""
        swept = sweep(self._engine, session.project)
        for key, why in sorted({(thing.session, thing.over) for thing in swept}):
            self._say(f"swept session {key}: {why}")
        gone = {file for thing in swept if thing.checkout == session.checkout for file in address_files(state, thing.session)}
        if gone:
            here = self._engine.list_containers({PROJECT: session.project, CHECKOUT: session.checkout})
            gone -= {file for container in here for file in address_files(state, container.labels.get(SESSION, ""))}
        for file in gone:  # without those that a living session has, too: builds that share a checkout share the short names
            file.unlink(missing_ok=True)

    def _discard_address(self, state: Path, session: Session) -> None:
        """Preparing wrote it; it goes with the database, unless that is another process's and lives on."""
        try:
            if self._engine.find_container(session.name_of(ROLE)) is not None:
                return
        except EngineError as error:
            self._say(f"warning: {error.message}")
        remove_address_files(state, session.key)

    def _keep(self, run: Run, database: Database, results: Results, outcome: str, seconds: float, interruption: Interruption) -> Counts:
        facts = _facts(run, database, self._ending(database, interruption))
        counts = results.collect(run.junit, {name: value for name, _, value in facts}, database.mask)
        try:
            host = self._host(interruption)
            results.keep_log(host.read_log(database))
            if counts.first_failure is not None:
                results.keep_log(host.read_log(database, since=counts.first_failure), FAILURE_LOG)
        except EngineError as error:
            self._say(f"warning: {error.message}")
        results.write_summary(
            [
                ("result", outcome),
                ("tests", str(counts)),
                ("database", database.description),
                *((label, value) for _, label, value in facts if label),
                ("tests took", f"{seconds:.1f} s"),
                ("session", database.session.key),
            ]
        )
        return counts

    def _ending(self, database: Database, interruption: Interruption) -> str:
        """How the database ended while the tests ran, in one line; `it runs` where it did not."""
        try:
            return self._host(interruption).epitaph(database).partition("; the end of its log")[0] or "it runs"
        except EngineError as error:
            return f"not known: {error.message}"

    def _stop(self, results: Results, state: Path, session: Session, interruption: Interruption) -> int:
        remove_address_files(state, session.key)
        return self._host(interruption).stop(session, results.keep_log)

    def _environment(self, database: Database, run: Run, results: Results, workers: Workers = Workers()) -> dict[str, str]:  # noqa: B008 - a value
        address = {**address_variables(database, self._kind.engine), **workers.variables(self._kind.engine)}
        files = write_address_files(run.state, database.session.key, address)
        return {**os.environ, **address, **files, RESULTS: str(results.folder)}


def _facts(run: Run, database: Database, ending: str) -> list[tuple[str, str, str]]:
    """What is known of the run's database: JUnit property, heading in the summary (empty: not there), value."""
    return [
        ("database.image", "", database.image),
        ("database.standin", "", str(database.standin).lower()),
        ("database.ready", "ready after", f"{database.ready_seconds:.1f} s" + (f" ({database.waited})" if database.waited else "")),
        ("database.limits", "limits", _limits(run)),
        ("database.end", "after the tests", ending),
    ]


def _limits(run: Run) -> str:
    return f"memory {run.database.memory}, shared memory {run.database.shm}, {run.database.processes} processes"


def _outcome(code: int) -> str:
    if code < 0:
        return f"the test command was killed by {Signals(-code).name}"
    return "the tests passed" if code == 0 else f"the test command failed with exit code {code}"


def _shown(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path
