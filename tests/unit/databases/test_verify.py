"""What the suite checks, and what the docs say was checked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import pytest

from pipeline.databases.contract import load_kind
from pipeline.databases.verify import ContainerEngine, _Suite

DOCS = Path(__file__).resolve().parents[3] / "docs" / "databases.md"


def table() -> str:
    return DOCS.read_text().partition("<!-- verified -->")[2].partition("\n## ")[0]


def names(engine: str) -> list[str]:
    suite = _Suite(cast(ContainerEngine, None), load_kind(engine), "image", "name", {}, print)
    return [name for name, _, _ in suite.checks()]


@pytest.mark.parametrize("engine", ["oracle", "postgres"])
def test_the_table_in_the_docs_has_a_row_for_each_check(engine: str) -> None:
    rows = re.findall(r"^\| ([^|]+) \|.*\|$", table(), re.MULTILINE)
    assert rows[2:] == names(engine)


def test_the_docs_claim_nothing_of_images_that_were_not_there() -> None:
    for row in re.findall(r"^\| .* \|$", table(), re.MULTILINE)[2:]:
        assert [cell.strip() for cell in row.strip("|").split("|")][3:] == ["", "", "", ""], row
