"""The lease of a database's container: a small program in it ends it when nobody renews the lease (see lease.sh).

It needs nobody: not this process, not another command of ours, no clock that is right. A container whose program has ended
goes on until its lease is over, so that it can be read how it ended; `look` says of it that it has exited.
"""

from __future__ import annotations

import contextlib
import math
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.integration.container_engine import ContainerEngine, Inspected

FOLDER = "/run/pipeline"  # in the container; part of its own file system, for a tmpfs would be mounted over it at the start
PREPARED = ".prepared"  # the file there that says that preparation is done; its start has ended well, whatever becomes of its process
LAUNCHER = ("/bin/sh", f"{FOLDER}/lease.sh")
STAY = "USR1"  # this signal ends the program in the orderly way, and the container stays

RENEWALS = 4  # within the time of a lease: some of them may fail
RENEWAL_PATIENCE = 5.0  # seconds for one that is under way when what it is for has ended

_END = re.compile(rb"\n?^pipeline\.lease: ended with exit code ([0-9]+), out of memory ([0-9]+)\n?", re.MULTILINE)
_LAST_LINES = 10  # of the log, among which the end is looked for: what the program said last may be written after it


@dataclass(frozen=True)
class End:
    """How the program in a container ended."""

    exit_code: int
    oom_kills: int


@dataclass(frozen=True)
class Ended:
    """A container whose program has ended, as if the container had ended with it."""

    id: str
    name: str
    labels: Mapping[str, str]
    exit_code: int
    out_of_memory: bool
    ports: Mapping[int, int]
    state: str = "exited"
    error: str = ""


def lease_files(seconds: float) -> dict[str, bytes]:
    """What must be in FOLDER before the container is started with LAUNCHER."""
    return {"lease.sh": Path(__file__).with_name("lease.sh").read_bytes(), **renewal(seconds)}


def renewal(seconds: float) -> dict[str, bytes]:
    """What is to be written into FOLDER so that the container lives for `seconds` from now on, or longer where that was given before."""
    return {".lease": f"{secrets.token_hex(8)} {math.ceil(seconds)} seconds\n".encode()}


@contextlib.contextmanager
def renewing(renew: Callable[[], None], lease: float) -> Iterator[None]:
    """Call `renew` now, and again and again while in here: what is done may take longer than `lease` seconds.

    Only that the first call fails is an error: what the lease is of may go meanwhile, and whoever works with it will notice.
    """
    over = threading.Event()

    def renew_again() -> None:
        while not over.wait(lease / RENEWALS):
            with contextlib.suppress(PipelineError):
                renew()

    renew()
    thread = threading.Thread(target=renew_again, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(RENEWAL_PATIENCE)


def look(engine: ContainerEngine, container: str) -> Inspected | None:
    """The container of that id or name; one whose program has ended counts as exited. None where there is none."""
    found = engine.find_container(container)
    if found is None or found.state != "running":
        return found
    end = find_end(engine.read_log(found.id, lines=_LAST_LINES))
    if end is None:
        return found
    return Ended(found.id, found.name, found.labels, end.exit_code, found.out_of_memory or end.oom_kills > 0, found.ports)


def find_end(log: bytes) -> End | None:
    """How the program ended, by the end of its container's log; None while it runs."""
    found = _END.findall(log)
    return End(*map(int, found[-1])) if found else None


def without_end(log: bytes) -> bytes:
    """The log as the program wrote it."""
    return _END.sub(b"", log)
