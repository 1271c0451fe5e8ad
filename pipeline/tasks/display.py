"""How the work on images is shown: live to a person at a terminal, as lines to a CI log, or not at all."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.images.progress import ENDED, Event, PlainLines, Progress, State, printable
from pipeline.tasks.build_server import is_build_server
from pipeline.tasks.command import say

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

INTERVAL = 0.2  # seconds between two pictures
_WORK: frozenset[State] = frozenset({"building", "pulling", "pushing"})  # what lasts long enough to be looked at
_LEFT = "not begun"  # what waiting is called once nothing goes on any more; any other work is cancelled
_NOT_BEGUN = ("waiting", _LEFT)
_STYLES = {
    "done": "green",
    "failed": "bold red",
    "cancelled": "red",
    "waiting": "dim",
    _LEFT: "dim",
    "unchanged": "dim",
    "skipped": "yellow",
}


@contextlib.contextmanager
def shown_progress(quiet: bool = False) -> Iterator[Progress]:
    """Where to tell what goes on: `quiet` shows nothing, for errors are shown by who catches them."""
    if quiet:
        yield PlainLines(lambda _line: None)
    elif _is_watched():
        with LiveDisplay(say) as display:
            yield display
    else:
        yield PlainLines(say)


class LiveDisplay:
    """A line for each image, drawn anew a few times a second by a thread of its own, which begins when there is work.

    Where the terminal is too low for all, images that have come to their end scroll away upwards, a line each. In the end every
    image's line stands on the terminal. Without any work, events become lines as in a log, and rich is not imported.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._plain = PlainLines(say)
        self._rows: dict[str, _Row] = {}
        self._above: list[str] = []  # lines to be printed above the picture
        self._texts: list[Event] = []  # what a log would have said, in case that no work begins
        self._begun = time.monotonic()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> LiveDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()
        else:
            for event in self._texts:
                self._plain(event)

    def __call__(self, event: Event, /) -> None:
        with self._lock:
            self._rows.setdefault(event.image, _Row(event.image)).come_to(event)
            if self._thread is None:
                self._texts.append(event)
                if event.state in _WORK:
                    self._thread = threading.Thread(target=self._draw_until_over, name="display")
                    self._thread.start()

    def say(self, line: str, /) -> None:
        with self._lock:
            if self._thread:
                self._above.append(line)
                return
        self._plain.say(line)

    def _draw_until_over(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        try:
            with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
                while not self._over.wait(INTERVAL):
                    self._draw(live)
                with self._lock:
                    for row in self._rows.values():
                        row.cut_short()
                self._draw(live)
        except OSError:
            pass  # the terminal is gone; the work goes on

    def _draw(self, live: Live) -> None:
        from rich.console import Group
        from rich.text import Text

        width, height = live.console.size
        now = time.monotonic()
        with self._lock:
            above = [Text(line) for line in self._above]
            self._above.clear()
            names = max(map(len, self._rows))
            rows = [row for row in self._rows.values() if not row.scrolled]
            if len(rows) + 2 > height:  # the picture, its last line, and the cursor below
                for row in rows:
                    row.scrolled = row.is_over
                above += [row.line(names, width, now) for row in rows if row.scrolled]
                rows = [row for row in rows if not row.scrolled and row.state not in _NOT_BEGUN]
            lines = [row.line(names, width, now) for row in rows[: max(height - 2, 0)]]
            summary = self._summary(now)
        if above:
            live.console.print(Text("\n").join(above), soft_wrap=True)
        live.update(Group(*lines, summary), refresh=True)

    def _summary(self, now: float) -> Text:
        from rich.text import Text

        states = Counter(row.state for row in self._rows.values())
        counts = {state: states[state] for state in ("failed", "cancelled", "waiting", _LEFT)}
        ended = sum(states[state] for state in ENDED)
        counts["at work"] = states.total() - ended - sum(counts.values()) + counts["failed"]
        parts = [f"{ended}/{states.total()}", *(f"{count} {what}" for what, count in counts.items() if count), _shown(now - self._begun)]
        return Text(", ".join(parts), style="bold", no_wrap=True)


@dataclass
class _Row:
    """One image's line."""

    image: str
    state: str = "waiting"
    step: str = ""
    begun: float = 0.0  # on the monotonic clock; 0: not yet
    ended: float = 0.0
    scrolled: bool = False

    @property
    def is_over(self) -> bool:
        return self.state in ENDED or self.state == "cancelled"

    def come_to(self, event: Event) -> None:
        if event.state != self.state:
            self.step = ""
        self.state = event.state
        self.step = printable(event.step) or self.step
        if self.state != "waiting" and not self.begun:
            self.begun = time.monotonic()
        if self.state in ENDED:
            self.ended = time.monotonic()

    def cut_short(self) -> None:
        if self.state not in ENDED:
            self.ended = self.begun and time.monotonic()
            self.state = _LEFT if self.state == "waiting" else "cancelled"

    def line(self, names: int, width: int, now: float) -> Text:
        from rich.text import Text

        seconds = (self.ended or now) - self.begun
        elapsed = f" {_shown(seconds)}" if self.begun and self.state not in ("unchanged", "skipped") else ""
        line = Text(no_wrap=True)
        line.append(f"{self.image:{names}}  ")
        line.append(f"{self.state:9}", style=_STYLES.get(self.state, "cyan"))
        line.append(f"  {self.step}")
        line.truncate(max(width - len(elapsed), 1), overflow="ellipsis", pad=True)
        line.append(elapsed)
        return line


def _is_watched() -> bool:
    """Whether a person looks at a terminal that can draw."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not is_build_server(os.environ)


def _shown(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60}:{int(seconds) % 60:02} min"
