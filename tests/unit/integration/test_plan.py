"""Everything the configuration can have wrong is known before a database is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.adapters import processes
from pipeline.config import read_config
from pipeline.errors import ConfigurationError
from pipeline.integration.bracket import Run, plan_run
from pipeline.plugins import ORACLE


def plan(root: Path, *lines: str, tests: bool = True) -> Run:
    text = "\n".join(["registry: localhost:5000", "namespace: ledger", "itest:", *(f"  {line}" for line in lines)])
    (root / "pipeline.yaml").write_text(text, encoding="utf-8")
    return plan_run(read_config(root), "image", ORACLE, processes, tests)


def test_a_plan_holds_the_commands_as_written(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text("SELECT 1 FROM dual;")
    run = plan(tmp_path, "run: [sh, -c, 'exit 0']", "prepare: [{sql: a.sql}]", "junit: ['**/TEST-*.xml']")
    assert run.command == ("sh", "-c", "exit 0")
    assert run.folder == tmp_path
    assert len(run.steps) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["user: app"], r"pipeline.yaml:3: 'itest.run': there is no test command"),
        (["user: app", "run: [no-such-program]"], r"pipeline.yaml:5: 'itest.run': there is no program 'no-such-program'"),
        (["run: [sh]", "user: SYSTEM"], r"pipeline.yaml:5: 'itest.user': 'SYSTEM' is the database's own"),
        (["run: [./mvnw]"], r"'itest.run': there is no program './mvnw'"),
        (["run: [sh]", "folder: nowhere"], r"pipeline.yaml:5: 'itest.folder': there is no folder nowhere"),
        (["run: [sh]", "junit:", "  - ../*.xml"], r"pipeline.yaml:6: 'itest.junit\[0\]': '../\*.xml' leaves the project"),
        (["run: [sh]", "prepare:", "  - run: [flywai]"], r"'itest.prepare\[0\].run': there is no program 'flywai'"),
        (["run: [sh]", "prepare:", "  - sql: nowhere"], r"there is no nowhere"),
    ],
)
def test_mistakes_name_file_line_and_key(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        plan(tmp_path, *lines)


def test_starting_a_database_needs_no_test_command(tmp_path: Path) -> None:
    assert plan(tmp_path, "user: app", tests=False).command == ()
