"""What a Dockerfile reads of its build context, as a selection of paths that is never too narrow.

The sources of COPY and ADD (shell and JSON form) and of RUN --mount=type=bind without `from`. A plain path, or one with `*` and `?`,
is followed as it stands. What is not plain (a variable, `[`, `**`) selects the folder in front of it; quotes, escapes and parent
folders select the whole context. Being too wide costs a needless build; being too narrow would hide a file from BuildKit.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import msgspec


class Sources(msgspec.Struct, frozen=True, dict=True):
    """`patterns`: paths relative to the context, in which `*` and `?` mean what they mean to COPY, and a last `**` anything below.

    `whole`: everything.
    """

    patterns: tuple[str, ...] = ()
    whole: bool = False

    def __bool__(self) -> bool:
        return self.whole or bool(self.patterns)

    def takes(self, path: str) -> bool:
        """Whether `path` is a source, or lies below one."""
        return self.whole or self._below.match(path) is not None

    def is_source(self, path: str) -> bool:
        """Whether `path` is itself named as a source. BuildKit follows it if it is a link."""
        return self.whole or self._exact.fullmatch(path) is not None

    def leads(self, path: str) -> bool:
        """Whether `path` is a folder on the way to a source."""
        return self.whole or self._way.fullmatch(path) is not None

    @cached_property
    def _exact(self) -> re.Pattern[str]:
        return _any(map(_expression, self.patterns))

    @cached_property
    def _below(self) -> re.Pattern[str]:
        return _any(_expression(pattern) + r"(?:/|\Z)" for pattern in self.patterns)

    @cached_property
    def _way(self) -> re.Pattern[str]:
        parts = [pattern.split("/") for pattern in self.patterns]
        return _any(dict.fromkeys(_expression("/".join(names[:end])) for names in parts for end in range(1, len(names))))


def read_sources(instructions: Iterable[tuple[int, str, str]], arguments: Mapping[str, str] | None = None, escape: str = "\\") -> Sources:
    """The selection of all instructions together. `arguments`: the build arguments given; `escape`: the escape character."""
    found: list[str] = []
    values = [*(arguments or {}).values()]
    for _line, name, rest in instructions:
        if name in ("ARG", "ENV"):
            values.append(rest)
        elif name in ("COPY", "ADD", "RUN"):
            found += _mounted(rest, escape) if name == "RUN" else _copied(name, rest, escape)
    climbing = any(".." in value for value in values)
    patterns = {_pattern(source, escape, climbing) for source in found}
    return Sources(whole=True) if "" in patterns else Sources(tuple(sorted(patterns)))


_EVERYTHING = "."
_ANYTHING = "**"  # a pattern's last part, where any path below the folder in front may be a source
_REMOTE = re.compile(r"(?:https?|git|ssh)://|git@")


def _copied(name: str, rest: str, escape: str) -> Iterator[str]:
    """The sources of a COPY or ADD, as they are written."""
    flags, words = _split_flags(rest)
    origin = next((flag.partition("=")[2] for flag in flags if flag.startswith("--from=")), "")
    if _is_odd("".join(flags), escape) or "$" in origin:
        yield _EVERYTHING
        return
    if origin:
        return
    for source in _listed(words)[:-1]:
        if not re.match(r"\d*<<", source) and not (name == "ADD" and _REMOTE.match(source)):
            yield source


def _mounted(rest: str, escape: str) -> Iterator[str]:
    """The sources of a RUN's bind mounts."""
    flags, _ = _split_flags(rest)
    if _is_odd("".join(flags), escape):
        yield _EVERYTHING
        return
    for flag in flags:
        if flag.startswith("--mount"):
            options = {key.strip().lower(): value for key, _, value in (part.partition("=") for part in flag.partition("=")[2].split(","))}
            origin = options.get("from", "")
            if "$" in options.get("type", "") + origin:
                yield _EVERYTHING
            elif options.get("type", "bind").lower() == "bind" and not origin:
                yield options.get("source", options.get("src", _EVERYTHING))


def _split_flags(rest: str) -> tuple[list[str], str]:
    end = re.match(r"(?:\s*--\S+)*", rest).end()  # type: ignore[union-attr]  # matches the empty text, too
    return rest[:end].split(), rest[end:].strip()


def _listed(words: str) -> list[str]:
    """The words of a COPY's JSON or shell form."""
    try:
        found = json.loads(words) if words.startswith("[") else None
    except ValueError:  # to BuildKit, a shell form, too
        found = None
    return found if isinstance(found, list) and all(isinstance(word, str) for word in found) else re.split(r"[\t\v\f\r ]+", words)


def _pattern(source: str, escape: str, climbing: bool) -> str:
    """The pattern of one source; empty for everything. `climbing`: a variable's value may lead out of its folder."""
    if not source or _is_odd(source, escape) or ".." in source.split("/") or ("$" in source and climbing):
        return ""
    parts = posixpath.normpath("/" + source).lstrip("/").split("/")
    unclear = next((number for number, part in enumerate(parts) if "$" in part or "[" in part or "**" in part), len(parts))
    return "/".join([*parts[:unclear], _ANYTHING]) if 0 < unclear < len(parts) else "/".join(parts[:unclear])


def _is_odd(text: str, escape: str) -> bool:
    return any(sign in text for sign in ('"', "'", "\\", escape))


def _expression(pattern: str) -> str:
    if pattern.endswith("/" + _ANYTHING):
        return _expression(pattern.removesuffix("/" + _ANYTHING)) + "(?:/.*)?"
    return "".join("[^/]*" if sign == "*" else "[^/]" if sign == "?" else re.escape(sign) for sign in pattern)


def _any(expressions: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{expression})" for expression in expressions) or r"(?!)", re.DOTALL)
