"""The lease program in every shell that images have; what it does as a container's first process is tested on an engine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pipeline.errors import EngineError
from pipeline.integration import lease
from pipeline.integration.lease import End, find_end, lease_files, renewal, renewing, without_end

SHELLS = [shell for shell in (("dash",), ("bash",), ("busybox", "sh")) if shutil.which(shell[0])] or [("sh",)]
RUNNING_LONG = "echo begun; sleep 30"


def test_a_lease_is_renewed_now_and_until_the_end_whatever_fails_meanwhile() -> None:
    renewed = threading.Semaphore(0)

    def renew() -> None:
        renewed.release()
        if threading.current_thread() is not threading.main_thread():
            raise EngineError("it does not answer for a moment")

    with renewing(renew, 0.02):
        for _ in range(4):
            assert renewed.acquire(timeout=30)
    assert [thread for thread in threading.enumerate() if "renew_again" in thread.name] == []
    with pytest.raises(EngineError), renewing(partial(_fail, "there is none"), 1):
        raise AssertionError("the first one is an error")


def _fail(why: str) -> None:
    raise EngineError(why)


class Leased:
    """A program under a lease."""

    def __init__(self, shell: tuple[str, ...], folder: Path, script: str, seconds: int) -> None:
        self._folder = folder
        for name, content in lease_files(seconds).items():
            (folder / name).write_bytes(content)
        command = [*shell, str(folder / "lease.sh"), "sh", "-c", script]
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def renew(self, content: bytes) -> None:
        (self._folder / ".lease").write_bytes(content)

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 20
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, f"'{text}' is not in the log: {self.log.read_text()}"
            time.sleep(0.02)

    def wait_for_process(self, command: str) -> None:
        deadline = time.monotonic() + 20
        while command not in _listed("-o", "args=", "--sid", str(self.process.pid)):
            assert time.monotonic() < deadline, f"there is no process '{command}'"
            time.sleep(0.02)

    def children(self) -> dict[str, int]:
        """What it runs, by command line."""
        listed = _listed("-o", "pid=,args=", "--ppid", str(self.process.pid))
        return {line.split(maxsplit=1)[1]: int(line.split()[0]) for line in listed}

    def end(self) -> int:
        return self.process.wait(20)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _listed(*options: str) -> list[str]:
    return subprocess.run(["ps", *options], capture_output=True, text=True, check=False).stdout.splitlines()


Run = Callable[..., Leased]


@pytest.fixture(params=SHELLS, ids=" ".join)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    made: list[Leased] = []

    def start(script: str, seconds: int = 60) -> Leased:
        made.append(Leased(request.param, tmp_path, script, seconds))
        return made[-1]

    yield start
    for leased in made:
        leased.kill()


def test_it_ends_when_the_lease_is_over(run: Run) -> None:
    begun = time.monotonic()
    assert run(RUNNING_LONG, seconds=1).end() == 124
    assert time.monotonic() - begun < 10


def test_without_a_lease_nothing_goes_on(run: Run, tmp_path: Path) -> None:
    leased = run(RUNNING_LONG, seconds=0)
    assert leased.end() == 124


def test_a_renewed_lease_counts_from_when_it_is_seen(run: Run) -> None:
    leased = run(RUNNING_LONG, seconds=1)
    leased.wait_for_process("sleep 1")
    leased.renew(renewal(9)[".lease"])
    leased.wait_for_process("sleep 9")


def test_a_renewal_never_shortens_a_lease(run: Run) -> None:
    leased = run(RUNNING_LONG, seconds=100)
    leased.wait_for_process("sleep 15")
    watches = {pid for command, pid in leased.children().items() if "sleep 30" not in command}
    leased.renew(renewal(0)[".lease"])
    for pid in watches:  # then it looks again
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while not {pid for command, pid in leased.children().items() if "sleep 30" not in command and "<defunct>" not in command} - watches:
        assert leased.process.poll() is None, "the lease of 100 s is over"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    leased.wait_for_process("sleep 15")
    assert leased.process.poll() is None


@pytest.mark.parametrize("half", [b"half", b"half x\n"])
def test_half_of_a_lease_is_none(run: Run, half: bytes) -> None:
    leased = run(RUNNING_LONG, seconds=1)
    leased.wait_for_process("sleep 1")
    leased.renew(half)
    assert leased.end() == 124
    assert leased.log.read_text() == "begun\n"


def test_a_program_that_ends_by_itself_has_the_last_word_and_is_stayed_for(run: Run) -> None:
    leased = run("echo no space left; exit 3")
    leased.wait_for("pipeline.lease")
    assert find_end(leased.log.read_bytes()) == End(3, 0)
    assert without_end(leased.log.read_bytes()) == b"no space left\n"
    assert leased.process.poll() is None


def test_a_killed_program_has_the_exit_code_of_its_signal(run: Run) -> None:
    leased = run("kill -9 $$")
    leased.wait_for("pipeline.lease")
    assert find_end(leased.log.read_bytes()) == End(137, 0)
    leased.process.terminate()
    assert leased.end() == 137


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2])
def test_signals_are_handed_on(run: Run, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    leased = run(f"trap 'echo heard; exit 5' {name}; echo begun; while :; do sleep 0.05; done")
    leased.wait_for("begun")
    leased.process.send_signal(number)
    if number == signal.SIGTERM:
        assert leased.end() == 5
    else:
        leased.wait_for("pipeline.lease: ended with exit code 5")
    assert "heard" in leased.log.read_text()


def test_a_signal_that_the_program_outlives_is_not_its_end(run: Run) -> None:
    leased = run("trap 'echo reloaded' HUP; trap 'exit 6' TERM; echo begun; while :; do sleep 0.05; done")
    leased.wait_for("begun")
    leased.process.send_signal(signal.SIGHUP)
    leased.wait_for("reloaded")
    assert "pipeline.lease" not in leased.log.read_text()
    leased.process.terminate()
    assert leased.end() == 6


def test_a_program_may_be_ended_in_order_and_stayed_for(run: Run) -> None:
    leased = run("trap 'echo clean; exit 0' TERM; echo begun; while :; do sleep 0.05; done")
    leased.wait_for("begun")
    leased.process.send_signal(getattr(signal, f"SIG{lease.STAY}"))
    leased.wait_for("pipeline.lease: ended with exit code 0")
    assert leased.process.poll() is None
    leased.process.terminate()
    assert leased.end() == 0


def test_who_kills_what_looks_at_the_lease_does_not_end_the_lease(run: Run) -> None:
    leased = run(RUNNING_LONG, seconds=3)
    leased.wait_for("begun")
    killed: set[int] = set()
    deadline = time.monotonic() + 20
    while len(killed) < 3:
        assert time.monotonic() < deadline
        for command, pid in leased.children().items():
            if "sleep 30" not in command and "<defunct>" not in command and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
    assert leased.end() == 124


def test_orphans_are_reaped(run: Run) -> None:
    leased = run("for number in 1 2 3; do (sleep 0.1 & ); done; sleep 0.5; echo orphaned; sleep 30")
    leased.wait_for("orphaned")
    assert not [command for command in leased.children() if "<defunct>" in command]


def test_only_the_last_end_counts_and_words_that_look_like_one_do_not() -> None:
    log = (
        b"says pipeline.lease: ended with exit code 1, out of memory 0\n\npipeline.lease: ended with exit code 137, out of memory 2\nlate\n"
    )
    assert find_end(log) == End(137, 2)
    assert find_end(b"pipeline.lease: ended\n") is None
    assert without_end(log) == b"says pipeline.lease: ended with exit code 1, out of memory 0\nlate\n"
