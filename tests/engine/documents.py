"""What the documents show, as files: a line that names a file, followed by a fenced block, is that file's text."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
_SHOWN = re.compile(r"^`([^`\n]+)`:\n\n```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def read_shown(document: str, heading: str = "") -> dict[str, str]:
    """File → text of all that `document` shows, or of what it shows below one heading."""
    return dict(_SHOWN.findall(_below(document, heading)))


def write_shown(document: str, folder: Path, heading: str = "") -> dict[str, str]:
    """The same, written below `folder`."""
    shown = read_shown(document, heading)
    for name, text in shown.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return shown


def read_commands(document: str, heading: str = "") -> list[list[str]]:
    """The command lines of each block of shell that `document` shows, or that it shows below one heading."""
    blocks = re.findall(r"^```console\n(.*?)^```$", _below(document, heading), re.DOTALL | re.MULTILINE)
    return [[line.removeprefix("$ ") for line in block.splitlines()] for block in blocks]


def _below(document: str, heading: str) -> str:
    text = (DOCS / document).read_text(encoding="utf-8")
    if heading:
        _, found, text = text.partition(f"\n## {heading}\n")
        assert found, f"{document} has no heading '{heading}'"
        text = text.partition("\n## ")[0]
    return text


def read_block(document: str, language: str, word: str = "") -> str:
    """The one block in a language that `document` shows, or the one that has `word` in it."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", _below(document, ""), re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if word in block]
    return str(found)
