"""The JSON Schemas for editors, generated from the code's own types."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.config import config_schema
from pipeline.images.definition import definition_schema

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = {"docs/pipeline.schema.json": config_schema, "docs/image.schema.json": definition_schema}


def outdated_schemas() -> list[str]:
    """The schema files that are not what the code says."""
    return [path for path, make in SCHEMAS.items() if _read(ROOT / path) != _text(make())]


def write_schemas() -> None:
    for path, make in SCHEMAS.items():
        (ROOT / path).write_text(_text(make()), encoding="utf-8")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _text(schema: dict[str, object]) -> str:
    return json.dumps(schema, indent=2) + "\n"
