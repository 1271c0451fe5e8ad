"""The test bracket put together: configuration, container engine, database engine, programs."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from pipeline.adapters import processes
from pipeline.adapters.docker_engine import DockerEngine
from pipeline.caller import PROGRAM, Caller
from pipeline.config import Config
from pipeline.databases.contract import DatabaseKind
from pipeline.errors import ConfigurationError, EngineError
from pipeline.integration.bracket import Bracket
from pipeline.integration.database import Database
from pipeline.integration.results import Results
from pipeline.integration.run import Run, check_run, read_kind
from pipeline.sessions import Session, new_session, own_session
from pipeline.tasks.baking import BakedDatabases
from pipeline.tasks.command import read_project, say

MOST_WORKERS = 64
LONGEST_LEASE = 24.0 * 31  # hours


@dataclass(frozen=True)
class TestBench:
    """What the tasks start-oracle, run-tests, stop-oracle and itest work with."""

    __test__ = False  # its name looks like a test class to pytest

    config: Config

    @cached_property
    def bracket(self) -> Bracket:
        return Bracket(self._engine, self.kind, processes, say)

    @cached_property
    def baked(self) -> BakedDatabases:
        """The baked databases of this project."""
        return BakedDatabases(self.config, self._engine, self.kind, say)

    @property
    def results(self) -> Results:
        return Results(self.config.root, self.config.state)

    def prepare_run(self, image: str = "", tests: bool = True, baked: bool = True) -> Run:
        """Check everything, then see to it that the image is there as far as this repository makes it.

        With `baked`, a baked database takes its place where there is one and the configuration allows it.
        """
        from pipeline.tasks.service_images import provide_image  # git, BuildKit, registry: only a start needs them

        name = image or self.config.itest.image
        run = check_run(self.config, name, self.kind, processes, tests)  # a mistake is worth knowing before minutes of building
        run = replace(run, database=replace(run.database, image=provide_image(self.config, name, say)))
        try:
            return self.baked.take(run) if baked else run
        except EngineError:
            if self._engine_answers(run.database.image):
                raise
            return run  # the start will meet it, too, and write it down where people look

    def check_run(self) -> Run:
        """Check everything but the test command; the database that runs already has its image."""
        return check_run(self.config, self.config.itest.image, self.kind, processes, tests=False)

    def with_workers(self, run: Run, workers: int) -> Run:
        """`run` with a database state for each of so many workers; 0: without any. Raises ConfigurationError."""
        if not 0 <= workers <= MOST_WORKERS:
            raise ConfigurationError(f"--workers {workers}: how many there may be is 1 to {MOST_WORKERS}", "Leave it out for none.")
        return replace(run, workers=workers)

    def prepare_tests(self, workers: int) -> Run:
        """Check everything; for containers of the workers' own also see to it that their image is there."""
        if workers and self.config.itest.isolation == "container":
            return self.with_workers(self.prepare_run(), workers)
        return self.with_workers(self.check_tests(), workers)

    def check_tests(self) -> Run:
        """Check everything; the database that runs already has its image."""
        return check_run(self.config, self.config.itest.image, self.kind, processes)

    def end_with(self, caller: Caller, database: Database) -> None:
        """Let the database be stopped when `caller` ends."""
        session = database.session
        arguments = (str(caller.pid), caller.start, str(self.config.root), session.project, session.key, database.container)
        processes.start_companion(PROGRAM, arguments).abandon()  # it waits for the caller, not for us

    def keep_alive(self, session: Session, hours: str) -> None:
        """Let the session's database live for so many hours from now. Raises ConfigurationError, SessionMissingError."""
        try:
            lasting = float(hours)
        except ValueError:
            lasting = 0.0
        if not 0 < lasting <= LONGEST_LEASE:
            raise ConfigurationError(
                f"--keep {hours}: a lease lasts up to {LONGEST_LEASE:g} hours", "To end the session: invoke stop-oracle"
            )
        self.bracket.keep_alive(session, lasting * 3600)
        say(f"session {session.key}: lives for {lasting:g} h from now on, unless longer was asked for before")

    def own_session(self, key: str) -> Session:
        return own_session(self.config.project, self.config.root, self._lease, os.environ, key)

    def new_session(self) -> Session:
        return new_session(self.config.project, self.config.root, self._lease, os.environ)

    @cached_property
    def kind(self) -> DatabaseKind:
        return read_kind(self.config)

    def _engine_answers(self, image: str) -> bool:
        try:
            self._engine.find_image(image)
        except EngineError:
            return False
        return True

    @cached_property
    def _engine(self) -> DockerEngine:
        return DockerEngine()

    @property
    def _lease(self) -> float:
        return self.config.itest.lease * 3600


def open_bench() -> TestBench:
    # `python`, `pytest` and their like in `run:` are those of the environment that invoke runs in, as if it were activated.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return TestBench(read_project())


def as_json(database: Database) -> dict[str, object]:
    """What `start-oracle --json` prints; part of the contract with other programs. No password."""
    address = asdict(database.address)
    return {
        "session": database.session.key,
        "engine": database.engine,
        "image": database.image,
        "baked": database.baked,
        "standin": database.standin,
        **address,
        "user": database.user.name,
        "dsn": database.dsn,
        "ready_seconds": round(database.ready_seconds, 3),
    }
