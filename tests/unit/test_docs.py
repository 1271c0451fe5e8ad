"""The documents: what they point to is there, and what is made from the code is what the code says now."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from benchmarks import figures
from benchmarks.cases import Outcome
from benchmarks.measure import Series
from pipeline.config import config_schema

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
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
