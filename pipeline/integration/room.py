"""Whether the engine's machine has the memory and the disk that a database is going to take: said before it is started."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from pipeline.errors import MissingRequirementError

LEAST_DISK = 256 << 20  # bytes, below which no database gets through its start
MUCH_DISK = 4 << 30  # bytes that a database may write while it starts: some copy their data files into the container's own layer
_UNITS = {"m": 1 << 20, "g": 1 << 30}


Answer = TypeVar("Answer")


class Room(Protocol):
    """What an engine has, in bytes; None where that cannot be known from here."""

    @property
    def memory(self) -> int: ...

    @property
    def free_memory(self) -> int | None: ...

    @property
    def free_disk(self) -> int | None: ...

    @property
    def folder(self) -> str:
        """Where the engine keeps its data."""


def check_room(room: Room, memory: str, warn: Callable[[str], None]) -> None:
    """Raise MissingRequirementError where a database with this memory limit cannot work; `warn` where it may not."""
    limit = int(memory[:-1]) * _UNITS[memory[-1]]
    if limit > room.memory > 0:
        raise MissingRequirementError(
            f"the database may take {memory} of memory, and the engine's machine has {_shown(room.memory)} in all",
            "Lower `itest.memory`, or use another engine.",
        )
    if room.free_disk is not None and room.free_disk < LEAST_DISK:
        raise MissingRequirementError(
            f"the engine's disk is full: {_shown(room.free_disk)} free for {room.folder}", "Free space; see: docker system df"
        )
    if room.free_memory is not None and room.free_memory < limit:
        warn(f"warning: {_shown(room.free_memory)} of memory are free, and the database may take {memory}: something may be killed for it")
    if room.free_disk is not None and room.free_disk < MUCH_DISK:
        warn(f"warning: {_shown(room.free_disk)} of disk are free for {room.folder}: a database may need more")


def asked(question: Callable[[], Answer]) -> Callable[[], Answer]:
    """Put a question beside other work; its answer is had by calling what this returns."""
    pool = ThreadPoolExecutor(1)
    answer = pool.submit(question)
    pool.shutdown(wait=False)
    return answer.result


def _shown(size: int) -> str:
    return f"{size / (1 << 30):.1f} GB" if size >= 1 << 30 else f"{size >> 20} MB"
