"""The test bracket put together: configuration, container engine, database engine, programs."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from pipeline.adapters import processes
from pipeline.adapters.docker_engine import DockerEngine
from pipeline.config import Config
from pipeline.databases.engine import load_engine
from pipeline.integration.bracket import Bracket, Run, plan_run
from pipeline.integration.database import Database
from pipeline.sessions import Session, new_session, own_session
from pipeline.tasks.command import read_project, say


@dataclass(frozen=True)
class TestBench:
    """What the tasks start-oracle, run-tests, stop-oracle and itest work with."""

    __test__ = False  # its name looks like a test class to pytest

    config: Config

    @cached_property
    def bracket(self) -> Bracket:
        return Bracket(DockerEngine(), load_engine(self.config.itest.engine), processes, say)

    def plan(self, image: str = "", tests: bool = True) -> Run:
        """Check everything, then see to it that the image is there as far as this repository makes it."""
        from pipeline.tasks.wiring import image_reference  # git, BuildKit, registry: only a start needs them

        name = image or self.config.itest.image
        kind = load_engine(self.config.itest.engine)
        plan_run(self.config, name, kind, processes, tests)  # a mistake is worth knowing before minutes of building
        return plan_run(self.config, image_reference(self.config, name, say), kind, processes, tests)

    def plan_tests(self) -> Run:
        """Check everything; the database that runs already has its image."""
        return plan_run(self.config, self.config.itest.image, load_engine(self.config.itest.engine), processes)

    def own_session(self, key: str) -> Session:
        return own_session(self.config.project, self.config.root, self._lease, os.environ, key)

    def new_session(self) -> Session:
        return new_session(self.config.project, self.config.root, self._lease, os.environ)

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
        "standin": database.standin,
        **address,
        "user": database.user.name,
        "dsn": database.dsn,
        "ready_seconds": round(database.ready_seconds, 3),
    }
