"""What building and publishing tell while they work: one event at a time, to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

State = Literal["waiting", "building", "pulling", "tagging", "pushing", "done", "failed", "skipped", "unchanged"]
ENDED: frozenset[State] = frozenset({"done", "failed", "skipped", "unchanged"})


class Event(NamedTuple):
    """What an image has come to.

    `text`: what a log says of it, in one line; empty for what is of interest only while it lasts.
    `step`: what the image is at just now, such as the instruction of a Dockerfile; empty: as before.
    """

    image: str
    state: State
    text: str = ""
    step: str = ""


class Progress(Protocol):
    """Told from several threads at the same time; it neither fails nor keeps anybody waiting."""

    def __call__(self, event: Event, /) -> None: ...

    def say(self, line: str, /) -> None:
        """A line about no image in particular."""


class PlainLines:
    """One line for each event that has a text: what a CI log gets."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def __call__(self, event: Event, /) -> None:
        if event.text:
            self.say(printable(f"{event.image}: {event.text}"))


def printable(text: str) -> str:
    """The text as one line without control characters: names of files and lines of Dockerfiles may hold any."""
    return text if text.isprintable() else "".join(character if character.isprintable() else " " for character in text)
