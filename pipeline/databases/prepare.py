"""Preparing the fresh database: SQL scripts and programs, in order, stopping at the first error.

Scripts are read and split before the database is started, so that what cannot be run is known before anything is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Step
from pipeline.databases.engine import Connection, DatabaseEngine, ScriptError, Statement
from pipeline.document import nearest
from pipeline.errors import ConfigurationError, PreparationError

_SHOWN = 300  # characters of a failed statement in a message


@dataclass(frozen=True)
class Script:
    """A script, split."""

    shown: str  # its path relative to pipeline.yaml
    user: str  # `app` or `system`
    statements: Sequence[Statement]


@dataclass(frozen=True)
class Program:
    """A foreign program such as Flyway."""

    command: tuple[str, ...]


def read_steps(root: Path, steps: Sequence[Step], engine: DatabaseEngine) -> list[Script | Program]:
    """Everything `itest.prepare` lists, ready to be run. Raises ConfigurationError for what is missing or cannot be split."""
    found: list[Script | Program] = []
    for step in steps:
        if step.run:
            found.append(Program(step.run))
        else:
            found.extend(_read_script(file, root, step.user, engine) for file in find_scripts(root, step.sql))
    return found


def find_scripts(root: Path, sql: str) -> list[Path]:
    """The script, or the folder's scripts in name order. Raises ConfigurationError where there is none."""
    path = root / sql
    if path.is_dir():
        files = sorted(path.glob("*.sql"), key=lambda file: file.name)
        if not files:
            raise ConfigurationError(f"there is no *.sql in {sql}", "Put one there, or take the step out.")
        return files
    if not path.exists():
        others = [other.name for other in path.parent.glob("*") if other.suffix == ".sql" or any(other.glob("*.sql"))]
        what = "Name a .sql file, or a folder of them, relative to pipeline.yaml."
        raise ConfigurationError(f"there is no {sql}", f"{nearest(path.name, others)} {what}" if others else what)
    return [path]


def run_script(script: Script, connection: Connection) -> None:
    """Run and commit. Raises PreparationError with file, line, statement number and what the database said."""
    for statement in script.statements:
        problem = connection.execute(statement.text)
        if problem:
            line = statement.line + statement.text.count("\n", 0, problem.offset)
            raise PreparationError(
                f"{script.shown}:{line}: statement {statement.number}, run as {script.user}, failed: {problem.message}",
                f"The statement: {_shortened(statement.text)}",
            )
    problem = connection.commit()
    if problem:
        raise PreparationError(
            f"{script.shown}: its changes could not be committed: {problem.message}", "A deferred constraint may not hold."
        )


def run_steps(
    steps: Sequence[Script | Program],
    connect: Callable[[str], Connection],
    run_program: Callable[[Sequence[str]], int],
    say: Callable[[str], None],
) -> None:
    """Carry out `steps`. `connect` logs in `app` or `system`; `run_program` runs a program with the address in its environment."""
    for step in steps:
        if isinstance(step, Program):
            say(f"prepare: {step.command[0]}")
            code = run_program(step.command)
            if code:
                raise PreparationError(f"'{step.command[0]}' failed with exit code {code}", "What it said stands above.")
            continue
        say(f"prepare: {step.shown} ({len(step.statements)} statements, as {step.user})")
        connection = connect(step.user)  # one for each script, as SQL*Plus would have it
        try:
            run_script(step, connection)
        finally:
            connection.close()


def _read_script(path: Path, root: Path, user: str, engine: DatabaseEngine) -> Script:
    shown = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
    try:
        return Script(shown, user, engine.split(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{shown}: it cannot be read: {error}", "It must be a readable UTF-8 text file.") from error
    except ScriptError as error:
        raise ConfigurationError(
            f"{shown}:{error.line}: {error}", "Run such a script with a `run:` step of the database's own client instead."
        ) from error


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"
