"""What an image is made of, as one value: two builds with the same fingerprint make the same image.

In it: the schema version below, the platform, the description (a label), the Dockerfile and every entry of the context (path, kind, executable bit,
content hash or link target), the build arguments the Dockerfile declares, the base, and the fingerprints of parent and used
images. Not in it: branch, commit, date (one image serves many commits), secrets and proxy settings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

SCHEMA = "1"  # raise it whenever the same inputs would make another image


class Input(NamedTuple):
    """One thing that went in: its kind, its name, and its identity (a digest or a short value).

    A tuple, for there is one for every file: it is made and sorted several times as fast as a dataclass.
    """

    kind: str
    name: str
    identity: str


@dataclass(frozen=True)
class Fingerprint:
    """SHA-256 (64 hexadecimal digits) over all inputs, with the inputs themselves, so that it can be explained."""

    value: str
    inputs: tuple[Input, ...]

    def __str__(self) -> str:
        return self.value


def make_fingerprint(inputs: Iterable[Input]) -> Fingerprint:
    """The fingerprint of a set of inputs; their order does not matter."""
    ordered = tuple(sorted([*inputs, Input("schema", "", SCHEMA)]))
    digest = hashlib.sha256()
    for item in ordered:
        for part in (item.kind, item.name, item.identity):
            data = part.encode("utf-8", "surrogateescape")
            digest.update(b"%d:%b" % (len(data), data))  # lengths, so that no two lists of parts look alike
    return Fingerprint(digest.hexdigest(), ordered)


def changes(before: Iterable[Input], after: Iterable[Input]) -> list[tuple[str, str]]:
    """What differs between two sets of inputs, as (kind, what changed in words); empty where nothing does."""
    old = {(item.kind, item.name): item.identity for item in before}
    new = {(item.kind, item.name): item.identity for item in after}
    found = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            verb = "added" if key not in old else "removed" if key not in new else _how(key[0], old[key], new[key])
            name = key[1] if key[1].isprintable() else key[1].encode("unicode_escape").decode()  # one line, any terminal
            found.append((key[0], f"{name} {verb}".strip()))
    return found


def _how(kind: str, old: str, new: str) -> str:
    if kind == "file" and old.split(":", 2)[2:] == new.split(":", 2)[2:]:
        return "changed mode" if old.split(":", 1)[0] == new.split(":", 1)[0] else "changed kind"
    return "changed"
