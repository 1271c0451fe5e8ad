"""Foreign programs: found, run, told of signals, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.adapters.processes import find_program, run_program
from pipeline.errors import ConfigurationError

RUNNER = """
import sys, os
from pathlib import Path
from pipeline.adapters.processes import run_program
try:
    run_program(sys.argv[2:], Path("."), os.environ, grace=float(sys.argv[1]))
except KeyboardInterrupt:
    print("interrupted")
"""


def run(folder: Path, script: str) -> int:
    return run_program(["sh", "-c", script], folder, os.environ)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9)])
def test_the_exit_code_is_the_program_s(tmp_path: Path, script: str, code: int) -> None:
    assert run(tmp_path, script) == code


def test_it_runs_in_its_folder_with_its_environment(tmp_path: Path) -> None:
    assert run_program(["sh", "-c", 'echo "$A" > out'], tmp_path, {"PATH": os.environ["PATH"], "A": "b c"}) == 0
    assert (tmp_path / "out").read_text() == "b c\n"


def test_a_quiet_program_leaves_stdout_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_program(["echo", "aside"], tmp_path, os.environ, quiet=True) == 0
    assert run_program(["echo", "result"], tmp_path, os.environ) == 0
    assert capfd.readouterr() == ("result\n", "aside\n")


def test_programs_are_found_by_path_in_their_folder_or_on_path(tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text("#!/bin/sh\nexit 5\n")
    assert find_program("./run.sh", tmp_path) is None  # not executable
    script.chmod(0o755)
    assert find_program("./run.sh", tmp_path) == script
    assert run_program(["./run.sh"], tmp_path, os.environ) == 5
    assert find_program("run.sh", tmp_path) is None
    assert find_program("sh", tmp_path) is not None


def test_what_cannot_be_started_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no program 'nowhere'"):
        run_program(["nowhere"], tmp_path, os.environ)
    bad = tmp_path / "bad"
    bad.write_text("#!/no/such/interpreter\n")
    bad.chmod(0o755)
    with pytest.raises(ConfigurationError, match="cannot be started"):
        run_program(["./bad"], tmp_path, os.environ)


def test_what_a_program_leaves_running_is_ended(tmp_path: Path) -> None:
    assert run(tmp_path, "sleep 60 & echo $! > pid") == 0
    assert not is_running(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "INT"), (signal.SIGTERM, "TERM")])
def test_a_signal_reaches_the_whole_group_once_and_then_us(tmp_path: Path, number: signal.Signals, said: str) -> None:
    script = f"trap 'echo {said} >> told; exit 0' {said}; (trap 'echo child >> told; exit 0' {said}; touch ready; while :; do sleep 0.05; done) & wait; wait"
    if number == signal.SIGINT:  # a shell without job control starts background commands with INT ignored
        script = f"trap 'echo {said} >> told; exit 0' {said}; touch ready; while :; do sleep 0.05; done"
    process = subprocess.Popen([sys.executable, "-c", RUNNER, "5", "sh", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    wait_for(tmp_path / "ready")
    process.send_signal(number)
    out, _ = process.communicate(timeout=10)
    assert (tmp_path / "told").read_text().split().count(said) == 1
    assert out == "interrupted\n" if number == signal.SIGINT else process.returncode == -signal.SIGTERM


def test_who_does_not_listen_is_killed_after_the_grace(tmp_path: Path) -> None:
    script = "trap '' INT TERM; echo $$ > pid; touch ready; while :; do sleep 0.05; done"
    process = subprocess.Popen([sys.executable, "-c", RUNNER, "0.3", "sh", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    wait_for(tmp_path / "ready")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert time.monotonic() - began < 5
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_a_program_that_takes_too_long_is_looked_at_and_then_ended(tmp_path: Path) -> None:
    seen: list[bool] = []

    def look() -> None:
        seen.append(is_running(int((tmp_path / "pid").read_text())))

    code = run_program(["sh", "-c", "echo $$ > pid; sleep 60"], tmp_path, os.environ, timeout=0.5, at_timeout=look)
    assert (code, seen) == (-signal.SIGTERM, [True])
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_a_program_that_ends_in_time_is_left_alone(tmp_path: Path) -> None:
    assert run_program(["true"], tmp_path, os.environ, timeout=60, at_timeout=lambda: pytest.fail("it was in time")) == 0


def test_it_also_runs_outside_the_main_thread(tmp_path: Path) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run(tmp_path, "exit 4")))
    thread.start()
    thread.join()
    assert codes == [4]
