"""What a Dockerfile takes from elsewhere: the images it names and the arguments it declares.

Only as much of the Dockerfile's grammar as that needs (docs.docker.com, "Dockerfile reference"): continuation lines, the
escape directive, here-documents, ARG before and after the first FROM, FROM, COPY/ADD --from, RUN --mount=…,from=….
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

BASE_ARGUMENT = "BASE_IMAGE"


@dataclass(frozen=True)
class TakenImage:
    """An image that a Dockerfile names, with the 1-based line it stands on."""

    name: str
    line: int


@dataclass(frozen=True)
class Dockerfile:
    """`images`: taken from outside, stages and BASE_IMAGE left out. `arguments`: every ARG. `has_base`: FROM ${BASE_IMAGE}."""

    images: tuple[TakenImage, ...]
    arguments: frozenset[str]
    has_base: bool
    stages: frozenset[str] = frozenset()  # in lower case, as BuildKit compares them


def parse_dockerfile(text: str, arguments: Mapping[str, str]) -> Dockerfile:
    """Read a Dockerfile; `arguments` are the build arguments given, which win over defaults in `FROM ${NAME}`."""
    values: dict[str, str] = {}
    declared: set[str] = set()
    stages: set[str] = set()
    taken: list[TakenImage] = []
    has_base = seen_from = False

    def take(name: str, line: int, stage_numbers: bool = False) -> None:
        if name == "scratch" or name.lower() in stages or (stage_numbers and name.isdigit()):
            return
        if name not in {image.name for image in taken}:
            taken.append(TakenImage(name, line))

    for line, instruction, rest in _instructions(text):
        if instruction == "ARG":
            for part in rest.split():
                name, _, default = part.partition("=")
                declared.add(name)
                if not seen_from:
                    values[name] = arguments.get(name, default.strip("\"'"))
        elif instruction == "FROM":
            seen_from = True
            words = [word for word in rest.split() if not word.startswith("--")]
            image = words[0] if words else ""
            if _VARIABLE.fullmatch(image) and _variable_name(image) == BASE_ARGUMENT:
                has_base = BASE_ARGUMENT in values  # an ARG after the first FROM is too late
            else:
                take(_expand(image, values), line)
            if len(words) == 3 and words[1].upper() == "AS":
                stages.add(words[2].lower())
        elif instruction in ("COPY", "ADD"):
            for source in re.findall(r"--from=(\S+)", _flags(rest)):
                take(source, line, stage_numbers=True)
        elif instruction == "RUN":
            for mount in re.findall(r"--mount=(\S+)", _flags(rest)):
                for source in re.findall(r"(?:^|,)from=([^,\s]+)", mount):
                    take(source, line, stage_numbers=True)
    return Dockerfile(tuple(taken), frozenset(declared), has_base, frozenset(stages))


_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::?([-+])([^}]*))?\}|(\w+))")
_HEREDOC = re.compile(r"(?:^|\s)\d*<<-?([\"']?)([^<\s\"']+)\1(?=\s|$)")  # a word of its own; <<< and 1 << 2 are none


def _flags(rest: str) -> str:
    """The --flags that an instruction begins with."""
    return rest[: re.match(r"(?:\s*--\S+)*", rest).end()]  # type: ignore[union-attr]  # matches the empty text, too


def _variable_name(text: str) -> str:
    found = _VARIABLE.match(text)
    return (found[1] or found[4]) if found else ""


def _expand(text: str, values: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        given = values.get(found[1] or found[4], "")
        if found[2] == "+":
            return found[3] if given else ""
        return given or found[3] or ""

    return _VARIABLE.sub(value, text)


def _instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """(first line, INSTRUCTION, the rest on one line), without comments, continuation characters and here-documents."""
    text = text.removeprefix("\ufeff")
    directive = re.match(r"(?:\s*#\s*\w+\s*=.*\n)*?\s*#\s*escape\s*=\s*([`\\])", text, re.IGNORECASE)
    escape = directive[1] if directive else "\\"
    lines = text.splitlines()
    position = 0
    while position < len(lines):
        first = position + 1
        whole = ""
        while position < len(lines):
            line = lines[position]
            position += 1
            if line.lstrip().startswith("#") or (whole and not line.strip()):
                if not whole:
                    break
                continue
            if line.rstrip().endswith(escape):
                whole += line.rstrip()[:-1] + " "
                continue
            whole += line
            break
        words = whole.split(maxsplit=1)
        if not words:
            continue
        instruction, rest = words[0], words[1].rstrip() if len(words) == 2 else ""
        if instruction.upper() in ("RUN", "COPY", "ADD"):
            for _quote, mark in _HEREDOC.findall(rest):
                while position < len(lines) and lines[position].strip() != mark:
                    position += 1
                position += 1
        yield first, instruction.upper(), rest
