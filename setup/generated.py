"""What is generated from the code: the JSON Schemas for editors, and the reference part of the documentation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pipeline.config import config_schema
from pipeline.images.definition import definition_schema
from setup.reference import commands_page, configuration_page, engine_page, exit_codes_page

ROOT = Path(__file__).resolve().parent.parent


def _as_json(schema: Callable[[], dict[str, object]]) -> Callable[[], str]:
    return lambda: json.dumps(schema(), indent=2) + "\n"


FILES: dict[str, Callable[[], str]] = {
    "docs/pipeline.schema.json": _as_json(config_schema),
    "docs/image.schema.json": _as_json(definition_schema),
    "docs/reference/commands.md": commands_page,
    "docs/reference/configuration.md": configuration_page,
    "docs/reference/exit-codes.md": exit_codes_page,
    "docs/reference/database-engine.md": engine_page,
}


def outdated_files() -> list[str]:
    """The generated files that are not what the code says."""
    return [path for path, make in FILES.items() if _read(ROOT / path) != make()]


def write_files() -> None:
    for path, make in FILES.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(make(), encoding="utf-8")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
