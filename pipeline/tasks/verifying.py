"""The conformance suite put together: which image and contract, a session for its container, where the report goes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.adapters import processes
from pipeline.adapters.docker_engine import DockerEngine
from pipeline.config import Config
from pipeline.databases.contract import DatabaseKind, find_contract, load_kind, read_contract
from pipeline.databases.engine import load_engine
from pipeline.databases.verify import Report, verify_image, write_report
from pipeline.integration.guardian import guarded
from pipeline.integration.lease import FOLDER, LAUNCHER, lease_files, look, without_end
from pipeline.integration.run import read_kind
from pipeline.sessions import new_session
from pipeline.tasks.command import read_project

ROLE = "verify"


def verify(image: str, contract: str, say: Callable[[str], None]) -> Report:
    """Verify the configured image, or `image`, by the configured contract, or `contract`; the report is written, too."""
    from pipeline.tasks.service_images import provide_image  # git, BuildKit, registry: only an image of this repository needs them

    config = read_project()
    kind = _kind(config, contract)
    name = image or config.itest.image
    reference = provide_image(config, name, say)
    engine = LeasingEngine(config.itest.lease * 3600)
    if engine.find_image(reference) is None:
        say(f"pulling {reference}")
        engine.pull_image(reference)
    session = new_session(config.project, config.root, config.itest.lease * 3600, os.environ)
    say(f"verify: {reference}, contract {kind.contract.name}")
    with guarded(processes, session, config.state):
        report = verify_image(engine, kind, reference, session.name_of(ROLE), session.labels(ROLE), say)
    report = replace(report, image=name)
    say(f"verify: the report is {_shown(write_report(report, config.state), config.root)}")
    return report


class LeasingEngine(DockerEngine):
    """The engine that the suite works with: what it makes lives for as long as its lease, as any database of ours does.

    An image must be able to stop and to start again, so what is left of the container when the lease is over, which runs nothing any
    more, stays until `invoke clean --over` or the next start.
    """

    def __init__(self, lease: float) -> None:
        """`lease`: seconds from the start of a container on."""
        super().__init__()
        self._lease = lease
        self._within = DockerEngine()  # as the container is without the program of its lease

    def create_container(self, **options: Any) -> str | None:
        return super().create_container(**{**options, "launcher": LAUNCHER})

    def start_container(self, container: str) -> None:
        self.write_files(container, FOLDER, lease_files(self._lease))
        super().start_container(container)

    def find_container(self, container: str) -> Any:
        return look(self._within, container)

    def read_log(self, container: str, lines: int = 0, since: float = 0.0) -> bytes:
        return without_end(super().read_log(container, lines, since))


def _kind(config: Config, contract: str) -> DatabaseKind:
    """A contract that is named brings its engine with it."""
    if not contract:
        return read_kind(config)
    path = find_contract(load_engine(config.itest.engine), contract, config.root)
    return load_kind(read_contract(path).engine, contract, config.root)


def _shown(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path
