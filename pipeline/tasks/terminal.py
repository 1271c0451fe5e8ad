"""The prompt of db.shell on a terminal, or its statements from a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from pipeline.databases.engine import Account, OpenEngine
from pipeline.databases.shell import run_shell
from pipeline.errors import ConfigurationError, DatabaseNotReadyError
from pipeline.sessions import Session
from pipeline.tasks.command import say
from pipeline.tasks.testing import TestBench


def open_shell(bench: TestBench, session: Session, system: bool) -> bool:
    """Run what is typed or piped in until its end; whether all statements went well. Raises SessionMissingError."""
    engine = bench.kind.engine
    if not isinstance(engine, OpenEngine):
        raise ConfigurationError(
            f"the engine '{bench.kind.contract.engine}' offers no connection of its driver", "Use a client of that database."
        )
    database = bench.bracket.find(bench.check_run(), session)
    account: Account = database.administrator if system else database.user
    interactive = sys.stdin.isatty()
    if interactive:
        say(f"{account.name} at {database.dsn}: {database.description}")
        say("A statement ends as in a script; each is committed at once. To leave: exit, or Ctrl-D.")
    with contextlib.closing(engine.open(database.address, account)) as connection:
        prompt = _Prompt(interactive)
        try:
            good = run_shell(prompt.lines(), engine.split, connection, print, prompt.going_on)
        except engine.error as error:
            raise DatabaseNotReadyError(f"the connection to {database.dsn} broke: {error}", "See: invoke db.logs") from error
    return good or interactive


class _Prompt:
    def __init__(self, interactive: bool) -> None:
        self._interactive = interactive
        self._text = ""

    def going_on(self, continues: bool) -> None:
        self._text = "  > " if continues else "SQL> "

    def lines(self) -> Iterator[str]:
        if not self._interactive:
            yield from sys.stdin
            return
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - line editing and history for input()
        while True:
            try:
                line = input(self._text)
            except EOFError:
                print()
                return
            yield line
