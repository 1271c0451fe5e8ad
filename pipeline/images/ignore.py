"""Ignore files by the rules of Docker's own matcher (github.com/moby/patternmatcher): order, negation, `**`."""

from __future__ import annotations

import posixpath
import re

import msgspec

from pipeline.errors import ConfigurationError


class Pattern(msgspec.Struct, frozen=True):
    """One line of an ignore file; `negated` for a line that begins with `!`."""

    text: str
    negated: bool
    expression: re.Pattern[str]


class IgnoreRules(msgspec.Struct, frozen=True):
    """The patterns of an ignore file, in their order: the last one that matches a path or one of its parents decides."""

    patterns: tuple[Pattern, ...] = ()

    def ignores(self, path: str) -> bool:
        """Whether `path` (relative, with slashes) is left out of the build context."""
        ignored = False
        matched = [False] * len(self.patterns)  # by the folder above
        end = -1
        while end < len(path):
            end = found if (found := path.find("/", end + 1)) >= 0 else len(path)
            ignored = False
            for number, pattern in enumerate(self.patterns):
                # A pattern that changes nothing is not tried, and so counts as not matched for what lies below, too.
                if not matched[number] and pattern.negated == ignored:
                    matched[number] = pattern.expression.fullmatch(path, 0, end) is not None
                if matched[number]:
                    ignored = not pattern.negated
        return ignored

    @property
    def may_bring_back(self) -> bool:
        """Whether something below an ignored folder may be in the context all the same."""
        return any(pattern.negated for pattern in self.patterns)


def parse_ignore(text: str, shown: str = ".dockerignore") -> IgnoreRules:
    """Read an ignore file's text; `shown` is its name in messages. Raises ConfigurationError for a pattern that Docker refuses."""
    patterns = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if line.startswith("#"):
            continue
        pattern = line.strip()
        negated = pattern.startswith("!")
        pattern = pattern.removeprefix("!").strip() if negated else pattern
        if not pattern and not negated:
            continue
        try:
            if not pattern:
                raise ValueError("nothing follows the !")
            pattern = posixpath.normpath(pattern).lstrip("/")
            expression = re.compile(_expression(pattern), re.DOTALL)
        except (ValueError, re.error) as error:
            hint = "Brackets need an end and something in between; write \\[ for a bracket itself."
            raise ConfigurationError(f"{shown}:{number}: '{line.strip()}' is not a pattern: {error}", hint) from None
        if pattern and pattern != ".":
            patterns.append(Pattern(pattern, negated, expression))
    return IgnoreRules(tuple(patterns))


_CLASS = re.compile(r"(\^?+)((?:\\.|[^\]\\])+)\]", re.DOTALL)  # what follows a [


def _members(text: str) -> str:
    """The inside of a bracket: single signs and ranges, every sign escaped, since Python gives some of them a meaning in there."""
    ranges = re.findall(r"(\\.|.)(?:(-)(\\.|.))?", text, re.DOTALL)
    return "".join(re.escape(first[-1]) + dash + (re.escape(last[-1]) if last else "") for first, dash, last in ranges)


def _expression(pattern: str) -> str:
    """The regular expression of one pattern, as patternmatcher's `compile` makes it. Raises ValueError or re.error."""
    if pattern.startswith("**") and not re.search(r"[*?\[\]\\]", pattern[2:]) and not pattern.startswith("**/"):
        return ".*" + re.escape(pattern[2:])  # patternmatcher's suffixMatch: **.log is any path that ends so
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
        elif character == "\\":
            if position == len(pattern):
                raise ValueError("nothing follows the \\")
            if pattern[position].isascii() and pattern[position].isalnum():
                raise ValueError(f"\\{pattern[position]} is not an escaped sign")  # to Docker, \\a is a bell and \\d a digit
            result += re.escape(pattern[position])
            position += 1
        elif character == "[":
            found = _CLASS.match(pattern, position)
            if not found:
                raise ValueError("a bracket has no end")
            result += f"[{found[1]}{_members(found[2])}]"
            position = found.end()
        else:
            result += re.escape(character)
    return result
