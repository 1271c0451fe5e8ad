"""The CI servers' files keep start, tests and stop in one job, and stop whatever happens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent


def commands(tasks: list[Any]) -> list[str]:
    return [line for task in tasks if isinstance(task, dict) for line in task.get("script", []) or []]


def test_bamboo_stops_the_database_in_the_final_tasks_of_the_job_that_starts_it() -> None:
    _, plan = list(yaml.safe_load_all("---\n---\n" + (ROOT / "bamboo-specs/bamboo.yaml").read_text()))[-2:]
    jobs = {name: plan[name] for stage in plan["stages"] for entry in stage.values() for name in entry["jobs"]}
    starters = [job for job in jobs.values() if "./invokew start-oracle" in commands(job["tasks"])]
    assert len(starters) == 1
    assert commands(starters[0]["tasks"]) == ["./invokew start-oracle", "./invokew run-tests"]
    assert commands(starters[0]["final-tasks"]) == ["./invokew stop-oracle"]


def test_jenkins_stops_the_database_always_in_the_stage_that_starts_it() -> None:
    text = (ROOT / "Jenkinsfile").read_text()
    stage = next(part for part in text.split("stage(") if "start-oracle" in part)
    before, _, always = stage.partition("always {")
    assert re.findall(r"\./invokew (\S+)'", before) == ["start-oracle", "run-tests"]
    assert re.findall(r"\./invokew (\S+)'", always.partition("}")[0]) == ["stop-oracle"]


def test_what_ci_archives_holds_no_address_of_the_database() -> None:
    """The files with the database's password lie in .pipeline/ itself."""
    archived = re.findall(r"artifacts: '([^']*)'", (ROOT / "Jenkinsfile").read_text())
    assert archived == [".pipeline/release.json, .pipeline/itest/**, .pipeline/logs/**"]
