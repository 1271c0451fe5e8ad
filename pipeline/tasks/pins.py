"""invoke pins.update"""

from __future__ import annotations

import json as json_format
import sys

from invoke.context import Context

from pipeline.errors import ConfigurationError
from pipeline.tasks.command import command, read_project, say


@command(
    name="update",
    iterable=["only"],
    help={
        "only": "A reference as an image definition writes it, such as ubuntu:24.04; the other pins stay. May be given several times.",
        "check": "Say how old each pin is and what has moved upstream; write nothing.",
        "json": "With --check: print one JSON document on stdout and nothing else.",
        "strict": "With --check: end with exit code 10 where a pin is behind what is upstream.",
    },
)
def pins_update(_context: Context, only: list[str], check: bool = False, json: bool = False, strict: bool = False) -> None:
    """Pin each base as it is upstream now, for fresh packages.

    With --check the exit code is 0, moved or not; with --strict it is 10 (pipeline.lock is out of date) where a pin has moved.
    What cannot be asked for is said and fails nothing. Examples: invoke pins.update --only ubuntu:24.04, invoke pins.update --check
    """
    from pipeline.images.bases import LOCK_FILE, read_pins
    from pipeline.images.pins import move_pins, write_pins
    from pipeline.tasks.wiring import ImageProject

    if not only and "--only" in sys.argv:  # to Invoke, `--only` without a value is none at all, and would mean everything
        raise ConfigurationError("--only names no reference", "Write for example: --only ubuntu:24.04")
    if check:
        _check_pins(only, json, strict)
        return
    if json or strict:
        raise ConfigurationError("--json and --strict are for --check", "Write: invoke pins.update --check --strict")
    with ImageProject(read_project(), say) as project:
        pins = read_pins(project.config.root)
        asked = project.ask_pins(pins, only)
    moved = move_pins(pins, asked, bool(only))
    write_pins(project.config.root, moved)
    for item in asked:
        print(item.describe_update())
    for reference in sorted(pins.keys() - moved.keys() - {item.reference for item in asked}):
        print(f"{reference}: no image takes it any more, removed from {LOCK_FILE}")


def _check_pins(only: list[str], json: bool, strict: bool) -> None:
    from pipeline.images.bases import LOCK_FILE, read_pins
    from pipeline.images.pins import pins_as_json
    from pipeline.tasks.wiring import ImageProject

    with ImageProject(read_project(), say) as project:
        pins = read_pins(project.config.root)
        asked = project.ask_pins(pins, only)
    unused = [] if only else sorted(pins.keys() - {item.reference for item in asked})
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
