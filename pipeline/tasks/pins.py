"""invoke pins.update, pins.check"""

from __future__ import annotations

import json as json_format
import sys

from invoke.context import Context

from pipeline.errors import ConfigurationError
from pipeline.tasks.command import command, read_project, say


@command(
    name="update",
    iterable=["only"],
    help={"only": "A reference as an image definition writes it, such as ubuntu:24.04; the other pins stay. May be given several times."},
)
def pins_update(_context: Context, only: list[str]) -> None:
    """Pin each base as it is upstream now, so that packages are installed anew. Example: invoke pins.update --only ubuntu:24.04"""
    from pipeline.images.bases import LOCK_FILE, read_pins
    from pipeline.images.pins import move_pins, write_pins
    from pipeline.tasks.wiring import ImageProject

    if not only and "--only" in sys.argv:  # to Invoke, `--only` without a value is none at all, and would mean everything
        raise ConfigurationError("--only names no reference", "Write for example: --only ubuntu:24.04")
    with ImageProject(read_project(), say) as project:
        pins = read_pins(project.config.root)
        asked = project.ask_pins(pins, only)
    moved = move_pins(pins, asked, bool(only))
    write_pins(project.config.root, moved)
    for item in asked:
        print(item.describe_update())
    for reference in sorted(pins.keys() - moved.keys() - {item.reference for item in asked}):
        print(f"{reference}: no image takes it any more, removed from {LOCK_FILE}")


@command(
    name="check",
    help={
        "json": "Print one JSON document on stdout and nothing else.",
        "strict": "End with exit code 10 where a pin is behind what is upstream.",
    },
)
def pins_check(_context: Context, json: bool = False, strict: bool = False) -> None:
    """Say how old each pin is and what has moved upstream; write nothing.

    The exit code is 0, moved or not; with --strict it is 10 (pipeline.lock is out of date) where a pin has moved. What cannot
    be asked for is said and fails nothing.
    """
    from pipeline.images.bases import LOCK_FILE, read_pins
    from pipeline.images.pins import pins_as_json
    from pipeline.tasks.wiring import ImageProject

    with ImageProject(read_project(), say) as project:
        pins = read_pins(project.config.root)
        asked = project.ask_pins(pins)
    unused = sorted(pins.keys() - {item.reference for item in asked})
    if json:
        print(json_format.dumps(pins_as_json(asked, unused, project.config.max_pin_age), indent=2))
    else:
        for item in asked:
            print(item.describe(project.config.max_pin_age))
        for reference in unused:
            print(f"{reference}: pinned, but no image takes it any more")
    behind = [item.reference for item in asked if item.state == "moved"]
    if strict and behind:
        raise ConfigurationError(f"{LOCK_FILE}: out of date: {', '.join(behind)}", "Move the pins, then build: invoke pins.update")
