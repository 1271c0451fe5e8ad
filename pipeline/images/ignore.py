"""Ignore files by the rules of Docker's own matcher (github.com/moby/patternmatcher): order, negation, `**`."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Pattern:
    """One line of an ignore file; `negated` for a line that begins with `!`."""

    text: str
    negated: bool
    expression: re.Pattern[str]


@dataclass(frozen=True)
class IgnoreRules:
    """The patterns of an ignore file, in their order: the last one that matches a path or one of its parents decides."""

    patterns: tuple[Pattern, ...] = ()

    def ignores(self, path: str) -> bool:
        """Whether `path` (relative, with slashes) is left out of the build context."""
        ignored = False
        parents = path.split("/")
        prefixes = ["/".join(parents[: count + 1]) for count in range(len(parents))]
        for pattern in self.patterns:
            if pattern.negated == ignored and any(pattern.expression.fullmatch(prefix) for prefix in prefixes):
                ignored = not pattern.negated
        return ignored

    @property
    def may_bring_back(self) -> bool:
        """Whether something below an ignored folder may be in the context all the same."""
        return any(pattern.negated for pattern in self.patterns)


def parse_ignore(text: str) -> IgnoreRules:
    """Read an ignore file's text."""
    patterns = []
    for line in text.removeprefix("\ufeff").splitlines():
        if line.startswith("#"):
            continue
        pattern = line.strip()
        negated = pattern.startswith("!")
        pattern = pattern.removeprefix("!").strip() if negated else pattern
        if not pattern:
            continue
        pattern = posixpath.normpath(pattern).lstrip("/")
        if pattern and pattern != ".":
            patterns.append(Pattern(pattern, negated, re.compile(_expression(pattern), re.DOTALL)))
    return IgnoreRules(tuple(patterns))


def _expression(pattern: str) -> str:
    """The regular expression of one pattern, as patternmatcher's `compile` makes it."""
    result = ""
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            if pattern[position : position + 1] == "*":
                position += 1
                if pattern[position : position + 1] == "/":
                    position += 1
                result += ".*" if position == len(pattern) else "(?:.*/)?"
            else:
                result += "[^/]*"
        elif character == "?":
            result += "[^/]"
        elif character == "\\" and position < len(pattern):
            result += re.escape(pattern[position])
            position += 1
        elif character == "[":
            end = pattern.find("]", position + 1)
            if end < 0:
                result += re.escape(character)
            else:
                inside = pattern[position:end].replace("\\", "\\\\").replace("[", "\\[")
                result += f"[{inside}]"
                position = end + 1
        else:
            result += re.escape(character)
    return result
