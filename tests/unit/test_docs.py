"""The documents: what they point to is there, and what is made from the code is what the code says now."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from invoke.exceptions import ParseError

from benchmarks import figures
from benchmarks.cases import Outcome
from benchmarks.measure import Series
from pipeline.config import config_schema
from setup.checks import KINDS
from tests.engine import run_commands
from tests.shown_commands import DOCUMENTS, NOT_RUN, Command, commands_of, runs_of, shown_lines

ROOT = Path(__file__).resolve().parent.parent.parent
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def headings(text: str) -> set[str]:
    """As GitHub makes anchors of them."""
    without_code = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", without_code, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_points_to_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target, anchor in _LINK.findall(re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)):
        if "://" in target:
            continue
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), target
        if anchor and path.suffix == ".md":
            assert anchor in headings(path.read_text(encoding="utf-8")), f"{target}#{anchor}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_yaml_that_is_shown_can_be_read(document: Path) -> None:
    for language, text in _BLOCK.findall(document.read_text(encoding="utf-8")):
        if language in ("yaml", "yml"):
            yaml.safe_load(text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_block_says_what_it_is(document: Path) -> None:
    """So that no command is in a block that is not looked at."""
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        assert language not in ("", "sh", "shell"), text
        if language != "console":
            assert not re.search(r"^(\$ )?\S*(invokew?|docker|git|mvn) [a-z]", text, re.MULTILINE), text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_shown_is_one(document: Path) -> None:
    """Tasks, options and arguments are parsed as Invoke does it; that each is run, `tests/engine/run_commands.py` sees to."""
    for line in shown_lines(document):
        try:
            commands_of(line)
        except (ParseError, ValueError) as error:
            pytest.fail(f"{document.name} shows `{line}`: {error}")


def test_what_is_shown_in_blocks_sentences_and_examples_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Say `invoke build`, then `push --commit-only` (`push` alone: a word); `invoke\nplan`, `docker stop`, `docker`; Example: invoke doctor, "
        "invoke clean --over\n\n```console\n$ git add . && ./invokew itest  # with a comment\n```\n\n```\ninvoke nothing\n```\n"
    )
    assert shown_lines(page) == [
        "git add . && ./invokew itest  # with a comment",
        "invoke build",
        "invoke push --commit-only",
        "invoke plan",
        "docker stop",
        "invoke doctor",
        "invoke clean --over",
    ]


@pytest.mark.parametrize(
    ("shown", "ran"),
    [
        ("invoke build --only tomcat", ["/somewhere/bin/invoke", "build", "--only", "leaf"]),
        ("A=1 ./invokew build push", ["sh", "-e", "-c", "cd x && B=2 ../y/invokew build push | cat"]),
        ("invoke release.users IMAGE", ["python", "-m", "invoke", "release.users", "--image", "base"]),
        ("invoke plan", ["ip", "netns", "exec", "agent1", "/somewhere/bin/invoke", "plan"]),
        ("python -m pipeline init", ["bash", "-c", "set -eux\necho 'it''s'\ninvoke init"]),
        ("invoke COMMAND --help", ["invoke", "--help", "plan"]),
        ("git push --no-verify", ["git", "push", "--no-verify", "origin", "main"]),
        ("mvn clean install -PbuildDockerImage", ["mvn", "--offline", "clean", "install", "-PbuildDockerImage"]),
        ("pytest -n 4", ["python", "-m", "pytest", "-q", "-n", "2", "tests"]),
        ("docker context use build-host", ["docker", "context", "use", "engine"]),
    ],
)
def test_a_command_that_was_run_is_known_again(shown: str, ran: list[str]) -> None:
    (command,) = commands_of(shown)
    assert any(one.is_shown_by(command) for one in runs_of(ran))


@pytest.mark.parametrize(
    ("shown", "ran"),
    [
        ("invoke build --only tomcat", ["invoke", "build"]),
        ("invoke build", ["invoke", "build", "--only", "tomcat"]),
        ("invoke build push", ["invoke", "build"]),
        ("invoke build", ["invoke", "no-such-task"]),
        ("invoke build", ["git", "add", "invoke", "build"]),
        ("git push --no-verify", ["git", "push"]),
        ("mvn clean install", ["mvn", "install"]),
        ("mvn install -PpushDockerImage", ["mvn", "install", "-PbuildDockerImage,pushDockerImage"]),
        ("docker context use build-host", ["docker", "context", "create", "build-host"]),
    ],
)
def test_another_command_is_not_taken_for_it(shown: str, ran: list[str]) -> None:
    (command,) = commands_of(shown)
    assert not any(one.is_shown_by(command) for one in runs_of(ran))


def test_what_no_test_runs_is_still_shown() -> None:
    shown = [command for document in DOCUMENTS for line in shown_lines(document) for command in commands_of(line)]
    assert [exempt for exempt in NOT_RUN if not any(command.is_exempt_by(exempt) for command in shown)] == []


def test_the_gate_runs_the_engine_tests_as_a_whole() -> None:
    """Only such a run says what nobody has run."""
    folder, *options = KINDS["engine"]
    assert (ROOT / folder).resolve() == run_commands.FOLDER
    assert not {"-k", "-m", "--deselect", "--lf"} & set(options)


def test_a_command_is_noted_when_it_has_ended_well() -> None:
    noted = set(run_commands._arguments)
    try:
        for code in (0, 1):
            run_commands.NotedProcess([sys.executable, "-c", f"raise SystemExit({code})"]).wait()
        assert run_commands._arguments - noted == {(sys.executable, "-c", "raise SystemExit(0)")}
    finally:
        run_commands._arguments.intersection_update(noted)
    everything = run_commands.missing_commands(set())
    assert "README.md: invoke doctor" in everything
    assert "README.md: invoke doctor" not in run_commands.missing_commands({Command("invoke", ("doctor",))})
    assert not [line for line in everything if "invokew demo" in line]


def test_the_schema_in_the_docs_is_that_of_the_code() -> None:
    text = (ROOT / "docs" / "pipeline.schema.json").read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(json.dumps(config_schema())), "write it again from pipeline.config.config_schema()"


def test_the_figures_of_the_page_are_those_that_were_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "database-figures.md"
    page.write_text(f"before\n{figures.BEGIN}\nold\n{figures.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(figures, "PAGE", page)
    drawn: list[str] = []  # the library that draws changes how this process imports modules
    monkeypatch.setattr(figures, "_draw", lambda path, _title, _groups: drawn.append(path.name))
    series = {"itest baked": Series((1.0, 2.0, 3.0)), "testcontainers": Series((4.0, 4.0, 4.0))}
    outcomes = [
        Outcome("20 tests, 100 tables, 10 rows in each, itest baked : testcontainers", "x", 0.7, 0.5, series),
        Outcome("20 tests, 100 empty tables, itest baked : testcontainers", "x", 0.7, 0.9, series),
        Outcome("last test → the container is gone", "s", 1.0, 2.0, series),
    ]
    figures.draw_peers({"machine": "example"}, outcomes)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| itest baked, 100 tables, 10 rows in each | 1.00 / 2.00 / 3.00 s | |" in text
    assert "| 100 empty tables, itest baked : testcontainers | 0.90 | 0.7 | no |" in text
    assert drawn == ["database-bracket.svg", "database-cleanup.svg"]
