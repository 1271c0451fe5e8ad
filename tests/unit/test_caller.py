"""What `start-oracle --with-caller` leaves behind waits for its caller's end, and then stops that one database and no other."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import caller
from pipeline.caller import Caller, read_caller, wait_for_end
from pipeline.sessions import process_start


def test_the_caller_is_the_process_that_started_this_one() -> None:
    script = "from pipeline.caller import read_caller; print(*read_caller())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(os.getpid()), process_start(os.getpid())]
    assert read_caller().pid == os.getppid()


def test_a_caller_that_ended_before_this_process_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVOKEW", f"{os.getpid()} 999999999")
    assert read_caller() == Caller(999999999, "")
    wait_for_end(read_caller())
    monkeypatch.setenv("INVOKEW", f"{os.getpid()} {os.getppid()}")
    assert read_caller().start
    monkeypatch.setenv("INVOKEW", "1 999999999")  # that of a command that this one runs in
    assert read_caller().pid == os.getppid()


def test_it_waits_until_the_caller_ends_however_that_happens() -> None:
    process = subprocess.Popen(["sleep", "60"])
    ended = threading.Event()

    def wait() -> None:
        wait_for_end(Caller(process.pid, process_start(process.pid)))
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    assert not ended.wait(0.2)
    process.kill()
    assert ended.wait(10)  # nobody has asked for its exit code yet
    process.wait()


@pytest.mark.parametrize("start", ["", "1"])
def test_it_does_not_wait_for_another_process_of_the_same_id(start: str) -> None:
    wait_for_end(Caller(os.getpid(), start))


def test_it_does_not_wait_for_one_that_has_ended() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    wait_for_end(Caller(process.pid, "1"))


@pytest.mark.parametrize(("there", "stopped"), [(["this"], True), (["another"], False), ([], False)])
def test_only_the_database_that_it_was_started_with_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: list[str], stopped: bool
) -> None:
    engine = SimpleNamespace(list_containers=lambda _labels: [SimpleNamespace(id=name) for name in there])
    monkeypatch.setattr("pipeline.adapters.docker_engine.DockerEngine", lambda: engine)
    ran: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_options: ran.append(command))
    caller.main([str(os.getpid()), "1", str(tmp_path), "shop", "own-1", "this"])
    assert [command[-3:] for command in ran] == [["stop-oracle", "--session", "own-1"]] * stopped
