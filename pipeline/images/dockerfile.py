"""What a Dockerfile takes from elsewhere: the images it names, the arguments it declares, and what it reads of its build context.

Only as much of the Dockerfile's grammar as that needs (docs.docker.com, "Dockerfile reference"; the details are those of
BuildKit's own parser, github.com/moby/buildkit, frontend/dockerfile/parser): continuation lines, parser directives,
here-documents, ARG before and after the first FROM, FROM, COPY/ADD --from, RUN --mount=…,from=…. What of the context is read is
in `sources`.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec

from pipeline.images.sources import Sources, read_sources

BASE_ARGUMENT = "BASE_IMAGE"


class TakenImage(msgspec.Struct, frozen=True):
    """An image that a Dockerfile names, with the 1-based line it stands on."""

    name: str
    line: int


class Dockerfile(msgspec.Struct, frozen=True):
    """`images`: taken from outside, stages and BASE_IMAGE left out. `arguments`: every ARG. `has_base`: FROM ${BASE_IMAGE}.

    `sources`: what it reads of its build context. `triggers`: its ONBUILD instructions. `recipe`: the text without what cannot
    change an image: comments and blank lines outside here-documents.
    """

    images: tuple[TakenImage, ...]
    arguments: frozenset[str]
    has_base: bool
    stages: frozenset[str]  # in lower case, as BuildKit compares them
    sources: Sources
    triggers: tuple[str, ...]
    recipe: str


def parse_dockerfile(text: str, arguments: Mapping[str, str]) -> Dockerfile:
    """Read a Dockerfile; `arguments` are the build arguments given, which win over defaults in `FROM ${NAME}`."""
    return _parse(text, tuple(arguments.items()))


def takes_context(onbuild: Sequence[str]) -> bool:
    """Whether the ONBUILD triggers of an image read the build context of those that are built on it."""
    return bool(read_sources(_instruction(0, trigger) for trigger in onbuild))


class Instruction(NamedTuple):
    """One instruction on one line: the number of its first line, its name in capitals, and what follows."""

    line: int
    name: str
    rest: str


@lru_cache(maxsize=4096)  # a Dockerfile is checked, then planned with, then once more by the next command of the same process
def _parse(text: str, given: tuple[tuple[str, str], ...]) -> Dockerfile:
    arguments = dict(given)
    values: dict[str, str] = {}
    declared: set[str] = set()
    stages: set[str] = set()
    taken: list[TakenImage] = []
    has_base = seen_from = False
    scan = _scan(text)

    def take(name: str, line: int, stage_numbers: bool = False) -> None:
        if name == "scratch" or name.lower() in stages or (stage_numbers and name.isdigit()):
            return
        if name not in {image.name for image in taken}:
            taken.append(TakenImage(name, line))

    for line, instruction, rest in scan.instructions:
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
    foreign = not _BUILDKITS_OWN.fullmatch(scan.syntax or "docker/dockerfile") or "BUILDKIT_SYNTAX" in arguments
    unclear = scan.unclear or foreign
    triggers = tuple(rest for _, name, rest in scan.instructions if name == "ONBUILD")
    # Triggers run in children, and in a later stage of this Dockerfile that is built on the stage they stand in.
    own = [_instruction(line, rest) if name == "ONBUILD" else Instruction(line, name, rest) for line, name, rest in scan.instructions]
    return Dockerfile(
        images=tuple(taken),
        arguments=frozenset(declared),
        has_base=has_base,
        stages=frozenset(stages),
        sources=Sources(whole=True) if unclear else read_sources(own, arguments, scan.escape),
        triggers=triggers,
        recipe=text if unclear else scan.recipe,
    )


_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::?([-+])([^}]*))?\}|(\w+))")
# A frontend of somebody else's may read comments, or have instructions of its own.
_BUILDKITS_OWN = re.compile(r"(?:docker\.io/)?docker/dockerfile(?:-upstream)?(?:[:@].*)?")


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


class _Scan(msgspec.Struct, frozen=True):
    """A Dockerfile in its instructions. `unclear`: BuildKit's versions, or its parser and this one, might not agree about it."""

    instructions: tuple[Instruction, ...]
    recipe: str
    escape: str = "\\"
    syntax: str = ""
    unclear: bool = False


_DIRECTIVE = re.compile(r"#\s*(syntax|escape|check)\s*=\s*(.+?)\s*", re.IGNORECASE)
_MISPLACED = re.compile(r"\s*#\s*(?:syntax|escape)\s*=", re.IGNORECASE)
_SPACE = "\t\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"  # to Go


def _scan(text: str) -> _Scan:
    lines = text.removeprefix("\ufeff").split("\n")
    position = 0
    directives: dict[str, str] = {}
    while position < len(lines) and (found := _DIRECTIVE.fullmatch(lines[position])):  # the first other line ends them
        directives.setdefault(found[1].lower(), found[2])
        position += 1
    escape = directives.get("escape", "\\")
    recipe = lines[:position]
    # Directives further down are mere comments, but after some lines BuildKit's versions do not agree (#!, //, unknown directives).
    rest = itertools.takewhile(lambda line: not line.strip() or line.lstrip().startswith(("#", "//")), lines[position:])
    unclear = escape not in ("\\", "`") or lines[0].startswith(("//", "{")) or any(map(_MISPLACED.match, rest))
    continued = re.compile(rf"(.*?){re.escape(escape)}[ \t]*", re.DOTALL)
    instructions = []
    while position < len(lines):
        first = position + 1
        whole, complete = "", False
        while not complete and position < len(lines):
            line = lines[position].rstrip("\r")
            position += 1
            bare = line.lstrip(_SPACE)
            if not bare or bare.startswith("#"):
                complete = not whole and first == position
                continue
            recipe.append(line)
            ending = continued.fullmatch(line)
            unclear = unclear or bool(ending and ending[1].endswith(escape))  # an escaped escape goes on in old versions only
            complete = not ending
            whole += ending[1] if ending else line
        if not whole.strip():
            continue
        instruction = _instruction(first, whole)
        instructions.append(instruction)
        for chomp, mark in _heredocs(instruction):
            end = position
            while end < len(lines) and (lines[end].rstrip("\r").lstrip("\t") if chomp else lines[end].rstrip("\r")) != mark:
                end += 1
            unclear = unclear or end == len(lines)  # it has no end: BuildKit refuses it, or sees no here-document
            recipe += lines[position : end + 1]
            position = end + 1
    return _Scan(tuple(instructions), "\n".join(recipe), escape, directives.get("syntax", ""), unclear)


def _instruction(line: int, text: str) -> Instruction:
    words = text.split(maxsplit=1)
    return Instruction(line, words[0].upper() if words else "", words[1].rstrip() if len(words) == 2 else "")


def _heredocs(instruction: Instruction) -> Iterator[tuple[bool, str]]:
    """The here-documents that follow an instruction: whether leading tabs are cut, and the line that ends each."""
    if instruction.name == "ONBUILD":
        instruction = _instruction(instruction.line, instruction.rest)
    if instruction.name not in ("RUN", "COPY", "ADD") or "<<" not in instruction.rest:
        return
    arguments = instruction.rest.removeprefix(_flags(instruction.rest)).strip()
    if arguments.startswith("["):
        try:
            json.JSONDecoder().raw_decode(arguments)
        except ValueError:
            pass
        else:
            return
    for word in _WORD.findall(instruction.rest):
        found = re.fullmatch(r"\d*<<(-?)([^<]+)", word)
        if found:
            yield found[1] == "-", re.sub(r"""\\(.)|["']""", r"\1", found[2])


_WORD = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*'|["'\\])+""", re.DOTALL)
