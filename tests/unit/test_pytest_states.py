"""What a worker does at its end, without an engine."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.databases.engine import Account, Address, Password
from pipeline.databases.states import Server, State
from pipeline.errors import EngineError
from pipeline.pytest_run import Run
from pipeline.pytest_states import ContainerStates, RecordedStates, Worker


class SlowEngine:
    """An engine on which the second container does not become ready before it is removed."""

    def __init__(self) -> None:
        self.starting, self.removed = threading.Event(), threading.Event()

    def abort(self) -> None:
        self.removed.set()

    def remove_container(self, _container: str) -> None:
        pass


class SlowRun:
    def __init__(self) -> None:
        self.slow = SlowEngine()
        self.started = 0

    def engine(self) -> SlowEngine:
        return self.slow

    def start_container(self, engine: SlowEngine, _role: str) -> Any:
        self.started += 1
        if self.started > 1:
            engine.starting.set()
            assert engine.removed.wait(20), "nobody removed it"
            raise EngineError("the container is gone")
        password = Password("secret")
        server = Server(Address("h", 1, "s"), Account("app", password), Account("system", password))
        known = type("Known", (), {"host": "h", "port": 1, "server": server})
        return known, type("Database", (), {"container": "c"})


def test_the_end_does_not_wait_for_a_container_that_is_made_ahead(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text("registry: localhost:5000\nnamespace: ledger\nitest: {image: any, engine: postgres}\n")
    worker = Worker(tmp_path, "0", "", "gw0", "", "container")
    run = SlowRun()
    worker._source = ContainerStates(cast(Run, run), "gw0")
    state = worker.begin("test")
    worker.end("test", state, known_to_test=True)
    assert run.slow.starting.wait(10)
    worker.close()
    worker.close()
    assert run.slow.removed.is_set()
    assert run.started == 2


class Source:
    def __init__(self, fails: bool) -> None:
        self.fails = fails

    def create(self) -> State:
        return State("one", Address("h", 1, "s"), Account("app", Password("secret")))

    def restore(self, _state: State) -> bool:
        return True

    def drop(self, _state: State) -> None:
        if self.fails:
            raise EngineError("no answer")

    def close(self) -> None:
        pass


@pytest.mark.parametrize("fails", [False, True])
def test_a_state_stands_in_the_folder_until_it_is_dropped(tmp_path: Path, fails: bool) -> None:
    states = RecordedStates(Source(fails), tmp_path / "states")
    state = states.create()
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["one"]
    if fails:
        with pytest.raises(EngineError):
            states.drop(state)
    else:
        states.drop(state)
    assert [path.name for path in (tmp_path / "states").iterdir()] == (["one"] if fails else [])
