"""Preparation: read and checked first, then run in order, stopping at the first error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.config import Step
from pipeline.databases.engine import Problem
from pipeline.databases.prepare import read_steps, run_steps
from pipeline.errors import ConfigurationError, PreparationError
from pipeline.plugins import ORACLE


class Connection:
    """Records; fails on a statement that holds `wrong`."""

    def __init__(self, done: list[str], user: str) -> None:
        self.done, self.user = done, user

    def execute(self, statement: str) -> Problem | None:
        self.done.append(f"{self.user}: {statement}")
        return Problem("ORA-00942: table or view does not exist", statement.index("wrong")) if "wrong" in statement else None

    def commit(self) -> Problem | None:
        self.done.append("commit")
        return None

    def close(self) -> None:
        self.done.append("close")


def prepare(root: Path, *steps: Step, code: int = 0) -> list[str]:
    done: list[str] = []

    def run(command: Sequence[str]) -> int:
        done.append(" ".join(command))
        return code

    try:
        run_steps(read_steps(root, steps, ORACLE), lambda user: Connection(done, user), run, lambda _line: None)
    except PreparationError as error:
        done.append(error.message)
    return done


def test_a_folder_runs_in_name_order_and_each_file_is_committed(tmp_path: Path) -> None:
    folder = tmp_path / "sql"
    folder.mkdir()
    (folder / "10.sql").write_text("b;")
    (folder / "02.sql").write_text("a; a2;")
    (folder / "README.md").write_text("not SQL")
    assert prepare(tmp_path, Step(sql="sql"), Step(run=("flyway", "migrate"))) == [
        "app: a", "app: a2", "commit", "close", "app: b", "commit", "close", "flyway migrate",
    ]  # fmt: skip


def test_the_first_error_stops_with_file_line_statement_and_reason(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text("-- schema\nfirst;\nsecond\n  is wrong;\nthird;")
    assert prepare(tmp_path, Step(sql="a.sql", user="system"), Step(run=("never",)))[1:] == [
        "system: second\n  is wrong", "close",
        "a.sql:4: statement 2, run as system, failed: ORA-00942: table or view does not exist",
    ]  # fmt: skip


def test_a_program_that_fails_stops_with_its_exit_code(tmp_path: Path) -> None:
    assert prepare(tmp_path, Step(run=("flyway",)), Step(run=("never",)), code=7)[-1] == "'flyway' failed with exit code 7"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.sql", None, "there is no missing.sql"),
        ("bad.sql", b"\xff\xfe", "bad.sql: it cannot be read"),
        ("inc.sql", b"a;\n@other.sql\n", r"inc.sql:2: '@' is a command of SQL\*Plus itself"),
    ],
)
def test_what_cannot_be_run_is_known_before_anything_is_done(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        read_steps(tmp_path, [Step(sql=name)], ORACLE)


def test_an_empty_folder_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "sql").mkdir()
    with pytest.raises(ConfigurationError, match=r"there is no \*\.sql in sql"):
        read_steps(tmp_path, [Step(sql="sql")], ORACLE)
