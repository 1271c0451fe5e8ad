"""Splitting SQL scripts the SQL*Plus way.

Rules (SQL*Plus User's Guide, "Running SQL Commands" and "Running PL/SQL Blocks"): a semicolon ends a SQL statement; a line
that holds only `/` ends whatever is in the buffer, and repeats the last statement when the buffer is empty; a PL/SQL block
or stored program ends at `/` only; SQL*Plus commands end with their line. Unlike SQL*Plus, a last statement without an end
is run, not silently left out, and `&` is an ordinary character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pipeline.databases.engine import ScriptError, Statement

_PLSQL = re.compile(
    r"<<|(?:DECLARE|BEGIN|WITH\s+(?:FUNCTION|PROCEDURE)"
    r"|CREATE(?:\s+OR\s+REPLACE)?(?:\s+AND\s+(?:RESOLVE|COMPILE))?(?:\s+(?:NON)?EDITIONABLE)?"
    r"\s+(?:FUNCTION|PROCEDURE|PACKAGE|TRIGGER|TYPE|LIBRARY|JAVA))(?![A-Z0-9_$#])",
    re.IGNORECASE,
)
# SQL*Plus commands, each in capitals as far as it must be written (User's Guide, "SQL*Plus Command Summary").
_IGNORED = (  # they change no data
    *("PROmpt", "REMark", "WHENEVER", "SPOol", "SHOw", "COLumn", "TTItle", "BTItle", "BREak", "CLear", "PAUse", "TIMIng"),
    *("DESCribe", "SET"),
)
_REFUSED = (
    *("@", "@@", "!", "STArt", "CONNect", "DISConnect", "DEFine", "UNDEFine", "ACCept", "VARiable", "PRInt", "HOst", "COPY", "PASSWord"),
    *("SAVE", "GET", "EDit", "RUN", "List", "STARTUP", "SHUTDOWN"),
)
_EXIT = ("EXIT", "QUIT")
_WORD = re.compile(r"@@?|!|[A-Za-z]+(?![\w$#])")
_SQL_SET = re.compile(r"SET\s+(?:ROLE|TRANSACTION|CONSTRAINTS?)\b", re.IGNORECASE)
_EXECUTE = re.compile(r"EXEC(?:U|UT|UTE)?\s+", re.IGNORECASE)
# What can hide a semicolon. Each alternative also matches up to the end of the script where its end is missing.
_SPAN = re.compile(
    r"--[^\n]*"
    r"|/\*.*?(?:\*/|\Z)"
    r"|(?<![A-Za-z0-9_$#])[nN]?[qQ]'(?:\[.*?\]'|\{.*?\}'|\(.*?\)'|<.*?>'|(?P<quote>[^\s\[{(<]).*?(?P=quote)'|\Z)"
    r"|'(?:[^']|'')*(?:'|\Z)"
    r'|"[^"]*(?:"|\Z)',
    re.DOTALL,
)
_STOP = re.compile(rf";|\n|{_SPAN.pattern}", re.DOTALL)
_LONE_SLASH = re.compile(r"[ \t]*/[ \t]*(?:\n|\Z)")


def split_script(script: str) -> Sequence[Statement]:
    """The statements of `script` in order. Raises ScriptError for commands that only SQL*Plus itself can carry out."""
    return [Statement(text, line, number) for number, (text, line) in enumerate(_pieces(_plain(script)), start=1)]


def _plain(script: str) -> str:
    return script.removeprefix("\ufeff").replace("\r\n", "\n")


def _pieces(script: str) -> Iterator[tuple[str, int]]:
    position = 0
    last: tuple[str, int] | None = None
    while True:
        position = _skip_blank(script, position)
        if position >= len(script):
            return
        line = script.count("\n", 0, position) + 1
        slash = _LONE_SLASH.match(script, script.rfind("\n", 0, position) + 1)
        if slash and slash.end() > position:
            position = slash.end()
            if last is not None:
                yield last[0], line
            continue
        end_of_line = _end_of_line(script, position)
        command = script[position:end_of_line]
        match = _WORD.match(command)
        word = match[0] if match else ""
        if _is_one_of(_EXIT, word):
            return
        if _is_one_of(_IGNORED, word) and not _SQL_SET.match(command):
            position = end_of_line
            continue
        if _is_one_of(_REFUSED, word):
            raise ScriptError(line, f"'{word}' is a command of SQL*Plus itself")
        if _EXECUTE.match(command):
            body = _EXECUTE.sub("", command, count=1).rstrip().rstrip(";")
            last = (f"BEGIN {body}; END;", line)
            position = end_of_line
        else:
            stored = _PLSQL.match(_without_comments(script[position : position + 2000]))
            text, position = _take_block(script, position) if stored else _take_statement(script, position)
            last = (text, line)
        if last[0]:
            yield last


def _skip_blank(script: str, position: int) -> int:
    """Past white space, comments and stray semicolons between statements."""
    while position < len(script):
        if script[position].isspace() or script[position] == ";":
            position += 1
        elif script.startswith(("--", "/*"), position) and (span := _SPAN.match(script, position)):
            position = span.end()
        else:
            break
    return position


def _end_of_line(script: str, position: int) -> int:
    """The end of a SQL*Plus command: a hyphen at the end of a line continues it."""
    while True:
        end = script.find("\n", position)
        if end < 0:
            return len(script)
        if not script[:end].rstrip(" \t").endswith("-"):
            return end
        position = end + 1


def _take_statement(script: str, start: int) -> tuple[str, int]:
    """A SQL statement, up to a semicolon or a lone slash."""
    for found in _STOP.finditer(script, start):
        if found[0] == ";":
            return script[start : found.start()].rstrip(), found.end()
        if found[0] == "\n":
            slash = _LONE_SLASH.match(script, found.end())
            if slash:
                return script[start : found.start()].rstrip(), slash.end()
    return script[start:].rstrip(), len(script)


def _take_block(script: str, start: int) -> tuple[str, int]:
    """A PL/SQL block or stored program, up to a lone slash; SQL*Plus looks for it even inside comments and strings."""
    position = start
    while True:
        end = script.find("\n", position)
        if end < 0:
            return script[start:].rstrip(), len(script)
        slash = _LONE_SLASH.match(script, end + 1)
        if slash:
            return script[start:end].rstrip(), slash.end()
        position = end + 1


def _is_one_of(commands: Sequence[str], word: str) -> bool:
    """Whether `word` is one of `commands`, perhaps abbreviated."""
    return any(
        command.upper().startswith(word.upper()) and len(word) >= len(command.rstrip("abcdefghijklmnopqrstuvwxyz")) for command in commands
    ) and bool(word)


def _without_comments(text: str) -> str:
    return re.sub(r"--[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)
