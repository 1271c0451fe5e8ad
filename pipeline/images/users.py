"""Which releases stand on an image, and on which state of it: found in what the releases say themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from pipeline.errors import RegistryRefusedError
from pipeline.images.definition import release_place
from pipeline.images.release import Release
from pipeline.reference import parse_reference

ReadRelease = Callable[[str, str], Release | None]  # (namespace, tag) → what it names there
DEEPEST = 100  # images that stand on each other; more is a release that names itself


class Use(msgspec.Struct, frozen=True):
    """An image of a release that stands on the image that was asked about.

    `digest` and `base`: which state of that image, and the tag of its release, where it is of one. `current`: whether that is
    the present state.
    """

    namespace: str
    release: str
    image: str
    digest: str
    base: str
    current: bool

    def __str__(self) -> str:
        on = self.base or self.digest
        return f"{self.namespace} {self.release}: {self.image} stands on {on}" + ("" if self.current else ", an old one")


class Ground(msgspec.Struct, frozen=True):
    """An image below another one: NAMESPACE/IMAGE or a reference, its digest, and the tag of its release where it is of one."""

    name: str
    digest: str
    release: str = ""


class Wanted(msgspec.Struct, frozen=True):
    """The image that is asked about: NAMESPACE/IMAGE where it is `released`, else a reference; and the digest of its present state."""

    name: str
    digest: str
    released: bool


def find_users(wanted: Wanted, releases: Mapping[str, Sequence[Release]], read: ReadRelease, registry: str) -> list[Use]:
    """Every use of an image in `releases` (by namespace), old ones first.

    `read` asks for a release of another repository that an image stands on. `registry`: where a namespace without a host is.
    """
    name_wanted = _full(wanted.name, wanted.released, registry)
    found = {
        Use(namespace, release.tag, name, ground.digest, ground.release, ground.digest == wanted.digest)
        for namespace, several in releases.items()
        for release in several
        for name in release.present
        for ground in grounds(namespace, release, name, read)
        if _full(ground.name, bool(ground.release), registry) == name_wanted
    }
    return sorted(found, key=lambda use: (use.current, use.namespace, use.release, use.image))


def grounds(namespace: str, release: Release, name: str, read: ReadRelease, depth: int = 0) -> Iterator[Ground]:
    """All images that an image of a release stands on, down to the last that a release knows of.

    Where a release in between is no longer in the registry, what is below it cannot be told.
    """
    if depth > DEEPEST:
        raise RegistryRefusedError(
            f"release {release.tag} of {namespace} stands on itself", "It was not written by the pipeline: remove its tag."
        )
    for below in release.images[name].stands_on:
        if not below.digest and below.name in release.present:
            yield Ground(f"{namespace}/{below.name}", release.present[below.name].digest, release.tag)
            yield from grounds(namespace, release, below.name, read, depth + 1)
        elif below.digest:
            yield Ground(below.name, below.digest, below.release)
            other, _, image = below.name.rpartition("/")
            found = read(other, below.release) if below.release else None
            if found and image in found.present:
                yield from grounds(other, found, image, read, depth + 1)


def _full(name: str, released: bool, registry: str) -> str:
    """What it is called, whichever state of it: a digest in a reference is left out."""
    if released:
        return "/".join(release_place(name, registry))
    reference = parse_reference(name)
    return str(reference.with_tag(reference.tag))


def users_as_json(uses: Sequence[Use]) -> list[dict[str, Any]]:
    """The document that `invoke release.users --json` prints."""
    return [msgspec.to_builtins(use) for use in uses]
