"""docs/developer-machine.md: completion in a real bash, at a terminal, by the lines that the page shows."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent.parent
FOLDER = ROOT / "docs" / "reference"  # invokew is two folders up from it


class Terminal:
    """An interactive shell."""

    def __init__(self, folder: Path, *shell: str) -> None:
        self._end, other = pty.openpty()
        self.shown = ""
        environment = {**os.environ, "TERM": "dumb", "PS1": "ready> "}
        self._shell = subprocess.Popen(shell, cwd=folder, env=environment, stdin=other, stdout=other, stderr=other, start_new_session=True)
        os.close(other)

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def wait_for(self, text: str, seconds: float = 30.0) -> None:
        ends = time.monotonic() + seconds
        while text not in self.shown:
            left = ends - time.monotonic()
            assert left > 0, f"'{text}' was not shown: {self.shown}"
            if select.select([self._end], [], [], left)[0]:
                self.shown += os.read(self._end, 4096).decode(errors="replace")

    def close(self) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self._end)


def completion_script(shell: str, folder: Path) -> Path:
    """What the page shows for a shell, in a file."""
    page = (ROOT / "docs" / "developer-machine.md").read_text(encoding="utf-8")
    [lines] = re.findall(rf"^```{shell}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    script = folder / "completion"
    script.write_text(lines)
    return script


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    opened = Terminal(FOLDER, "bash", "--norc", "--noprofile", "-i")
    yield opened
    opened.close()


def test_a_command_and_an_option_are_completed_in_bash(terminal: Terminal, tmp_path: Path) -> None:
    script = completion_script("bash", tmp_path)
    terminal.type(f". {script}\n../../invokew start-o\t")
    terminal.wait_for("invokew start-oracle ")
    terminal.type("--with-c\t")
    terminal.wait_for("start-oracle --with-caller ")
    terminal.type("\x15../../invokew release.pro\t")
    terminal.wait_for("invokew release.promote ")
