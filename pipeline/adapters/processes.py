"""Running the programs that a project's configuration names: its test command, and what prepares its database.

A program gets a process group of its own and this process's standard streams. INT, TERM and HUP that reach this process
while it waits are passed on to the whole group; who does not end within the grace period is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.errors import ConfigurationError

GRACE = 10.0  # seconds between a passed-on signal and KILL; what `docker stop` gives a container
STRAGGLERS_GRACE = 2.0  # seconds for what the program itself left running
STDERR = 2  # the descriptor
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FAREWELL = b"done"  # what a companion is told
FAREWELL_PATIENCE = 2.0  # seconds
COOKIES = ("BUILD_ID", "JENKINS_NODE_COOKIE", "JENKINS_SERVER_COOKIE", "HUDSON_SERVER_COOKIE")  # Jenkins ends what carries one


def find_program(program: str, folder: Path, environment: Mapping[str, str] | None = None) -> Path | None:
    """What would run as `program` started in `folder`: by path relative to it, or looked up on PATH; None if nothing would."""
    if "/" in program:
        path = folder / program
        return path if path.is_file() and os.access(path, os.X_OK) else None
    found = shutil.which(program, path=(os.environ if environment is None else environment).get("PATH", os.defpath))
    return Path(found) if found else None


def run_program(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    *,
    quiet: bool = False,
    grace: float = GRACE,
    timeout: float | None = None,
    at_timeout: Callable[[], None] = lambda: None,
) -> int:
    """Run `command` in `folder` until it ends; its exit code, negative for the signal that killed it.

    `quiet`: what it prints goes to stderr, for stdout is for a result of ours. `timeout`: seconds after which it is ended as by
    TERM; `at_timeout` is called before, while it still runs.
    A signal that arrived meanwhile is delivered to this process's own handler once nothing of the program runs any more.
    Raises ConfigurationError where it cannot be started.
    """
    program = find_program(command[0], folder, environment)
    if program is None:
        raise ConfigurationError(f"there is no program '{command[0]}' (looked for in {folder} and on PATH)", "Correct or install it.")
    with _forwarding() as forwarding:
        try:
            process = subprocess.Popen(
                [str(program.absolute()), *command[1:]],
                cwd=folder,
                env=dict(environment),
                stdout=STDERR if quiet else None,
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigurationError(
                f"{program} cannot be started: {error.strerror}", "Is it executable, with a right first line?"
            ) from error
        forwarding.started(process.pid)
        try:
            code = _wait(process, forwarding, grace, timeout, at_timeout)
        finally:
            _end_group(process, 0.0 if process.poll() is None else STRAGGLERS_GRACE)
    return code


@dataclass(frozen=True)
class Companion:
    """A process of our own code that waits at the end of a pipe until this process ends, or tells it that it is done."""

    process: subprocess.Popen[bytes]

    def dismiss(self) -> None:
        """It ends without having done anything, and before this returns."""
        if not self._close(FAREWELL):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=FAREWELL_PATIENCE)

    def abandon(self) -> None:
        """It does what it would do if this process had been killed."""
        self._close(b"")
        self.process.returncode = 0  # nobody is going to wait for it

    def _close(self, word: bytes) -> bool:
        """Whether the pipe was open until now."""
        pipe = self.process.stdin
        if pipe is None or pipe.closed:
            return False
        with contextlib.suppress(OSError):  # it was killed
            pipe.write(word)
        with contextlib.suppress(OSError):
            pipe.close()
        return True


def start_companion(module: str, arguments: Sequence[str]) -> Companion:
    """Start `module` beside this process. Ctrl-C in the terminal does not reach it, nor does a CI server that ends what a build started."""
    environment = {name: value for name, value in os.environ.items() if name not in COOKIES}
    home = Path(__file__).resolve().parent.parent.parent  # where our code is found, however this process came by it
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=home,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # who waits for the end of our output shall not wait for the companion
        stderr=subprocess.DEVNULL,
        bufsize=0,
        start_new_session=True,
    )
    return Companion(process)


class _Forwarding:
    """The first signal that arrived while a program runs; it is passed on once, for a second INT makes many give up cleaning."""

    def __init__(self) -> None:
        self._group = 0
        self.arrived: signal.Signals | None = None

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if self.arrived is None:
            self.arrived = signal.Signals(number)
            self._pass_on()

    def started(self, group: int) -> None:
        self._group = group
        self._pass_on()

    def _pass_on(self) -> None:
        if self._group and self.arrived is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._group, self.arrived)


@contextlib.contextmanager
def _forwarding() -> Iterator[_Forwarding]:
    forwarding = _Forwarding()
    previous: dict[int, Any] = {}
    for number in FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            with contextlib.suppress(ValueError):  # only the main thread may handle signals
                previous[number] = signal.signal(number, forwarding.handle)
    try:
        yield forwarding
    finally:
        for restored, handler in previous.items():
            signal.signal(restored, handler)
        if forwarding.arrived is not None:
            os.kill(os.getpid(), forwarding.arrived)  # its handler runs before the next line of Python


def _wait(
    process: subprocess.Popen[bytes], forwarding: _Forwarding, grace: float, timeout: float | None, at_timeout: Callable[[], None]
) -> int:
    ends = float("inf") if timeout is None else time.monotonic() + timeout
    while forwarding.arrived is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=max(min(0.5, ends - time.monotonic()), 0.0))
        if time.monotonic() >= ends:
            at_timeout()
            _signal_group(process, signal.SIGTERM)
            break
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(timeout=grace)
    return -signal.SIGKILL  # and killed with its group by what follows


def _end_group(process: subprocess.Popen[bytes], grace: float) -> None:
    """End what the program left running in its group, and the program itself where it would not end."""
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 1.0)):
        if not _signal_group(process, number):
            return
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if not _signal_group(process, 0):
                return
            time.sleep(0.02)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    """Signal the group; whether anything of it still runs."""
    process.poll()  # a program that ended, but was not waited for, would count as running
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
