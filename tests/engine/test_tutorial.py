"""docs/own-engine.md, done as it says: the files it shows, an installed entry point, the commands, a real MariaDB."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import git
import pytest

from tests.engine.checkouts import Checkout, Ended, make_checkout  # noqa: F401 - a fixture
from tests.engine.conftest import Project
from tests.engine.documents import read_shown, write_shown

DOCUMENT = "own-engine.md"
ENGINE = "pipeline_mariadb/__init__.py"


class Tutorial(Checkout):
    """The tutorial's project; its package is installed in a folder beside it."""

    @property
    def installed(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.root.parent / "package")}

    def done(self, *arguments: str) -> Ended:
        return self.invoke(*arguments, **self.installed)


@pytest.fixture
def tutorial(project: Project, ubuntu_image: str) -> Tutorial:
    """All that the page shows. Its image's parent, which the page takes from this repository, is one that the engine has."""
    shown = write_shown(DOCUMENT, project.root)
    project.write("pipeline.yaml", shown["pipeline.yaml"].replace("ledger\nitest", f"{project.namespace}\nitest"))
    project.write("images/mariadb.yaml", shown["images/mariadb.yaml"].replace("parent: ubuntu", f"from: {ubuntu_image}"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", "../package", "."]
    subprocess.run(command, cwd=project.root, check=True)
    shutil.rmtree(project.root / "pipeline_mariadb")  # it is imported from where it was installed
    project.commit("begin")
    return Tutorial(project.root, project.namespace)


def test_an_engine_fits_into_60_lines() -> None:
    assert len(read_shown(DOCUMENT)[ENGINE].splitlines()) <= 60


def test_the_bracket_on_a_third_engine(tutorial: Tutorial) -> None:
    ended = tutorial.done("itest")
    assert ended.code == 0, ended.err
    assert "(2 statements, as app)" in ended.err
    assert "tests: 1 passed, 0 failed" in ended.err
    tutorial.assert_nothing_left()


def test_the_three_steps_and_the_shell_on_a_third_engine(tutorial: Tutorial) -> None:
    try:
        ended = tutorial.done("start-oracle", "run-tests")
        assert ended.code == 0, ended.err
        assert "db.dsn=mysql://127.0.0.1:" in (tutorial.root / ".pipeline/database.properties").read_text().replace("\\", "")
        shell = [sys.executable, "-m", "invoke", "db.shell"]
        typed = "SELECT name FROM account\n WHERE code = '2000';\n"
        answer = subprocess.run(
            shell, input=typed, cwd=tutorial.root, env={**os.environ, **tutorial.installed}, capture_output=True, text=True, check=False
        )
        assert answer.returncode == 0, answer.stderr
        assert "Bank's" in answer.stdout
    finally:
        assert tutorial.done("stop-oracle").code == 0
    tutorial.assert_nothing_left()


def test_an_error_in_a_script_is_told_with_file_and_line(tutorial: Tutorial) -> None:
    tutorial.write("sql/02-wrong.sql", "-- one\n\nSELECT nonsense;\n")
    ended = tutorial.done("itest")
    assert ended.code == 41
    assert "sql/02-wrong.sql:3: statement 1, run as app, failed: (1054," in ended.err
    tutorial.assert_nothing_left()


def test_what_its_own_client_alone_understands_is_refused_before_anything_is_started(tutorial: Tutorial) -> None:
    tutorial.write("sql/02-procedure.sql", "SELECT 1;\n  delimiter //\n")
    ended = tutorial.done("itest")
    assert ended.code == 10
    assert "sql/02-procedure.sql:2: DELIMITER is a command of MariaDB's own client" in ended.err


def test_the_third_image_keeps_its_contract(tutorial: Tutorial) -> None:
    ended = tutorial.done("db.verify")
    assert ended.code == 0, ended.err
    (report,) = (tutorial.root / ".pipeline/verify").glob("*.json")
    rows = {row["check"]: row["result"] for row in json.loads(report.read_text())["rows"]}
    assert rows.pop("can be baked") == "not supported"
    unsupported = {name for name, result in rows.items() if result == "not supported"}
    assert all("scripts" in name for name in unsupported)
    assert {result for name, result in rows.items() if name not in unsupported} == {"passed"}
    assert rows["SQL: rows"] == rows["the data is kept"] == "passed"
    tutorial.assert_nothing_left()


def test_an_engine_that_is_not_installed_is_refused(tutorial: Tutorial) -> None:
    ended = tutorial.invoke("itest")
    assert ended.code == 10
    assert "there is no database engine 'mariadb'" in ended.err
    assert git.Repo(tutorial.root).git.status("--porcelain") == ""


@pytest.mark.parametrize(
    ("script", "statements"),
    [
        ("", []),
        (" ;; -- a;\n", []),
        ("/* ; */", []),
        ("SELECT 1", [("SELECT 1", 1)]),
        ("-- a;\nSELECT ';' ;\n\n# b;\nSELECT 2; /*! a; */ ;", [("SELECT ';'", 2), ("SELECT 2", 5), ("/*! a; */", 5)]),
        ("SELECT 'a''b;', 'c\\';', \"d;\", `e;` -- f;\n, 1;g", [("SELECT 'a''b;', 'c\\';', \"d;\", `e;` -- f;\n, 1", 1), ("g", 2)]),
        ("SELECT 'open; ", [("SELECT 'open", 1)]),
    ],
)
def test_statements_end_where_the_databases_own_client_ends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, statements: list[tuple[str, int]]
) -> None:
    write_shown(DOCUMENT, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    engine = importlib.import_module("pipeline_mariadb").ENGINE
    assert [(statement.text, statement.line) for statement in engine.split(script)] == statements
