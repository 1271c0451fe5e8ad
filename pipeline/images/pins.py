"""The pins in pipeline.lock: how each stands beside what is upstream now, and moving them, which is a decision."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from pipeline.document import nearest
from pipeline.errors import ConfigurationError, ImageUnavailableError
from pipeline.images.bases import (
    LOCK_FILE,
    Base,
    Bases,
    BaseSource,
    at_the_same_time,
    external_references,
    find_base,
    forget_bases,
    now,
    takers,
    write_changed,
)
from pipeline.images.definition import ImageDefinition
from pipeline.images.hierarchy import Hierarchy
from pipeline.reference import parse_reference


class PinState(msgspec.Struct, frozen=True):
    """How it stands with one reference: `pinned` as pipeline.lock has it, `upstream` as it would be pinned now.

    `problem` says why nobody could be asked; `images` are those that take it; `optional`: they can all do without it.
    """

    reference: str
    images: tuple[str, ...]
    optional: bool
    pinned: Base | None
    upstream: Base | None
    problem: str = ""

    @property
    def state(self) -> Literal["moved", "current", "unknown", "unpinned"]:
        if self.pinned is None:
            return "unpinned"
        if self.upstream is None:
            return "unknown"
        if (self.pinned.kind, self.pinned.value) != (self.upstream.kind, self.upstream.value):
            return "moved"
        return "unknown" if self.pinned.kind == "bootstrap" else "current"  # nobody says whether a distribution's packages moved

    def describe(self, max_age: int = 0) -> str:
        """One line for people; `max_age` in days, 0 where any age will do."""
        if self.pinned is None:
            return f"{self.reference}: not pinned; " + (f"now {_name(self.upstream)}" if self.upstream else self.problem)
        old = f", longer than max_pin_age: {max_age}" if self.too_old(max_age) else ""
        what = {
            "moved": f"moved, {_name(self.pinned)} → {_name(self.upstream)}",
            "current": f"current, {_name(self.pinned)}",
            "unknown": f"unknown, {_name(self.pinned)}: {self.problem or 'of its packages, nobody says whether they moved'}",
        }[self.state]
        return f"{self.reference}: {what} (pinned {_ago(self.pinned.age)}{old})"

    def describe_update(self) -> str:
        """One line about what an update did with it."""
        if self.upstream is None:
            return f"{self.reference}: cannot be asked for, {'its pin stays' if self.pinned else 'not pinned'}: {self.problem}"
        if self.upstream.kind == "local":
            return f"{self.reference}: known to the local engine only, not pinned"
        if self.pinned is None:
            return f"{self.reference}: pinned to {_name(self.upstream)}"
        moved = f"{_name(self.pinned)} → {_name(self.upstream)}" if self.state == "moved" else f"{_name(self.upstream)} as before"
        if self.upstream.kind == "release":
            same = self.state == "current" and self.pinned.release != self.upstream.release
            moved = f"{_name(self.pinned)} → {_name(self.upstream)}, the same image" if same else moved
            return f"{self.reference}: {moved} (was pinned {_ago(self.pinned.age)})"
        return f"{self.reference}: {moved}, packages are installed anew (was pinned {_ago(self.pinned.age)})"

    def too_old(self, max_age: int) -> bool:
        """Whether it was pinned more than `max_age` days ago (0: never)."""
        return bool(self.pinned and max_age and self.pinned.age > max_age)


def ask_pins(hierarchy: Hierarchy, pins: Mapping[str, Base], source: BaseSource, only: Collection[str] = ()) -> tuple[PinState, ...]:
    """Ask for every reference anew (or for those in `only`), several at the same time; writes nothing.

    For one that is pinned to a digest, its registry alone counts: an engine may have an older image, or another one of that
    name, and being offline is no reason to build on a bootstrap instead. Raises ConfigurationError for a reference in
    `only` that the hierarchy does not take from elsewhere.
    """
    wanted, images = external_references(hierarchy), takers(hierarchy)

    def ask(reference: str) -> PinState:
        definition, pin = wanted[reference], pins.get(reference)
        try:
            if pin and pin.kind == "digest" and not parse_reference(reference).digest:
                found = Base("digest", source.remote_digest(reference), now())
            else:
                found = find_base(reference, definition, source)
        except ImageUnavailableError as error:
            found = Base("absent", error.message)
        missing = found.kind == "absent"
        return PinState(reference, images[reference], definition.optional, pin, None if missing else found, found.value if missing else "")

    named = {reference for name in only for reference in _named(name, wanted)} if only else wanted
    return tuple(at_the_same_time(ask, sorted(named)))


def pins_as_json(asked: Sequence[PinState], unused: Sequence[str], max_age: int) -> dict[str, Any]:
    """The document that `invoke pins.update --check --json` prints; `unused` are pins that no image takes any more."""

    def known(base: Base | None) -> dict[str, str] | None:
        return {"kind": base.kind, "value": base.value, "date": base.date} if base else None

    return {
        "pins": [
            {
                "reference": item.reference,
                "images": list(item.images),
                "state": item.state,
                "pinned": known(item.pinned),
                "upstream": known(item.upstream),
                "age_days": item.pinned.age if item.pinned else None,
                "too_old": item.too_old(max_age),
                "problem": item.problem or None,
            }
            for item in asked
        ],
        "unused": list(unused),
    }


def move_pins(pins: Mapping[str, Base], asked: Sequence[PinState], only: bool = False) -> dict[str, Base]:
    """The pins after an update: each reference as it is upstream now, with today's date.

    One that could not be asked for keeps its pin where its images are optional; else, and with `only` (it was named), that
    is an ImageUnavailableError. Without `only`, a pin that no image needs any more goes.
    """
    failed = [item for item in asked if item.problem and (only or not item.optional)]
    if failed:
        raise ImageUnavailableError(
            "\n".join(f"{item.reference} cannot be asked for: {item.problem}" for item in failed),
            "Nothing was written. Move the others: invoke pins.update --only REFERENCE\n"
            + (
                f"Or remove its entry from {LOCK_FILE}: it is then found as for the first time, in the engine or by its `bootstrap:`."
                if any(item.pinned for item in failed)
                else "Or give it a `bootstrap:`, or make it `optional: true`."
            ),
        )
    asked_for = {item.reference for item in asked}
    kept = {name: base for name, base in pins.items() if only and name not in asked_for}
    for item in asked:
        base = item.upstream or item.pinned
        if base and item.pinned and base.kind == "release" and base.manifest == item.pinned.manifest:
            base = item.pinned  # the newest there is: nothing new was decided, and nobody need commit a date
        if base and base.kind in ("digest", "release", "bootstrap"):
            kept[item.reference] = base
    return kept


def write_pins(root: Path, pins: Mapping[str, Base]) -> None:
    """Write pipeline.lock, sorted and whole or not at all; what was remembered of these references is forgotten."""
    lines = ["# What the image hierarchy begins with. Written by `invoke pins.update`; commit it.", "bases:" if pins else "bases: {}"]
    for name, base in sorted(pins.items()):
        lines += [f"  {json.dumps(name)}:", f"    kind: {base.kind}", f"    value: {base.value}", f'    date: "{base.date}"']
        if base.kind == "release":
            lines += [f"    {key}: {json.dumps(getattr(base, key))}" for key in ("release", "manifest", "repository")]
    write_changed(root / LOCK_FILE, "\n".join(lines) + "\n")
    forget_bases(root, pins)


def aged_bases(hierarchy: Hierarchy, bases: Bases, days: int) -> list[str]:
    """A sentence for each image from elsewhere that was pinned (or found) more than `days` days ago."""
    found = []
    for reference, names in takers(hierarchy).items():
        base = bases[reference]
        if base.kind in ("digest", "release", "bootstrap") and base.age > days:
            how = "pinned" if reference in bases.pinned else "found (and not pinned)"
            as_old = "its newest release may be newer" if base.kind == "release" else "its packages are as old"
            found.append(
                f"{', '.join(names)}: {reference} was {how} {base.age} days ago (max_pin_age: {days}), and {as_old}; "
                f"invoke pins.update --only {reference}"
            )
    return found


def pin_marks(hierarchy: Hierarchy, bases: Bases) -> dict[str, str]:
    """Image → a short mark of all the pins it is made from, its parents' included; empty where nothing of it is pinned.

    BuildKit returns an old RUN layer as long as the layers below are the same bytes, and a new date changes no byte. So a build
    must bring the mark into what BuildKit knows RUN by: then no layer from before a pin moved is taken, for all that is
    built on it, and the cache serves each state of the pins by itself, whatever branch or checkout they are of.
    """
    pins: dict[str, frozenset[str]] = {}
    for definition in hierarchy:
        own = {f"{name} {bases.identity(name)}" for name in (definition.base, *definition.uses) if name in bases.pinned}
        pins[definition.name] = frozenset(own).union(*(pins[name] for name in hierarchy.needs(definition)))
    return {name: hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()[:16] if found else "" for name, found in pins.items()}


def _name(base: Base | None) -> str:
    if base is None or base.kind == "digest":
        return base.value if base else ""
    if base.kind == "release":
        return f"release {base.release}"
    return f"{base.value} bootstrapped" if base.kind == "bootstrap" else "an image that only the local engine has"


def _ago(days: int) -> str:
    return "today" if days < 1 else f"{days} day{'s' if days > 1 else ''} ago"


def _named(name: str, wanted: Mapping[str, ImageDefinition]) -> set[str]:
    """The references that `name` stands for, however it is written: ubuntu:24.04, docker.io/library/ubuntu:24.04.

    Images of one release move together, whichever of them is named, or the release itself: `base-images`, `base-images@main`.
    """
    tracks = {reference: (found.release, found.track) for reference in wanted if (found := wanted[reference].released(reference))}
    moving = {track for reference, track in tracks.items() if name in (reference, track[0], "@".join(track))}
    if moving:
        return {reference for reference, track in tracks.items() if track in moving}
    if name in wanted:
        return {name}
    for reference in wanted.keys() - tracks.keys():
        if "@" not in name.partition("@sha256:")[0] and str(parse_reference(reference)) == str(parse_reference(name)):
            return {reference}
    raise ConfigurationError(f"--only {name}: no image takes that from elsewhere", nearest(name, wanted))
