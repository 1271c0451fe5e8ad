"""The live display on a real pseudo-terminal, read as a terminal would draw it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

import pytest

from pipeline.images.progress import Event, PlainLines, State
from pipeline.tasks.display import LiveDisplay, shown_progress

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
WIDTH = 72


class Screen:
    """What a terminal shows after all of `output`: the few control sequences that are used, drawn; others are an error."""

    def __init__(self, output: str, height: int) -> None:
        self.rows = [""]  # with all that has scrolled away
        self.cursor_shown = True
        row = column = 0
        for part in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", output):
            if part == "\r":
                column = 0
            elif part == "\n":
                row += 1
                self.rows += [""] * (row + 1 - len(self.rows))
            elif part in (HIDE, SHOW):
                self.cursor_shown = part == SHOW
            elif part == "\x1b[2K":
                self.rows[row] = ""
            elif found := re.fullmatch(r"\x1b\[([0-9]+)A", part):
                row -= int(found[1])
                assert row > len(self.rows) - 1 - height, "the cursor goes above the terminal's first line"
            elif not part.startswith("\x1b"):
                for character in part:
                    if column == WIDTH:  # a terminal goes on in the next line only now
                        row, column = row + 1, 0
                        self.rows += [""] * (row + 1 - len(self.rows))
                    self.rows[row] = self.rows[row][:column].ljust(column) + character + self.rows[row][column + 1 :]
                    column += 1
            else:
                assert part.endswith("m"), f"unknown control sequence {part!r}"

    @property
    def lines(self) -> list[str]:
        return [" ".join(re.sub(r"[0-9]+\.[0-9] s", "N s", row).split()) for row in self.rows if row.strip()]


@dataclass
class Terminal:
    """A pseudo-terminal that is this process's stderr; `read` ends it."""

    stream: IO[str]
    height: int
    _read: Callable[[], str]

    def read(self) -> Screen:
        return Screen(self._read(), self.height)


MakeTerminal = Callable[[int], Terminal]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeTerminal]:
    opened: list[Callable[[], str]] = []

    def make(height: int) -> Terminal:
        master, slave = pty.openpty()
        stream = os.fdopen(slave, "w", encoding="utf-8")
        output = bytearray()

        def collect() -> None:
            try:
                while data := os.read(master, 4096):
                    output.extend(data)
            except OSError:
                pass  # the other end was closed: how a pseudo-terminal says that nothing follows

        thread = threading.Thread(target=collect)
        thread.start()

        def read() -> str:
            if not stream.closed:
                stream.close()
                thread.join()
                os.close(master)
            return output.decode()

        opened.append(read)
        for name, value in {"COLUMNS": str(WIDTH), "LINES": str(height), "TERM": "xterm"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("CI", raising=False)
        monkeypatch.setattr(sys, "stderr", stream)
        return Terminal(stream, height, read)

    yield make
    for read in opened:
        read()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name == "display"] == []


def work(display: LiveDisplay, *ways: tuple[str, tuple[State, ...]]) -> None:
    for image, _ in ways:
        display(Event(image, "waiting"))
    for image, states in ways:
        for state in states:
            display(Event(image, state, f"{state} as a log would say", step="[2/2] COPY [a] /b" if state == "building" else ""))


def test_each_image_has_a_line_with_its_end_and_the_whole_one_below(terminal: MakeTerminal) -> None:
    shown = terminal(20)
    with shown_progress() as progress:
        assert isinstance(progress, LiveDisplay)
        work(progress, ("base", ("building", "done")), ("middle", ("pulling", "tagging", "done")), ("leaf", ("pushing", "failed")))
        progress(Event("twig", "skipped", step="made from leaf"))
        progress(Event("other", "unchanged", "unchanged"))
    screen = shown.read()
    assert screen.lines == [
        "base done N s",
        "middle done N s",
        "leaf failed N s",
        "twig skipped made from leaf",
        "other unchanged",
        "5/5, 1 failed, N s",
    ]
    assert screen.cursor_shown


def test_while_it_lasts_a_line_shows_the_instruction(terminal: MakeTerminal) -> None:
    shown = terminal(20)
    with LiveDisplay(print) as display:
        work(display, ("base", ("building",)), ("leaf", ()))
        drawn = threading.Event()
        original = display._summary  # called in each picture

        def summary(now: float) -> object:
            drawn.set()
            return original(now)

        display._summary = summary  # type: ignore[assignment,method-assign]
        assert drawn.wait(10)
        display(Event("base", "done"))
    text = shown._read()
    assert HIDE in text
    assert "[2/2] COPY [a] /b" in text
    assert "waiting" in text
    assert Screen(text, 20).lines == ["base done N s", "leaf not begun", "1/2, 1 not begun, N s"]


def test_more_images_than_lines(terminal: MakeTerminal) -> None:
    shown = terminal(10)
    names = [f"image-{number:02}" for number in range(50)]
    with LiveDisplay(print) as display:
        for name in names:
            display(Event(name, "waiting"))
        for name in names[:40]:
            display(Event(name, "building"))
            display(Event(name, "done"))
        display(Event("image-40", "failed"))
    screen = shown.read()
    assert screen.lines == [*(f"{name} done N s" for name in names[:40]), "image-40 failed N s", "41/50, 1 failed, 9 not begun, N s"]
    assert screen.cursor_shown


def test_lines_about_no_image_stand_above(terminal: MakeTerminal) -> None:
    shown = terminal(20)
    with LiveDisplay(print) as display:
        display(Event("base", "building"))
        display.say("warning: [bold] is no markup, and " + "x" * WIDTH)
        display(Event("base", "done"))
    lines = shown.read().lines
    assert "".join(lines[:2]) == "warning: [bold] is no markup, and " + "x" * WIDTH
    assert lines[2:] == ["base done N s", "1/1, N s"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_the_terminal_as_it_was(terminal: MakeTerminal, error: type[BaseException]) -> None:
    shown = terminal(20)

    def interrupted() -> None:
        with LiveDisplay(print) as display:
            work(display, ("base", ("building",)), ("leaf", ()))
            raise error

    with pytest.raises(error):
        interrupted()
    screen = shown.read()
    assert screen.lines == ["base cancelled [2/2] COPY [a] /b N s", "leaf not begun", "0/2, 1 cancelled, 1 not begun, N s"]
    assert screen.cursor_shown


def test_control_characters_of_a_dockerfile_do_nothing(terminal: MakeTerminal) -> None:
    shown = terminal(20)
    with LiveDisplay(print) as display:
        display(Event("base", "building", step="RUN \x1b[2J\x07\ttrue"))
    assert "base cancelled RUN [2J true N s" in shown.read().lines


def test_with_nothing_to_do_lines_are_said_and_nothing_is_drawn(terminal: MakeTerminal) -> None:
    shown = terminal(20)
    with shown_progress() as progress:
        progress(Event("base", "unchanged", "unchanged"))
        progress(Event("leaf", "tagging"))
        progress(Event("leaf", "unchanged", "unchanged, tagged main"))
        progress.say("release of main")
    text = shown._read()
    assert "\x1b" not in text
    assert sorted(Screen(text, 20).lines) == ["base: unchanged", "leaf: unchanged, tagged main", "release of main"]


def test_with_nothing_to_do_rich_is_not_imported() -> None:
    program = """
import os, pty, sys
master, slave = pty.openpty()
sys.stderr = os.fdopen(slave, "w")
from pipeline.images.progress import Event
from pipeline.tasks.display import LiveDisplay, shown_progress
with shown_progress() as progress:
    assert isinstance(progress, LiveDisplay)
    progress(Event("base", "unchanged", "unchanged"))
print([name for name in sys.modules if name.partition(".")[0] == "rich"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"TERM": "xterm"}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert result.stdout == "[]\n", result.stderr


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("TERM", "dumb"), ("TERM", None)])
def test_no_picture_where_nobody_looks_or_nothing_can_be_drawn(
    terminal: MakeTerminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None
) -> None:
    shown = terminal(20)
    monkeypatch.delenv(name, raising=False)
    if value:
        monkeypatch.setenv(name, value)
    with shown_progress() as progress:
        progress(Event("base", "building", "build (new)", "[1/2] FROM x"))
        progress(Event("base", "building", step="[2/2] RUN true"))
        progress(Event("base", "done", "done in 0.1 s"))
    assert shown._read() == "base: build (new)\r\nbase: done in 0.1 s\r\n"


def test_a_log_has_one_line_an_event_in_one_write_without_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    class Log:
        def isatty(self) -> bool:
            return False

        def write(self, text: str) -> None:
            written.append(text)

        def flush(self) -> None:
            pass

    monkeypatch.setattr(sys, "stderr", Log())
    with shown_progress() as progress:
        assert isinstance(progress, PlainLines)
        progress(Event("base", "building", "build (file a\nb\x1b[31m was added)"))
    assert written == ["base: build (file a b [31m was added)\n"]


def test_quiet_says_nothing(terminal: MakeTerminal) -> None:
    shown = terminal(20)
    with shown_progress(quiet=True) as progress:
        progress(Event("base", "building", "build (new)"))
        progress.say("warning")
    assert shown._read() == ""


def test_a_terminal_that_goes_away_does_not_disturb_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> None:
            raise OSError(5, "Input/output error")

        def flush(self) -> None:
            raise OSError(5, "Input/output error")

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Gone())
    with LiveDisplay(print) as display:
        work(display, ("base", ("building", "done")))


def test_the_size_is_that_of_the_terminal() -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 8, WIDTH, 0, 0))
    program = """
import sys
from pipeline.images.progress import Event
from pipeline.tasks.display import LiveDisplay
with LiveDisplay(print) as display:
    for number in range(12):
        display(Event(f"image-{number}", "building"))
        display(Event(f"image-{number}", "done"))
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "COLUMNS", "LINES")} | {"TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", program], stderr=slave, stdin=slave, stdout=subprocess.PIPE, env=environment)
    os.close(slave)
    output = b""
    try:
        while data := os.read(master, 4096):
            output += data
    except OSError:
        pass
    os.close(master)
    process.communicate()
    screen = Screen(output.decode(), 8)
    assert [line for line in screen.lines if line.startswith("image-")] == [f"image-{number} done N s" for number in range(12)]
