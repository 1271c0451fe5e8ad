"""The commands as a person meets them: few, each on one line of the list, each with an example, none named that is not there."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tasks import namespace

ROOT = Path(__file__).resolve().parent.parent.parent.parent
INVOKE = str(Path(sys.executable).with_name("invoke"))
MOST = 24
LISTED = {name for name in namespace.task_names if name != "hooks.pre-push"}
SHOWN = [
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "pipeline").rglob("*.py"),
    *(ROOT / "setup").glob("*"),
    *(ROOT / "examples").glob("*/*.md"),
    *(path for path in (ROOT / "Jenkinsfile", ROOT / ".pre-commit-hooks.yaml") if path.exists()),
    *(ROOT / "bamboo-specs").glob("*.yaml"),
]
OWN = {"demo", "check", "test", "bench"}  # tasks of this repository alone
# As it is typed: at the start of a line, or after what sets it off from the sentence around it.
COMMAND = re.compile(r"(?:^\s*(?:\$ )?|[`\"'(;]|: |, )(?:\./|\S+/)?invokew? ([a-z][a-z-]*(?:\.[a-z-]+)?)\b", re.MULTILINE)


def listed(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run([INVOKE, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_list_has_few_commands_and_a_line_for_each() -> None:
    lines = [line for line in listed(ROOT, "--list").splitlines() if line.startswith("  ")]
    assert all(re.match(r"  [a-z]", line) for line in lines), "a help text goes on in another line"
    assert {line.split()[0] for line in lines} == LISTED | OWN
    assert len(LISTED) <= MOST


@pytest.mark.parametrize("name", sorted(namespace.task_names))
def test_the_help_of_each_has_an_example(name: str) -> None:
    examples = re.findall(
        r"(?:invoke|python -m pipeline) ([a-z. -]+)", inspect.cleandoc(namespace[name].__doc__ or "").partition("Example")[2]
    )
    assert name in " ".join(examples).split()


def test_what_only_programs_call_is_not_listed() -> None:
    assert "hooks.pre-push" not in listed(ROOT, "--list")
    assert "--limit" in listed(ROOT, "--help", "hooks.pre-push")


def test_it_works_from_any_folder_below(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("from pipeline.tasks import namespace\n")
    (tmp_path / "pipeline.yaml").write_text("registry: registry.example.com\nnamespace: shop\n")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/one.yaml").write_text("from: example/base\n")
    (tmp_path / "dockerfiles/one").mkdir(parents=True)
    (tmp_path / "dockerfiles/one/Dockerfile").write_text("ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n")
    below = tmp_path / "src/main/java"
    below.mkdir(parents=True)
    assert "one" in listed(below, "plan", "--graph")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["start-oracle", "--keep", "8", "--json", "--reuse"], "--keep does not go together with --json, --reuse"),
        (["start-oracle", "--keep", "8", "--image", "x", "--with-caller"], "--keep does not go together with --image, --with-caller"),
        (["plan", "--graph", "--json"], "--graph does not go together with --json"),
        (["plan", "--svg", "x.svg", "--explain", "--only", "x"], "--svg does not go together with --only, --explain"),
        (["clean", "--over", "--images"], "--over does not go together with --images"),
        (["clean", "--dry-run"], "--dry-run is for what --over removes"),
        (["pins.update", "--json"], "--json and --strict are for --check"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_options_that_would_be_dropped_are_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "tasks.py").write_text("from pipeline.tasks import namespace\n")
    done = subprocess.run([INVOKE, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (10, f"error: {message}")


@pytest.mark.parametrize("path", [path for path in SHOWN if path.is_file()], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_command_is_named_that_is_not_there(path: Path) -> None:
    assert set(COMMAND.findall(path.read_text(encoding="utf-8"))) <= set(namespace.task_names) | OWN
