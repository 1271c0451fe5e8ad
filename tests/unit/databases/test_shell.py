"""A prompt for SQL: when a statement is complete, and what is shown of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from pipeline.databases.postgres import split_psql
from pipeline.databases.shell import Split, is_complete, run_shell, table
from pipeline.databases.statements import split_script

BLOCK = "BEGIN\n  NULL;\nEND;"


@pytest.mark.parametrize(
    ("split", "text", "complete"),
    [
        (split_script, "SELECT 1 FROM dual", False),
        (split_script, "SELECT 1 FROM dual;", True),
        (split_script, "SELECT ';' FROM dual", False),
        (split_script, "SELECT 'a;\n", False),
        (split_script, "SELECT 1\nFROM dual\n/", True),
        (split_script, BLOCK, False),
        (split_script, f"{BLOCK}\n/", True),
        (split_script, "-- only a remark", True),
        (split_script, "@script.sql", True),  # refused, so there is nothing to wait for
        (split_psql, "SELECT $$a;b", False),
        (split_psql, "SELECT $$a;b$$;", True),
        (split_psql, "\\d", True),
    ],
)
def test_a_statement_is_complete_where_the_next_one_would_begin(split: Split, text: str, complete: bool) -> None:
    assert is_complete(split, text) is complete


class Connection:
    """A PEP 249 connection whose cursors are context managers, as those of the real drivers are."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect(":memory:")
        self.commits = 0

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        with closing(self._connection.cursor()) as cursor:
            yield cursor

    def commit(self) -> None:
        self.commits += 1

    def rollback(self) -> None:
        self._connection.rollback()


def run(*lines: str) -> tuple[bool, list[str], list[bool]]:
    said: list[str] = []
    continued: list[bool] = []
    good = run_shell(lines, split_script, Connection(), said.append, continued.append)
    return good, said, continued


def test_statements_run_as_they_are_completed() -> None:
    good, said, continued = run("CREATE TABLE a (b, c);", "INSERT INTO a VALUES (1, 'x');", "SELECT *", "FROM a;", "")
    assert good
    assert said == ["done", "done, 1 rows", "b  c\n-  -\n1  x\n(1 rows)"]
    assert continued == [False, False, False, True, False, False]


def test_an_error_is_said_and_the_next_statement_runs() -> None:
    good, said, _ = run("SELECT * FROM nowhere;", "SELECT 1 AS one;")
    assert not good
    assert said[0].startswith("error: no such table")
    assert said[1].startswith("one")


def test_a_last_statement_without_an_end_is_run() -> None:
    assert run("SELECT 1 AS one")[1] == ["one\n---\n1\n(1 rows)"]


def test_leaving_ends_it() -> None:
    assert run("exit;", "SELECT * FROM nowhere;") == (True, [], [False])


def test_a_table_shows_nothing_for_null_and_cuts_what_is_long() -> None:
    shown = table(["a", "long"], [[None, "x" * 100], ["two\nlines", 1]]).splitlines()
    assert shown[0].split() == ["a", "long"]
    assert shown[2].strip() == "x" * 59 + "…"
    assert shown[3].startswith("two\\nlines  1")
