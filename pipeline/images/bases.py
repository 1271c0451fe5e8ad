"""Where a hierarchy begins: what each root's base, and each used image from elsewhere, really is.

Asked once, then remembered: in pipeline.lock, which is committed, where `invoke pins.update` pinned it; else in
.pipeline/bases.json, which says that it is not pinned. Later plans ask the network no more.

A pin has a date, and the date is part of what an image is made of: moving a pin is the decision to install the packages of all
that is built on it anew, even where the base itself is the same as before.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import msgspec

from pipeline.config import STATE_FOLDER
from pipeline.document import line_of, read_document
from pipeline.errors import ConfigurationError, ImageUnavailableError
from pipeline.images.definition import ImageDefinition, ReleaseParent, release_place
from pipeline.images.hierarchy import Hierarchy
from pipeline.reference import REPOSITORY, parse_reference
from pipeline.state_files import write_whole

LOCK_FILE = "pipeline.lock"
PUBLISH_HINT = "Publish it there (invoke build push), correct `parent:`, or make the image `optional: true`."
BOOTSTRAP_REPOSITORY = "pipeline.local/bootstrap/"  # of the local images that bootstraps make
REQUESTS = 8  # about images from elsewhere at the same time
Kind = Literal["digest", "release", "local", "bootstrap", "absent"]
T = TypeVar("T")


class Base(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a reference stands for.

    `digest`: an image of a registry. `release`: one of another repository's release, whose tag, digest and path of the image
    are in `release`, `manifest` and `repository`. `local`: only this engine has it (`value` is its image id). `bootstrap`: made from the
    packages of a distribution (`value` such as `debian trixie`). `absent`: it can't be had (`value` says why, `hint` what to do). `date`: when it
    was found, in UTC, as 2026-05-17T14:05:09Z or only the day; to the second, so that each update of a pin is one.
    """

    kind: Kind
    value: str
    date: str = ""
    release: str = ""
    manifest: str = ""
    repository: str = ""
    hint: str = ""

    @property
    def age(self) -> int:
        """Days since it was found; 0 where that is not known."""
        return (_today() - datetime.date.fromisoformat(self.date[:10])).days if self.date else 0


class _Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: Literal["digest", "release", "bootstrap"]
    value: str
    date: str
    release: str = ""
    manifest: str = ""
    repository: str = ""


class _Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bases: dict[str, _Pin] = {}


class _Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bases: dict[str, Base] = {}
    note: str = ""


class Foundation(msgspec.Struct, frozen=True, omit_defaults=True):
    """An image that another one was made from.

    `name`: of the same release where there is no `digest`; else NAMESPACE/IMAGE of `release`, the tag of another repository's, or
    a reference.
    """

    name: str
    digest: str = ""
    release: str = ""


class BaseSource(Protocol):
    """Whom to ask about an image from elsewhere."""

    def local_image(self, reference: str) -> tuple[str, str] | None:
        """(image id, repository digest or "") of what the engine has under that name."""

    def remote_digest(self, reference: str) -> str:
        """Its digest in its registry; raises ImageUnavailableError with the reason."""

    def released_image(self, parent: ReleaseParent) -> Base:
        """The image of another repository's release; raises ImageUnavailableError with the reason."""

    def bootstrap_suite(self, suites: Mapping[str, str]) -> str:
        """The distribution and suite this machine can make a base from; empty where it can't."""


class Bases(msgspec.Struct, frozen=True):
    """Every reference the hierarchy begins with, resolved; `pinned` are those that pipeline.lock holds.

    `registry`: HOST[:PORT][/PREFIX] that images of releases are pulled from; their pins do not say, so that one lock file is right
    wherever it is used.
    """

    found: Mapping[str, Base]
    pinned: frozenset[str] = frozenset()
    registry: str = ""

    def __getitem__(self, reference: str) -> Base:
        return self.found[reference]

    def build_name(self, reference: str) -> str:
        """The name under which a build takes it."""
        base = self.found[reference]
        if base.kind == "digest":
            return str(parse_reference(reference).with_digest(base.value))
        if base.kind == "release":
            return f"{'/'.join(release_place(base.repository, self.registry))}@{base.value}"
        if base.kind == "bootstrap":
            return bootstrap_name(base.value, base.date if reference in self.pinned else "")
        return reference

    def foundation(self, reference: str) -> Foundation:
        """What a release says of it."""
        base = self.found[reference]
        return Foundation(self.name(reference), base.value, base.release)

    def name(self, reference: str) -> str:
        """What it is called in fingerprints and releases: of an image of a release, which of them is followed says nothing of it."""
        return reference.partition("@")[0] if self.found[reference].kind == "release" else reference

    def identity(self, reference: str) -> str:
        """What it truly is, as one value for fingerprints: of a pinned one with the date, since a new date is a new decision.

        Of another repository's image it is the digest alone: how old its packages are is decided there, and a release in which
        it is the same changes nothing here.
        """
        base = self.found[reference]
        if base.kind == "absent":
            return "absent"  # whatever the reason
        if base.kind == "release":
            return f"digest {base.value}"
        return f"{base.kind} {base.value}" + (f" {base.date}" if reference in self.pinned else "")

    def describe(self, reference: str) -> str:
        """What it truly is, in words, for labels and logs."""
        base = self.found[reference]
        if base.kind in ("digest", "release"):
            return f"{reference} {base.value}"
        if base.kind == "bootstrap":
            return f"{base.value} bootstrapped from distribution packages, in place of {reference}"
        return f"{reference}, known to the local engine only" if base.kind == "local" else f"none: {base.value}"


def bootstrap_name(value: str, date: str = "") -> str:
    """The local image that a bootstrap such as `debian trixie` makes: of a pinned one another one for each date, so that it is made anew."""
    folder = re.sub(r"[^a-z0-9]", "", date.lower())
    return f"{BOOTSTRAP_REPOSITORY}{folder and folder + '/'}{value.replace(' ', ':')}"


def external_references(hierarchy: Hierarchy) -> dict[str, ImageDefinition]:
    """Every reference that the hierarchy takes from elsewhere, with the first definition that does, one that is not optional if there is one."""
    found: dict[str, ImageDefinition] = {}
    for definition in hierarchy:
        for reference in ([definition.base] if definition.base else []) + [name for name in definition.uses if name not in hierarchy]:
            if reference not in found or (found[reference].optional and not definition.optional):
                found[reference] = definition  # whoever needs it most decides whether it may be absent
    return found


def takers(hierarchy: Hierarchy) -> dict[str, tuple[str, ...]]:
    """Reference → the images that take it from elsewhere, as base or as used image."""
    found: dict[str, tuple[str, ...]] = {}
    for definition in hierarchy:
        for reference in dict.fromkeys(name for name in (definition.base, *definition.uses) if name and name not in hierarchy):
            found[reference] = (*found.get(reference, ()), definition.name)
    return found


def read_bases(root: Path, registry: str = "") -> Bases:
    """What is pinned and what is remembered, without asking anybody. Raises ConfigurationError for a damaged pipeline.lock."""
    pins = read_pins(root)
    return Bases({**_read_memory(root), **pins}, frozenset(pins), registry)


def read_pins(root: Path) -> dict[str, Base]:
    """What pipeline.lock says, empty where there is none. Raises ConfigurationError, with file and line, for a damaged one."""
    path = root / LOCK_FILE
    if not path.exists():
        return {}
    mend = f"Take a whole one (git checkout -- {LOCK_FILE}), or delete it and pin anew: invoke pins.update"
    try:
        pins = read_document(path, _Lock).bases
    except ConfigurationError as error:
        raise ConfigurationError(error.message, mend) from None
    for name, pin in pins.items():
        wrong = {
            "value": pin.kind != "bootstrap" and not _DIGEST.fullmatch(pin.value) and f"'{pin.value}' is no digest",
            "repository": pin.kind == "release" and not _is_path(pin.repository) and f"'{pin.repository}' is no repository",
            "date": not _is_date(pin.date) and f"'{pin.date}' is no date such as 2026-05-17T14:05:09Z",
        }
        for key, what in wrong.items():
            if what:
                raise ConfigurationError(f"{LOCK_FILE}:{line_of(path, 'bases', name, key)}: '{name}': {what}", mend)
    return {name: msgspec.convert(pin, Base, from_attributes=True) for name, pin in pins.items()}


def resolve_bases(hierarchy: Hierarchy, known: Bases, source: BaseSource) -> Bases:
    """Find out what is not known yet, several at the same time.

    A base that only the engine has is asked for each time: its owner may have built it anew. One that could not be had is
    asked for again where it is needed, where the engine has it now, and on another day. Raises ImageUnavailableError
    for one that cannot be had, unless its definition is optional.
    """
    wanted = external_references(hierarchy)

    def find(reference: str) -> Base:
        base, definition = known.found.get(reference), wanted[reference]
        if base is None or base.kind == "local" or (base.kind == "absent" and _may_be_there(reference, definition, base, source)):
            return find_base(reference, definition, source)
        return base

    # What is known is not handed to a thread: mostly that is all, and no thread is started.
    asked = [name for name in wanted if name not in known.found or known.found[name].kind in ("local", "absent")]
    answers = dict(zip(asked, at_the_same_time(find, asked), strict=True))
    found = {name: answers.get(name) or known.found[name] for name in wanted}
    for reference, base in found.items():
        if base.kind == "absent" and not wanted[reference].optional:
            hint = "Give it a `bootstrap:`, make it `optional: true`, or pull it once: docker pull " + reference
            if wanted[reference].released(reference):
                hint = base.hint or PUBLISH_HINT
            raise ImageUnavailableError(f"{wanted[reference].file}: the image '{reference}' cannot be had: {base.value}", hint)
    return Bases(found, known.pinned & found.keys(), known.registry)


def remember_bases(root: Path, bases: Bases) -> None:
    """Keep what was found and is not pinned for later plans, in .pipeline/bases.json."""
    found = {name: base for name, base in bases.found.items() if name not in bases.pinned and base.kind != "local"}
    if found:
        _write_memory(root, found)


def forget_bases(root: Path, references: Collection[str]) -> None:
    """Remember these no more: they are pinned now."""
    _write_memory(root, {name: base for name, base in _read_memory(root).items() if name not in references})


def _may_be_there(reference: str, definition: ImageDefinition, absent: Base, source: BaseSource) -> bool:
    return not definition.optional or absent.date[:10] != _today().isoformat() or source.local_image(reference) is not None


def now() -> str:
    """The date that what is found now gets."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def _is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text[:10])
    except ValueError:
        return False
    return bool(_DATE.fullmatch(text))


def at_the_same_time(function: Callable[[str], T], references: Sequence[str]) -> list[T]:
    """The results in order; the first error in order is raised. For one reference alone no thread is started."""
    if len(references) < 2:
        return [function(reference) for reference in references]
    with ThreadPoolExecutor(max_workers=min(REQUESTS, len(references))) as pool:
        return list(pool.map(function, references))


def find_base(reference: str, definition: ImageDefinition, source: BaseSource) -> Base:
    """What a reference stands for, asked now. Raises ImageUnavailableError where only a program for its bootstrap is missing."""
    date = now()
    if parent := definition.released(reference):
        try:
            return msgspec.structs.replace(source.released_image(parent), date=date)
        except ImageUnavailableError as error:
            return Base("absent", error.message, date, hint=error.hint)
    named = parse_reference(reference)
    if named.digest:
        return Base("digest", named.digest, date)
    local = source.local_image(reference)
    if local and not local[1]:  # asked first: a registry may have a stranger's image of the same name
        return Base("local", local[0], date)
    try:
        return Base("digest", source.remote_digest(reference), date)
    except ImageUnavailableError as error:
        if local and local[0] == local[1]:  # a containerd image store: there, an image has a digest that was never in a registry
            return Base("local", local[0], date)
        if local:
            return Base("digest", local[1], date)
        reason = error.message
    suite = ""
    if definition.base == reference and definition.bootstrap:
        try:
            suite = source.bootstrap_suite(definition.bootstrap)
        except ImageUnavailableError as error:
            if not definition.optional:
                raise
            reason = f"{reason}; {error.message}"
    return Base("bootstrap", suite, date) if suite else Base("absent", reason, date)


def _read_memory(root: Path) -> dict[str, Base]:
    try:
        memory = msgspec.json.decode((root / STATE_FOLDER / "bases.json").read_bytes(), type=_Memory).bases
        return {name: base for name, base in memory.items() if not base.date or _is_date(base.date)}
    except (OSError, msgspec.MsgspecError):
        return {}  # only a convenience: it is asked again


def _write_memory(root: Path, found: Mapping[str, Base]) -> None:
    path = root / STATE_FOLDER / "bases.json"
    if not found:
        path.unlink(missing_ok=True)
        return
    note = "These bases are not pinned: another machine may find others. `invoke pins.update` pins them in pipeline.lock."
    write_changed(path, msgspec.json.format(msgspec.json.encode(_Memory(dict(found), note)), indent=2).decode() + "\n")


def write_changed(path: Path, text: str) -> None:
    """Write a file whole or not at all; one that says the same already is not touched."""
    if path.exists() and path.read_bytes() == text.encode():
        return
    write_whole(path, text.encode(), durable=True)


def absent_references(bases: Bases, definition: ImageDefinition) -> Iterable[str]:
    """Which of the images a definition takes from elsewhere cannot be had."""
    names = (definition.base, *definition.uses)
    return [name for name in names if name in bases.found and bases.found[name].kind == "absent"]


def _is_path(repository: str) -> bool:
    return bool(REPOSITORY.fullmatch(release_place(repository, "")[1]))


_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?")
