"""docs/developer-machine.md: completion in zsh and fish, by the lines that the page shows. They are Debian's packages."""

from __future__ import annotations

import os
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.tasks.test_completion import FOLDER, Terminal, completion_script


def test_a_command_and_an_option_are_completed_in_zsh(tmp_path: Path) -> None:
    script = completion_script("zsh", tmp_path)
    with closing(Terminal(FOLDER, "zsh", "-f", "-i")) as terminal:
        terminal.type(f". {script}\n../../invokew start-o\t")
        terminal.wait_for("invokew start-oracle")
        terminal.type("--with-c\t")
        terminal.wait_for("--with-caller")


@pytest.mark.parametrize(
    ("typed", "completed"), [("../../invokew start-o", "start-oracle"), ("../../invokew start-oracle --with-c", "--with-caller")]
)
def test_a_command_and_an_option_are_completed_in_fish(tmp_path: Path, typed: str, completed: str) -> None:
    command = ["fish", "--no-config", "--command", f"source {completion_script('fish', tmp_path)}; complete --do-complete '{typed}'"]
    environment = {**os.environ, "HOME": str(tmp_path)}  # it leaves files there
    done = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [completed], done.stderr
