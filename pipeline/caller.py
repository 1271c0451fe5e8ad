"""A process that outlives `start-oracle --with-caller` and stops its database when the program that called it ends.

`python -m pipeline.caller PID START ROOT PROJECT SESSION CONTAINER`. The caller is a build tool, Maven above all, that has no
`finally`: a test that fails ends it, and what it would have done afterwards is not done. It may also be killed. Should this
process be killed with it, the lease in the database ends it.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from typing import NamedTuple

PROGRAM = "pipeline.caller"


class Caller(NamedTuple):
    """The process that started ours, told from a later one of the same id by when it began."""

    pid: int
    start: str  # clock ticks since the machine's start; empty where the process has ended already


def read_caller() -> Caller:
    """Whoever called this process or, where that is the same one, `invokew` before it made its environment."""
    from pipeline.sessions import process_start

    own, _, parent = os.environ.get("INVOKEW", "").partition(" ")
    pid = os.getppid()
    if own == str(os.getpid()) and parent != str(pid):
        return Caller(int(parent), "")  # it ended meanwhile
    return Caller(pid, process_start(pid))


def wait_for_end(caller: Caller) -> None:
    """Return when `caller` has ended, at once where it has done so already."""
    from pipeline.sessions import process_start

    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(caller.pid)
        try:
            if process_start(caller.pid) == caller.start:  # else the id is another process's by now
                select.select([handle], [], [])
        finally:
            os.close(handle)


def main(arguments: list[str]) -> None:
    pid, start, root, project, session, container = arguments
    wait_for_end(Caller(int(pid), start))
    from pipeline.adapters.docker_engine import DockerEngine
    from pipeline.sessions import PROJECT, SESSION

    there = DockerEngine().list_containers({PROJECT: project, SESSION: session})
    if container in [found.id for found in there]:  # neither stopped nor replaced meanwhile
        subprocess.run([sys.executable, "-m", "invoke", "stop-oracle", "--session", session], cwd=root, check=False)


if __name__ == "__main__":
    main(sys.argv[1:])
