"""Where a hierarchy begins: what each root's base, and each used image from elsewhere, really is.

Asked once, then remembered: in pipeline.lock, which is committed, where `invoke pins.update` pinned it; else in
.pipeline/bases.json, which says that it is not pinned. Later plans ask the network no more.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

import msgspec

from pipeline.config import STATE_FOLDER
from pipeline.document import read_document
from pipeline.errors import ImageUnavailableError
from pipeline.images.definition import ImageDefinition
from pipeline.images.hierarchy import Hierarchy
from pipeline.reference import parse_reference

LOCK_FILE = "pipeline.lock"
BOOTSTRAP_REPOSITORY = "pipeline.local/bootstrap/"  # of the local images that bootstraps make
Kind = Literal["digest", "local", "bootstrap", "absent"]


class Base(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a reference stands for.

    `digest`: an image of a registry. `local`: only this engine has it (`value` is its image id). `bootstrap`: made from the
    packages of a distribution (`value` such as `debian trixie`). `absent`: it can't be had (`value` says why).
    """

    kind: Annotated[Kind, msgspec.Meta(description="digest or bootstrap.")]
    value: Annotated[str, msgspec.Meta(description="The digest, or distribution and suite.")]
    date: Annotated[str, msgspec.Meta(description="The day it was found, YYYY-MM-DD.")] = ""


class _Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bases: dict[str, Base] = {}
    note: str = ""


class BaseSource(Protocol):
    """Whom to ask about an image from elsewhere."""

    def local_image(self, reference: str) -> tuple[str, str] | None:
        """(image id, repository digest or "") of what the engine has under that name."""

    def remote_digest(self, reference: str) -> str:
        """Its digest in its registry; raises ImageUnavailableError with the reason."""

    def bootstrap_suite(self, suites: Mapping[str, str]) -> str:
        """The distribution and suite this machine can make a base from; empty where it can't."""


@dataclass(frozen=True)
class Bases:
    """Every reference the hierarchy begins with, resolved; `pinned` are those that pipeline.lock holds."""

    found: Mapping[str, Base]
    pinned: frozenset[str] = frozenset()

    def __getitem__(self, reference: str) -> Base:
        return self.found[reference]

    def build_name(self, reference: str) -> str:
        """The name under which a build takes it."""
        base = self.found[reference]
        if base.kind == "digest":
            return str(parse_reference(reference).with_digest(base.value))
        if base.kind == "bootstrap":
            return bootstrap_name(base.value)
        return reference

    def describe(self, reference: str) -> str:
        """What it truly is, in words, for labels and logs."""
        base = self.found[reference]
        if base.kind == "digest":
            return f"{reference} {base.value}"
        if base.kind == "bootstrap":
            return f"{base.value} bootstrapped from distribution packages, in place of {reference}"
        return f"{reference}, known to the local engine only" if base.kind == "local" else f"none: {base.value}"


def bootstrap_name(value: str) -> str:
    """The local image that a bootstrap such as `debian trixie` makes."""
    return f"{BOOTSTRAP_REPOSITORY}{value.replace(' ', ':')}"


def external_references(hierarchy: Hierarchy) -> dict[str, ImageDefinition]:
    """Every reference that the hierarchy takes from elsewhere, with the first definition that does, one that is not optional if there is one."""
    found: dict[str, ImageDefinition] = {}
    for definition in hierarchy:
        for reference in ([definition.base] if definition.base else []) + [name for name in definition.uses if name not in hierarchy]:
            if reference not in found or (found[reference].optional and not definition.optional):
                found[reference] = definition  # whoever needs it most decides whether it may be absent
    return found


def read_bases(root: Path) -> Bases:
    """What is pinned and what is remembered, without asking anybody."""
    lock_path, memory_path = root / LOCK_FILE, root / STATE_FOLDER / "bases.json"
    lock = read_document(lock_path, _Lock).bases if lock_path.exists() else {}
    try:
        memory = msgspec.json.decode(memory_path.read_bytes(), type=_Lock).bases
    except (OSError, msgspec.MsgspecError):
        memory = {}  # only a convenience: it is asked again
    return Bases({**memory, **lock}, frozenset(lock))


def resolve_bases(hierarchy: Hierarchy, known: Bases, source: BaseSource, only_missing: bool = True) -> Bases:
    """Find out what is not known yet (with `only_missing` false: everything again).

    A base that only the engine has is asked for each time: its owner may have built it anew. One that could not be had is
    asked for again where it is needed, where the engine has it now, and on another day. Raises ImageUnavailableError
    for one that cannot be had, unless its definition is optional.
    """
    found: dict[str, Base] = {}
    for reference, definition in external_references(hierarchy).items():
        base = known.found.get(reference)
        if (
            base is None
            or not only_missing
            or base.kind == "local"
            or (base.kind == "absent" and _may_be_there(reference, definition, base, source))
        ):
            base = _resolve(reference, definition, source)
        if base.kind == "absent" and not definition.optional:
            hint = "Give it a `bootstrap:`, make it `optional: true`, or pull it once: docker pull " + reference
            raise ImageUnavailableError(f"{definition.file}: the image '{reference}' cannot be had: {base.value}", hint)
        found[reference] = base
    return Bases(found, known.pinned & found.keys())


def remember_bases(root: Path, bases: Bases) -> None:
    """Keep what was found and is not pinned for later plans, in .pipeline/bases.json."""
    found = {name: base for name, base in bases.found.items() if name not in bases.pinned and base.kind != "local"}
    path = root / STATE_FOLDER / "bases.json"
    note = "These bases are not pinned: another machine may find others. `invoke pins.update` pins them in pipeline.lock."
    text = msgspec.json.format(msgspec.json.encode(_Lock(found, note)), indent=2).decode() + "\n"
    if found and (not path.exists() or path.read_text(encoding="utf-8") != text):
        _write(path, text)


def write_pins(root: Path, bases: Bases) -> tuple[str, ...]:
    """Write pipeline.lock with every digest and bootstrap found, forget what was remembered, and return the pinned references."""
    pins = {name: base for name, base in sorted(bases.found.items()) if base.kind in ("digest", "bootstrap")}
    lines = ["# What the image hierarchy begins with. Written by `invoke pins.update`; commit it.", "bases:" if pins else "bases: {}"]
    for name, base in pins.items():
        lines += [f"  {json.dumps(name)}:", f"    kind: {base.kind}", f"    value: {base.value}", f'    date: "{base.date}"']
    _write(root / LOCK_FILE, "\n".join(lines) + "\n")
    (root / STATE_FOLDER / "bases.json").unlink(missing_ok=True)
    return tuple(pins)


def _may_be_there(reference: str, definition: ImageDefinition, absent: Base, source: BaseSource) -> bool:
    return not definition.optional or absent.date != _today() or source.local_image(reference) is not None


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _resolve(reference: str, definition: ImageDefinition, source: BaseSource) -> Base:
    today = _today()
    named = parse_reference(reference)
    if named.digest:
        return Base("digest", named.digest, today)
    local = source.local_image(reference)
    if local and not local[1]:  # asked first: a registry may have a stranger's image of the same name
        return Base("local", local[0], today)
    try:
        return Base("digest", source.remote_digest(reference), today)
    except ImageUnavailableError as error:
        if local and local[0] == local[1]:  # a containerd image store: there, an image has a digest that was never in a registry
            return Base("local", local[0], today)
        if local:
            return Base("digest", local[1], today)
        reason = error.message
    suite = ""
    if definition.base == reference and definition.bootstrap:
        try:
            suite = source.bootstrap_suite(definition.bootstrap)
        except ImageUnavailableError as error:
            if not definition.optional:
                raise
            reason = f"{reason}; {error.message}"
    return Base("bootstrap", suite, today) if suite else Base("absent", reason, today)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def absent_references(bases: Bases, definition: ImageDefinition) -> Iterable[str]:
    """Which of the images a definition takes from elsewhere cannot be had."""
    names = (definition.base, *definition.uses)
    return [name for name in names if name in bases.found and bases.found[name].kind == "absent"]
