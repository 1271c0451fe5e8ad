"""The guardian removes what a dead process began, what comes of it later, and nothing else."""

from __future__ import annotations

import ast
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from pipeline.adapters import processes
from pipeline.errors import EngineError
from pipeline.integration.container_engine import ContainerEngine
from pipeline.integration.guardian import Charge, Companion, clean_up, guarded
from pipeline.sessions import OWNER, PROJECT, SESSION, Session

OURS, OTHERS = "host/1.2:3:4", "host/1.2:5:6"


@dataclass
class Container:
    id: str
    labels: Mapping[str, str]
    prepared: bool = False
    name: str = "name"
    state: str = "running"


@dataclass
class Engine:
    """An engine in memory, which may fail, and may still be busy with what it was asked for."""

    containers: list[Container]
    late: list[Container] = field(default_factory=list)  # come into being at the second look
    failures: int = 0
    looks: int = 0

    def list_containers(self, labels: Mapping[str, str]) -> list[Container]:
        self.looks += 1
        if self.looks <= self.failures:
            raise EngineError("it does not answer")
        if self.looks == self.failures + 2:
            self.containers += self.late
        return [found for found in self.containers if labels.items() <= found.labels.items()]

    def list_networks(self, labels: Mapping[str, str]) -> dict[str, Mapping[str, str]]:
        return {}

    list_volumes = list_networks

    def read_file(self, container: str, path: str) -> bytes | None:
        assert path == "/run/pipeline/.prepared"
        return b"" if any(found.prepared for found in self.containers if found.id == container) else None

    def remove_container(self, container: str) -> None:
        self.containers = [found for found in self.containers if found.id != container]


def labels(session: str = "k", owner: str = OURS, project: str = "ledger") -> dict[str, str]:
    return {PROJECT: project, SESSION: session, OWNER: owner}


def left(engine: Engine, state: Path, one_shot: str, session: str = "k") -> set[str]:
    clean_up(cast(ContainerEngine, engine), Charge("ledger", session, OURS, str(state), one_shot), patience=0.3)
    return {container.id for container in engine.containers}


def test_a_one_shot_session_goes_as_a_whole(tmp_path: Path) -> None:
    ours = [Container("begun", labels()), Container("prepared", labels(), prepared=True), Container("by another", labels(owner=OTHERS))]
    foreign = [Container("other session", labels("other")), Container("other project", labels(project="other"))]
    assert left(Engine([*ours, *foreign]), tmp_path, "yes") == {"other session", "other project"}


def test_of_a_start_goes_what_it_did_not_finish(tmp_path: Path) -> None:
    assert left(Engine([Container("begun", labels()), Container("by another", labels(owner=OTHERS))]), tmp_path, "no") == {"by another"}
    assert left(Engine([Container("prepared", labels(), prepared=True)]), tmp_path, "no") == {"prepared"}


def test_what_comes_into_being_later_goes_too(tmp_path: Path) -> None:
    assert left(Engine([], late=[Container("late", labels())]), tmp_path, "no") == set()


def test_an_engine_that_fails_is_asked_again(tmp_path: Path) -> None:
    assert left(Engine([Container("begun", labels())], failures=1), tmp_path, "yes") == set()


@pytest.mark.parametrize(("prepared", "kept"), [(False, set[str]()), (True, {"database.sh", "database.properties"})])
def test_the_files_go_with_the_session_and_what_is_half_written_always(tmp_path: Path, prepared: bool, kept: set[str]) -> None:
    with subprocess.Popen(["true"]) as process:
        ended = process.pid
    for name in ("database.sh", "database.properties", f"database.sh.unfinished-{ended}", "database-other.sh"):
        (tmp_path / name).touch()
    left(Engine([Container("c", labels("own-k"), prepared=prepared)]), tmp_path, "no", session="own-k")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "database-other.sh"}


@dataclass
class Told:
    """What a companion was told."""

    words: list[str] = field(default_factory=list)

    def start_companion(self, module: str, arguments: object) -> Companion:
        return self

    def dismiss(self) -> None:
        self.words.append("dismiss")

    def abandon(self) -> None:
        self.words.append("abandon")


@pytest.mark.parametrize(
    ("error", "word"), [(None, "dismiss"), (KeyboardInterrupt(), "dismiss"), (EngineError("it does not answer"), "abandon")]
)
def test_only_where_the_engine_failed_it_is_to_try_again(tmp_path: Path, error: BaseException | None, word: str) -> None:
    told = Told()
    with contextlib.suppress(EngineError, KeyboardInterrupt), guarded(told, Session("ledger", "k", "/c", 60), tmp_path):
        if error:
            raise error
    assert told.words == [word]


# The process. `WITNESS` stands in for the guardian's module: it writes down what it heard.

WITNESS = "import os, sys; text = os.read(0, 9); open(sys.argv[1], 'wb').write(b'heard:' + text)\n"


@pytest.fixture
def witness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "witness.py").write_text(WITNESS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("JENKINS_NODE_COOKIE", "1")
    return tmp_path / "heard"


def heard(path: Path) -> bytes:
    for _ in range(1000):
        if path.exists() and path.read_bytes():
            return path.read_bytes()
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.02)"], check=True)
    raise AssertionError("it heard nothing")


def test_a_companion_that_is_dismissed_ends_before_we_go_on(witness: Path) -> None:
    companion = processes.start_companion("witness", [str(witness)])
    companion.dismiss()
    assert companion.process.poll() == 0
    assert witness.read_bytes() == b"heard:done"
    companion.abandon()  # says nothing more


def test_a_companion_that_is_abandoned_hears_the_end_only(witness: Path) -> None:
    processes.start_companion("witness", [str(witness)]).abandon()
    assert heard(witness) == b"heard:"


def test_a_companion_outlives_its_parent_and_the_terminal_and_jenkins(witness: Path) -> None:
    script = (
        "import os, sys; from pipeline.adapters.processes import start_companion; "
        f"print(start_companion('witness', [{str(witness)!r}]).process.pid, flush=True); os.read(0, 1)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=Path.cwd()
    )
    assert parent.stdout
    pid = int(parent.stdout.readline())
    assert os.getsid(pid) == pid
    assert b"JENKINS_NODE_COOKIE" not in Path(f"/proc/{pid}/environ").read_bytes()
    os.killpg(parent.pid, signal.SIGINT)
    os.killpg(parent.pid, signal.SIGKILL)
    parent.communicate()
    assert heard(witness) == b"heard:"


def test_the_guardian_imports_nothing_while_it_waits() -> None:
    script = "import sys; before = set(sys.modules); import pipeline.guardian; print(sorted(set(sys.modules) - before))"
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert set(ast.literal_eval(said)) <= {"__future__", "pipeline", "pipeline.guardian"}
