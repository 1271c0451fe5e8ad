"""The documents: what they point to is there, and what is made from the code is what the code says now."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from invoke.exceptions import ParseError
from invoke.parser import Parser

from benchmarks import figures
from benchmarks.cases import Outcome
from benchmarks.measure import Series
from pipeline.config import config_schema
from tasks import namespace

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
THIS_REPOSITORYS = ("demo", "check", "test", "bench")  # the gate itself, and the benchmarks
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


def shown_commands(document: Path) -> list[str]:
    """Every command line of this project that a document shows, in a block or in the text, without the program."""
    text = document.read_text(encoding="utf-8")
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))
    found = (
        re.fullmatch(r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\./)?invokew? (?!-)([a-z][^#|&;<>…]*?)\s*(?:[#|&;<>…].*)?", line)
        for line in (*lines, *inline)
    )
    return [match[1] for match in found if match]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_shown_is_one(document: Path) -> None:
    """Tasks, options and arguments are parsed as Invoke does it; what they do is shown by the tests against the engine."""
    for shown in shown_commands(document):
        try:
            contexts = Parser(contexts=namespace.to_contexts(), ignore_unknown=False).parse_argv(shlex.split(shown))
        except (ParseError, ValueError) as error:
            pytest.fail(f"{document.name} shows `invoke {shown}`: {error}")
        for context in contexts:
            missing = [argument.name for argument in context.missing_positional_args]
            assert not missing or shown.count(" ") == 0, f"{document.name} shows `invoke {shown}`, which lacks {missing}"


def test_every_command_is_run_against_the_engine() -> None:
    text = "".join(path.read_text(encoding="utf-8") for folder in ("engine", "unit") for path in (ROOT / "tests" / folder).rglob("*.py"))
    never = [name for name in namespace.task_names if f'"{name}"' not in text and f"'{name}'" not in text and name not in THIS_REPOSITORYS]
    assert never == []


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
