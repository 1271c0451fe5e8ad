"""How long a command takes and how much memory it needs, in several runs, two commands in turn."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class BenchmarkError(Exception):
    """A command that is measured failed, or did not do what it is measured for."""


@dataclass(frozen=True)
class Run:
    """One run of a command: wall time in seconds, peak resident memory of its largest process in MB, all that it said."""

    seconds: float
    memory: float
    output: str


@dataclass(frozen=True)
class Series:
    """The figures of several runs of the same thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def shown(self, unit: str, digits: int) -> str:
        """Smallest, median, largest."""
        return " / ".join(f"{value:.{digits}f}" for value in (min(self.values), self.median, max(self.values))) + f" {unit}"


def run_command(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Run:
    """Run `command` to its end. Raises BenchmarkError with the end of its output where it fails.

    The memory is the kernel's count (getrusage(2), ru_maxrss), which begins with that of the process that started it: it is
    never below that of this one.
    """
    with tempfile.TemporaryFile() as output:  # a file, not a pipe: nothing here has to wake up while the command runs
        begun = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode:
        end = "\n".join(text.splitlines()[-20:])
        raise BenchmarkError(f"{' '.join(command)} ended with exit code {process.returncode}:\n{end}")
    return Run(seconds, usage.ru_maxrss * 1024 / 1e6, text)


def in_turn(first: Callable[[], Run], second: Callable[[], Run], rounds: int) -> tuple[list[Run], list[Run]]:
    """A B A B …: what slows the machine down for a while slows both. One run of each beforehand is not counted."""
    first(), second()
    runs = [(first(), second()) for _ in range(rounds)]
    return [run for run, _ in runs], [run for _, run in runs]


def seconds_of(runs: Sequence[Run]) -> Series:
    return Series(tuple(run.seconds for run in runs))


def memory_of(runs: Sequence[Run]) -> Series:
    return Series(tuple(run.memory for run in runs))
