"""A reader of declarative Jenkinsfiles for the tests: it knows what this project's file uses, and refuses all else.

It goes by Jenkins' own "Pipeline Syntax" reference (jenkins.io/doc/book/pipeline/syntax): the sections agent, post, stages, steps
and the directives options, stage, when.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"(?P<skip>[ \t]+|//[^\n]*)|(?P<line>\n)|(?P<text>'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\")|(?P<word>\w+)|(?P<sign>==|!=|[{}():,.])"
)
_LABEL = re.compile(r"\$\{env\.(\w+) \? '([^']*)' : '([^']*)'\}")


class UnknownSyntaxError(Exception):
    """The file holds what this reader does not know."""


@dataclass(frozen=True)
class Statement:
    """NAME ARGUMENTS { BLOCK }; the last two may be missing."""

    name: str
    arguments: tuple[str, ...] = ()
    block: tuple[Statement, ...] | None = None
    line: int = 0


@dataclass(frozen=True)
class Stage:
    """`needs`: a variable of the environment, and whether it must be there; None: the stage runs in every build."""

    name: str
    commands: tuple[str, ...]
    always: tuple[str, ...] = ()
    results: tuple[str, ...] = ()  # patterns of JUnit files
    needs: tuple[str, bool] | None = None

    def runs(self, environment: Mapping[str, str]) -> bool:
        return self.needs is None or (self.needs[0] in environment) == self.needs[1]


@dataclass(frozen=True)
class Pipeline:
    """Its stages run one after another in one workspace on one agent."""

    label: str
    stages: tuple[Stage, ...]
    artifacts: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def agent(self, environment: Mapping[str, str]) -> str:
        """The label of the agents that may run a build with this environment."""
        return _LABEL.sub(lambda found: found[2] if environment.get(found[1]) else found[3], self.label)


def read_pipeline(text: str) -> Pipeline:
    """Raises UnknownSyntaxError, with the line."""
    statements = _Reader(text).statements(top=True)
    if [statement.name for statement in statements] != ["pipeline"]:
        raise UnknownSyntaxError("a declarative Jenkinsfile is one `pipeline { … }`")
    parts = _parts(statements[0], required=("agent", "stages"), optional=("options", "post"))
    (label,) = _parts(parts["agent"], required=("label",)).values()
    archived = _steps(_always(parts["post"])) if "post" in parts else []
    if any(name != "archiveArtifacts" for name, _ in archived):
        raise UnknownSyntaxError("after all stages, this reader knows archiveArtifacts only")
    return Pipeline(
        _text(label),
        tuple(_stage(stage) for stage in _block(parts["stages"])),
        tuple(pattern for _, given in archived for pattern in given["artifacts"].split(", ")),
        {option.name: option.arguments for option in _block(parts["options"])} if "options" in parts else {},
    )


def _stage(stage: Statement) -> Stage:
    _check_name(stage, "stage")
    parts = _parts(stage, required=("steps",), optional=("when", "post"))
    steps, after = _steps(parts["steps"]), _steps(_always(parts["post"])) if "post" in parts else []
    if any(name != "sh" for name, _ in steps):
        raise UnknownSyntaxError(f"line {stage.line}: before `post`, this reader knows `sh` only")
    return Stage(
        _text(stage),
        tuple(given["script"] for _, given in steps),
        tuple(given["script"] for name, given in after if name == "sh"),
        tuple(given["testResults"] for name, given in after if name == "junit"),
        _condition(parts["when"]) if "when" in parts else None,
    )


def _condition(when: Statement) -> tuple[str, bool]:
    (expression,) = _parts(when, required=("expression",)).values()
    (comparison,) = _block(expression)
    match (comparison.name, *comparison.arguments):
        case ("env", ".", name, "==", "null"):
            return name, False
        case ("env", ".", name, "!=", "null"):
            return name, True
    raise UnknownSyntaxError(f"line {comparison.line}: this reader knows `env.NAME == null` and `env.NAME != null`")


def _steps(block: Statement) -> list[tuple[str, dict[str, str]]]:
    """Each step with its arguments by name; `sh 'x'` is `sh script: 'x'`."""
    first = {"sh": "script", "junit": "testResults", "archiveArtifacts": "artifacts"}
    known = {"sh": {"script"}, "junit": {"testResults", "allowEmptyResults"}, "archiveArtifacts": {"artifacts", "allowEmptyArchive"}}
    found = []
    for step in _block(block):
        if step.name not in known or step.block is not None:
            raise UnknownSyntaxError(f"line {step.line}: there is no step '{step.name}'")
        arguments = list(step.arguments)
        if len(arguments) == 1:
            arguments = [first[step.name], ":", *arguments]
        given = {}
        while arguments:
            name, colon, value, *arguments = arguments
            if colon != ":" or name not in known[step.name] or (arguments and arguments.pop(0) != ","):
                raise UnknownSyntaxError(f"line {step.line}: '{step.name}' has no argument '{name}'")
            given[name] = _unquoted(value)
        if first[step.name] not in given:
            raise UnknownSyntaxError(f"line {step.line}: '{step.name}' wants {first[step.name]}")
        found.append((step.name, given))
    return found


def _always(post: Statement) -> Statement:
    return _parts(post, required=("always",))["always"]


def _parts(statement: Statement, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Statement]:
    parts: dict[str, Statement] = {}
    for part in _block(statement):
        if part.name not in (*required, *optional) or part.name in parts:
            raise UnknownSyntaxError(f"line {part.line}: '{part.name}' in '{statement.name}' is unknown or there twice")
        parts[part.name] = part
    for name in required:
        if name not in parts:
            raise UnknownSyntaxError(f"line {statement.line}: '{statement.name}' has no '{name}'")
    return parts


def _block(statement: Statement) -> tuple[Statement, ...]:
    if statement.block is None:
        raise UnknownSyntaxError(f"line {statement.line}: '{statement.name}' wants a block")
    return statement.block


def _check_name(statement: Statement, name: str) -> None:
    if statement.name != name:
        raise UnknownSyntaxError(f"line {statement.line}: '{statement.name}' where a {name} was expected")


def _text(statement: Statement) -> str:
    if len(statement.arguments) != 1:
        raise UnknownSyntaxError(f"line {statement.line}: '{statement.name}' wants one text")
    return _unquoted(statement.arguments[0])


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text[:1] in ("'", '"') else text


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, int]] = []
        position, line = 0, 1
        while position < len(text):
            found = _TOKEN.match(text, position)
            if not found:
                raise UnknownSyntaxError(f"line {line}: {text[position : position + 20]!r}")
            if found.lastgroup != "skip":
                self._tokens.append((found[0], line))
            line += found[0] == "\n"
            position = found.end()

    def statements(self, top: bool = False) -> tuple[Statement, ...]:
        """Up to the end of the file, or up to and with the brace that closes this block."""
        found: list[Statement] = []
        while True:
            token, line = self._next()
            if token == "\n":
                continue
            if token in ("", "}"):
                if top != (token == ""):
                    raise UnknownSyntaxError(f"line {line}: a brace too {'many' if top else 'few'}")
                return tuple(found)
            if not re.fullmatch(r"[A-Za-z_]\w*", token):
                raise UnknownSyntaxError(f"line {line}: {token!r} where a name was expected")
            found.append(self._statement(token, line))

    def _statement(self, name: str, line: int) -> Statement:
        arguments: list[str] = []
        while self._peek() not in ("\n", "", "{", "}"):
            arguments.append(self._next()[0])
        if arguments[:1] == ["("]:
            if arguments[-1] != ")":
                raise UnknownSyntaxError(f"line {line}: a parenthesis that is not closed")
            arguments = arguments[1:-1]
        if "(" in arguments or ")" in arguments:
            raise UnknownSyntaxError(f"line {line}: parentheses within arguments")
        block = None
        if self._peek() == "{":
            self._next()
            block = self.statements()
        return Statement(name, tuple(arguments), block, line)

    def _peek(self) -> str:
        return self._tokens[0][0] if self._tokens else ""

    def _next(self) -> tuple[str, int]:
        return self._tokens.pop(0) if self._tokens else ("", 0)
