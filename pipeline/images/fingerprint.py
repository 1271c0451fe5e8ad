"""What an image is made of, as one value: two builds with the same fingerprint make the same image.

The inputs of schema 2, each a kind, a name and an identity:

| kind | name | identity |
| --- | --- | --- |
| `schema` | | the schema version below |
| `platform` | | such as `linux/amd64` |
| `description` | | the definition's sentence, which becomes a label |
| `dockerfile` | `Dockerfile` | SHA-256 of its recipe: the text without comments and blank lines outside here-documents |
| `file` | path in the build context | `file:x:SHA-256` or `file:-:SHA-256` (the executable bit), `folder:x:`, `link:-:TARGET` |
| `argument` | build argument | the value given; only arguments that the Dockerfile declares |
| `base` | a root's `from`, or NAMESPACE/IMAGE of a release | what it truly is: digest, local image id or bootstrap, of a pinned `from` with its date |
| `parent` | a child's `parent` | the parent's fingerprint |
| `uses` | a used image | its fingerprint, or what it truly is |

A file is an input if an instruction of the Dockerfile can read it (COPY, ADD, RUN --mount=type=bind) and no ignore file leaves it
out. The Dockerfile and the ignore files are files like any other: inputs where COPY takes them. A folder's own entry counts too, so an
empty one that is new is a change.

No inputs: files that no instruction reads; comments; owner, times, and permissions but the executable bit; the path of the
checkout; branch, commit and date (one image serves many commits); secrets and proxy settings; and whatever an instruction
fetches from elsewhere while it runs (RUN apt-get, ADD https://…), which is refreshed on purpose, by a new pin.

SHA-256 is over the MessagePack array of the sorted inputs, each an array of three strings (text that is no UTF-8: bytes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

SCHEMA = "2"  # raise it whenever the same inputs would make another image
SHOWN = 40  # characters of a value in an explanation


class Input(NamedTuple):
    """One thing that went in: its kind, its name, and its identity (a digest or a short value).

    A tuple, for there is one for every file: it is made and sorted several times as fast as a dataclass.
    """

    kind: str
    name: str
    identity: str


class Fingerprint(msgspec.Struct, frozen=True):
    """SHA-256 (64 hexadecimal digits) over all inputs, with the inputs themselves, so that it can be explained."""

    value: str
    inputs: tuple[Input, ...]

    def __str__(self) -> str:
        return self.value


def make_fingerprint(inputs: Iterable[Input]) -> Fingerprint:
    """The fingerprint of a set of inputs; their order does not matter."""
    import msgspec

    ordered = tuple(sorted([*inputs, Input("schema", "", SCHEMA)]))
    try:
        data = msgspec.msgpack.encode(ordered)
    except UnicodeEncodeError:
        data = msgspec.msgpack.encode([[_as_bytes(part) for part in item] for item in ordered])
    return Fingerprint(hashlib.sha256(data).hexdigest(), ordered)


def changes(before: Iterable[Input], after: Iterable[Input]) -> list[tuple[str, str]]:
    """What differs between two sets of inputs, as (kind, what changed in words); empty where nothing does."""
    old = {(item.kind, item.name): item.identity for item in before}
    new = {(item.kind, item.name): item.identity for item in after}
    found = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            kind, name = key
            how = "added" if key not in old else "removed" if key not in new else _how(kind, old[key], new[key])
            found.append((kind, f"{_printable(name) or _NAMELESS.get(kind, kind)} {how}"))
    return found


_NAMELESS = {"schema": "schema version"}


def _how(kind: str, old: str, new: str) -> str:
    if kind in ("argument", "platform", "schema", "base"):
        return f"changed: {_shown(old)} → {_shown(new)}"
    if kind != "file":
        return "changed"
    old_kind, old_mode, old_value, *_ = [*old.split(":", 2), "", ""]
    new_kind, new_mode, new_value, *_ = [*new.split(":", 2), "", ""]
    if old_kind != new_kind:
        return f"changed kind: {old_kind} → {new_kind}"
    if old_kind == "link":
        return f"changed target: {_shown(old_value)} → {_shown(new_value)}"
    mode = f"changed mode: {'executable' if new_mode == 'x' else 'not executable any more'}"
    return "changed" if old_mode == new_mode else mode if old_value == new_value else f"changed, and {mode}"


def _shown(value: str) -> str:
    value = _printable(value)
    return (value if len(value) <= SHOWN else value[: SHOWN - 1] + "…") or "(empty)"


def _printable(text: str) -> str:
    """One line, on any terminal."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _as_bytes(text: str) -> str | bytes:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text
