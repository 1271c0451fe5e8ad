"""The commands that the documents show, and how one of them is found again among those that tests have run.

A command line is the same as another one if it names the same tasks, each with the same options; values may differ. Of other programs
it is the program, what it shall do (`docker context create`, the phases of `mvn`) and that no option is missing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.exceptions import ParseError
from invoke.parser import Parser

if TYPE_CHECKING:
    from invoke.collection import Collection

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "docs/reference/commands.md"]
TOOLKIT = ("invoke", "inv", "invokew")
STARTERS = ("ip", "env", "exec")  # programs that start the one that follows
DOCKERS_GROUPS = (("buildx",), ("context",), ("volume",))
NOT_RUN = {  # how a command begins → why no test runs it
    "invoke demo": "this repository's own: .ci/run runs it after the tests",
    "invoke check": "this repository's own: the gate itself",
    "invoke test": "this repository's own: what runs the tests",
    "invoke bench": "this repository's own: an hour of measuring",
    "benchmarks": "the same",
    "mkdocs serve": "does not end; `invoke check` makes the same site",
    "docker buildx bake": "the name of another tool",
    "docker compose": "the name of another tool",
}
OTHERS = ("docker", "git", "mvn", "pip", "pytest", "python", "mkdocs")  # programs that a line of text may name
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_EXAMPLES = re.compile(r"^[^|\n]*\bExamples?: (.+)$", re.MULTILINE)
_ENDS = re.compile(r"[();<>|&]+")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*")


@dataclass(frozen=True)
class Command:
    """One command line: what counts of it."""

    program: str
    does: tuple[str, ...]  # the tasks, each with its options; or the first words
    options: frozenset[str] = frozenset()

    @property
    def is_exempt(self) -> bool:
        return any(map(self.is_exempt_by, NOT_RUN))

    def is_exempt_by(self, beginning: str) -> bool:
        return f"{' '.join([self.program, *self.does])} ".startswith(f"{beginning} ")

    def is_shown_by(self, shown: Command) -> bool:
        """Whether a run of this one is a run of what is shown."""
        return (self.program, self.does) == (shown.program, shown.does) and shown.options <= self.options


def shown_lines(document: Path) -> list[str]:
    """Every command line of a document: those of blocks marked `console`, those in a sentence, and examples."""
    text = document.read_text(encoding="utf-8")
    blocks = [found[2] for found in _FENCED.finditer(text) if found[1] == "console"]
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", _FENCED.sub("", text))]
    examples = [example for line in _EXAMPLES.findall(text) for example in line.split(", ")]
    named = filter(_is_command, [*inline, *examples])
    return [*lines, *(f"invoke {line}" if line.split()[0] in _namespace().task_names else line for line in named)]


def commands_of(line: str) -> list[Command]:
    """The commands of a line of shell; none where it is no shell, or says `…`. Raises ParseError for a task or option that is not there."""
    return [found for words in _simple_commands(line.partition("…")[0]) if (found := command_of(words))]


def command_of(words: Sequence[str]) -> Command | None:
    """What counts of a command given as words, also where another program starts it (`ip netns exec NAME invoke plan`)."""
    program = words[0].rpartition("/")[2]
    if program in STARTERS:
        inner = next((place for place, word in enumerate(words) if word.rpartition("/")[2] in TOOLKIT), 0)
        words, program = words[inner:], words[inner].rpartition("/")[2]
    if program.startswith("python") and len(words) > 2 and words[1] == "-m":
        words, program = words[2:], "invoke" if words[2] == "pipeline" else words[2]
    return _of_toolkit(words[1:]) if program in TOOLKIT else _of_other(program, words[1:])


def runs_of(arguments: Sequence[str]) -> Iterator[Command]:
    """The commands that a program with these arguments has run: itself, or what the script in them says."""
    lines = [arguments[-1]] if arguments[0].rpartition("/")[2] in ("sh", "bash") and len(arguments) > 2 else []
    try:
        found = [command for script in lines for line in script.splitlines() for command in commands_of(line)]
        yield from found or filter(None, [command_of(arguments)])
    except ParseError:  # a task of some test's own, or one that is not there
        return


def _namespace() -> Collection:
    from tasks import namespace  # adds this repository's own tasks to the package's, so not before it is needed

    return namespace


@cache
def _parser() -> Parser:
    return Parser(contexts=_namespace().to_contexts(), ignore_unknown=False)


def _is_command(text: str) -> bool:
    words = text.split()
    if not words:
        return False
    if words[0] in _namespace().task_names:  # as in: `invoke build`, then `push --commit-only`
        return any(word.startswith("--") for word in words)
    name = words[0].rpartition("/")[2]
    return len(words) > 1 and (name in (*TOOLKIT, *OTHERS) or bool(_ASSIGNMENT.fullmatch(name)))


def _simple_commands(line: str) -> list[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    try:
        for word in lexer:
            if _ENDS.fullmatch(word):
                commands.append([])
            elif commands[-1] or not _ASSIGNMENT.fullmatch(word):  # variables for the command come before it
                commands[-1].append(word)
    except ValueError:  # an open quote: no line of shell
        return []
    return [words for words in commands if words]


def _of_toolkit(words: Sequence[str]) -> Command | None:
    about = [word for word in words if word in ("--help", "--list")]
    if about or (words and words[0].startswith("-")):
        return Command("invoke", (), frozenset(word.partition("=")[0] for word in about or words[:1]))
    tasks = []
    for context in _parser().parse_argv(list(words)):
        given = sorted({argument.name.replace("_", "-") for argument in context.args.values() if argument.got_value})
        tasks.append(" ".join([str(context.name), *(f"--{name}" for name in given)]))
    return Command("invoke", tuple(tasks)) if tasks else None


def _of_other(program: str, words: Sequence[str]) -> Command:
    plain = tuple(word for word in words if not word.startswith("-"))
    options = frozenset(word.partition("=")[0] for word in words if word.startswith("-"))
    first_words = {"pytest": 0, "venv": 0, "mvn": len(plain), "docker": 2 if plain[:1] in DOCKERS_GROUPS else 1}
    return Command(program, plain[: first_words.get(program, 1)], options)
