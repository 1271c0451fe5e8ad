"""Too little memory or disk is said before a database is started."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pipeline.errors import MissingRequirementError
from pipeline.integration.room import check_room

MB, GB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Room:
    memory: int = 16 * GB
    free_memory: int | None = 8 * GB
    free_disk: int | None = 100 * GB
    folder: str = "/var/lib/docker"


def warnings(room: Room, memory: str = "3g") -> list[str]:
    said: list[str] = []
    check_room(room, memory, said.append)
    return said


@pytest.mark.parametrize("room", [Room(), Room(free_memory=None, free_disk=None), Room(memory=0), Room(free_memory=3 * GB, memory=3 * GB)])
def test_enough_or_unknown_is_not_worth_a_word(room: Room) -> None:
    assert warnings(room) == []


@pytest.mark.parametrize(
    ("room", "message"),
    [
        (Room(memory=2 * GB - 5 * MB), "may take 3g of memory, and the engine's machine has 2.0 GB in all"),
        (Room(free_disk=100 * MB), "the engine's disk is full: 100 MB free for /var/lib/docker"),
    ],
)
def test_what_cannot_work_is_refused(room: Room, message: str) -> None:
    with pytest.raises(MissingRequirementError, match=message):
        warnings(room)


@pytest.mark.parametrize(
    ("room", "message"),
    [
        (Room(free_memory=1200 * MB), "1.2 GB of memory are free, and the database may take 3g"),
        (Room(free_disk=2 * GB), "2.0 GB of disk are free for /var/lib/docker"),
    ],
)
def test_what_may_not_work_is_said(room: Room, message: str) -> None:
    (said,) = warnings(room)
    assert message in said


def test_limits_in_megabytes_count_as_such() -> None:
    assert warnings(Room(free_memory=600 * MB), "512m") == []
    assert len(warnings(Room(free_memory=500 * MB), "512m")) == 1
