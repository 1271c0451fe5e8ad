"""A release: what a revision consists of, image by image, written to .pipeline/release.json when all of it is published."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.images.build import Result
from pipeline.images.plan import BuildPlan
from pipeline.reference import Reference

RELEASE_FILE = "release.json"


def describe_release(plan: BuildPlan, results: tuple[Result, ...], sizes: Mapping[str, int]) -> dict[str, Any]:
    """The release as a document. `sizes`: image name → bytes in the registry (compressed)."""
    return {
        "revision": plan.as_json()["revision"],
        "images": {
            result.step.name: {"absent": result.step.reasons[0].what}
            if result.action == "skip"
            else {
                "repository": result.step.content.name,
                "tags": [reference.tag for reference in result.step.references],
                "digest": result.digest,
                "size": sizes.get(result.step.name, 0),
                "fingerprint": result.step.fingerprint.value,
                "base": result.step.base_description,
            }
            for result in results
        },
    }


def take_release(state: Path) -> dict[str, int]:
    """Take the last release away, since it is not that of what is published now; digest → size of what was in it."""
    path = state / RELEASE_FILE
    try:
        last = json.loads(path.read_text(encoding="utf-8"))["images"].values()
        known = {image["digest"]: int(image["size"]) for image in last if "digest" in image}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        known = {}
    path.unlink(missing_ok=True)
    return known


def image_sizes(results: tuple[Result, ...], known: Mapping[str, int], ask: Callable[[Reference], int]) -> dict[str, int]:
    """Image name → bytes; `ask` only for a digest that is not known."""
    return {
        result.step.name: known.get(result.digest) or ask(result.step.content.with_digest(result.digest))
        for result in results
        if result.digest
    }


def write_release(state: Path, release: dict[str, Any]) -> Path:
    """Write it in one piece: a reader sees the old one or the new one."""
    state.mkdir(exist_ok=True)
    path = state / RELEASE_FILE
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(release, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path
