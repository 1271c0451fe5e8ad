"""What the tests have run to a good end; a whole run of them fails where the documents show a command that nobody has run.

Every program that a test starts is noted by the one class that starts it, `subprocess.Popen`, so that no test has to say what it runs.
The processes that run tests side by side send what they have noted to the one that collects their results.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.shown_commands import DOCUMENTS, Command, commands_of, runs_of, shown_lines

FOLDER = Path(__file__).resolve().parent
_arguments: set[tuple[str, ...]] = set()  # of this process's programs
_commands: set[Command] = set()  # of all processes
_missing: list[str] = []


class NotedProcess(subprocess.Popen[Any]):
    """A process whose arguments are noted when it has ended with exit code 0."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "returncode" and value == 0:
            if isinstance(self.args, str | bytes | os.PathLike):  # a program alone, or a line for a shell
                _arguments.add(("sh", "-c", os.fsdecode(self.args)))
            else:
                _arguments.add(tuple(os.fsdecode(word) for word in self.args))


def pytest_sessionstart() -> None:
    vars(subprocess)["Popen"] = NotedProcess


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A process that ran tests has ended."""
    sent = getattr(node, "workeroutput", {}).get("run_commands", ())
    _commands.update(Command(program, tuple(does), frozenset(options)) for program, does, options in sent)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    _commands.update(command for arguments in _arguments for command in runs_of(arguments))
    worker = getattr(session.config, "workeroutput", None)
    if worker is not None:
        worker["run_commands"] = [(command.program, list(command.does), list(command.options)) for command in _commands]
    elif exitstatus == pytest.ExitCode.OK and _is_whole(session.config):
        _missing.extend(missing_commands(_commands))
        session.exitstatus = pytest.ExitCode.TESTS_FAILED if _missing else exitstatus


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _missing:
        terminalreporter.section("commands that the documents show and no test has run to a good end", red=True)
        for line in _missing:
            terminalreporter.line(line)


def missing_commands(run: set[Command]) -> list[str]:
    """`DOCUMENT: LINE` for each line that is shown and not run."""
    found = [
        f"{document.name}: {line}"
        for document in DOCUMENTS
        for line in shown_lines(document)
        for shown in commands_of(line)
        if not shown.is_exempt and not any(command.is_shown_by(shown) for command in run)
    ]
    return list(dict.fromkeys(found))


def _is_whole(config: pytest.Config) -> bool:
    """Whether all tests of this folder were to run, on this machine's engine."""
    folders = [(config.invocation_params.dir / argument).resolve() for argument in config.args]
    selected = any(config.getoption(name, None) for name in ("keyword", "markexpr", "deselect", "lf"))
    return folders == [FOLDER] and not selected and config.getoption("--store") == "machine"
