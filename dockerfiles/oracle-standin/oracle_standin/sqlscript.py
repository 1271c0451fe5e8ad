"""Reads a SQL*Plus script: splits it into statements and the SQL*Plus commands between them.

The rules are those of the SQL*Plus User's Guide, "Running Scripts": a SQL statement ends with `;` or with `/` alone
on a line; a PL/SQL block only with `/` alone on a line; quotes, q-quotes and comments hide both. Two of its traps are
left out on purpose: a `;` followed by a comment or another statement ends the statement too, and an empty line does
not throw a statement away. What is never ended is an error here, where SQL*Plus says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


class ScriptSyntaxError(Exception):
    """The script cannot be split; `line` is where the trouble begins, counted from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Statement:
    """One statement for the database, without its terminator."""

    line: int
    text: str

    @property
    def summary(self) -> str:
        """Its first words, for a log. Never more: what follows may hold a password."""
        return " ".join(_without_comments(self.text).split()[:3]).rstrip("(;")


@dataclass(frozen=True)
class Command:
    """A SQL*Plus command: its canonical word in upper case and the rest of the line."""

    line: int
    word: str
    rest: str


# Canonical word -> the abbreviations SQL*Plus takes, as a pattern. SQL that begins with the same word is excluded.
_COMMANDS = {
    "@@": r"@@",
    "@": r"@",
    "START": r"STA(?:RT?)?(?=\s)",
    "PROMPT": r"PRO(?:MPT?)?\b",
    "REMARK": r"REM(?:A(?:RK?)?)?\b",
    "WHENEVER": r"WHENEVER\b",
    "CONNECT": r"CONN(?:E(?:CT?)?)?\b",
    "DISCONNECT": r"DISC(?:ONNECT)?\b",
    "EXIT": r"(?:EXIT|QUIT)\b",
    "EXECUTE": r"EXEC(?:U(?:TE?)?)?\b",
    "SET": r"SET\b(?!\s+(?:TRANSACTION|ROLE|CONSTRAINTS?)\b)",
    "SHOW": r"SHO(?:W)?\b",
    "SPOOL": r"SPO(?:OL?)?\b",
    "DEFINE": r"(?:DEF(?:INE?)?|UNDEF(?:INE?)?)\b",
    "VARIABLE": r"VAR(?:IABLE)?\b",
    "PRINT": r"PRI(?:NT)?\b",
    "COLUMN": r"COL(?:UMN)?\b",
    "TIMING": r"TIMI(?:NG)?\b",
    "CLEAR": r"CL(?:EAR)?\b",
    "BREAK": r"BRE(?:AK)?\b",
    "COMPUTE": r"COMP(?:UTE)?\b",
    "TITLE": r"(?:TTI(?:TLE)?|BTI(?:TLE)?)\b",
    "PAUSE": r"PAU(?:SE)?\b",
    "ACCEPT": r"ACC(?:EPT)?\b",
    "DESCRIBE": r"DESC(?:RIBE)?\b",
    "HOST": r"(?:HO(?:ST)?\b|!)",
}
_COMMAND = re.compile("|".join(rf"(?P<w{index}>{pattern})" for index, pattern in enumerate(_COMMANDS.values())), re.I)
_WORDS = tuple(_COMMANDS)

_PLSQL = re.compile(
    r"(?:BEGIN|DECLARE)\b|<<"
    r"|CREATE\s+(?:OR\s+REPLACE\s+)?(?:(?:NON)?EDITIONABLE\s+)?"
    r"(?:FUNCTION|PROCEDURE|PACKAGE|TRIGGER|TYPE|LIBRARY|JAVA)\b"
    r"|WITH\s+(?:FUNCTION|PROCEDURE)\b",
    re.IGNORECASE,
)
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_CLOSING = {"[": "]", "(": ")", "{": "}", "<": ">"}
_LONGEST_HEAD = 400
"""How much of a statement can matter to tell PL/SQL from SQL, in characters."""


def read_script(text: str) -> Iterator[Statement | Command]:
    """The script's statements and commands in order. A `/` with nothing before it repeats the last statement, as
    SQL*Plus does. Raises ScriptSyntaxError for a quote, a comment or a statement that is never ended."""
    lines = text.removeprefix("\ufeff").splitlines()
    last: Statement | None = None
    index, rest = 0, None
    while index < len(lines):
        line = lines[index] if rest is None else rest
        stripped = line.strip()
        if not stripped or stripped.startswith("--"):
            index, rest = index + 1, None
        elif stripped.startswith("/*"):
            index, rest = _skip_comment(lines, index, line)
        elif stripped == "/":
            if last is None:
                raise ScriptSyntaxError(index + 1, "there is no statement before this '/'")
            yield last
            index, rest = index + 1, None
        elif rest is None and (match := _COMMAND.match(stripped)):
            command, index = _read_command(lines, index, stripped, match)
            yield command
        else:
            last, index, rest = _read_statement(lines, index, line)
            yield last


def _read_command(lines: list[str], index: int, stripped: str, match: re.Match[str]) -> tuple[Command, int]:
    first = index + 1
    while stripped.endswith("-") and index + 1 < len(lines):
        index += 1
        stripped = f"{stripped[:-1]} {lines[index].strip()}"
    assert match.lastgroup is not None
    word = _WORDS[int(match.lastgroup[1:])]
    rest = stripped[match.end() :].strip()
    # A trailing semicolon is optional in every command but belongs to a prompt's text.
    return Command(first, word, rest if word in ("PROMPT", "REMARK") else rest.rstrip(";").rstrip()), index + 1


def _skip_comment(lines: list[str], index: int, line: str) -> tuple[int, str | None]:
    first, start = index, line.index("/*") + 2
    while (end := line.find("*/", start)) < 0:
        index, start = index + 1, 0
        if index == len(lines):
            raise ScriptSyntaxError(first + 1, "this comment is never closed")
        line = lines[index]
    rest = line[end + 2 :]
    return (index, rest) if rest.strip() else (index + 1, None)


def _read_statement(lines: list[str], index: int, line: str) -> tuple[Statement, int, str | None]:
    """The statement that begins at `line`, the index of the line after it, and what is left of its last line."""
    first = index + 1
    taken: list[str] = []
    scanner = _Scanner(first)
    while True:
        if taken and scanner.outside and line.strip() == "/":
            return Statement(first, "\n".join(taken).strip()), index + 1, None
        is_plsql = _PLSQL.match(_without_comments("\n".join([*taken[:20], line])[:_LONGEST_HEAD]).lstrip()) is not None
        end = scanner.feed(line, index + 1, stop_at_semicolon=not is_plsql)
        if end is not None:
            taken.append(line[:end])
            rest = line[end + 1 :]
            following = (index, rest) if rest.strip() else (index + 1, None)
            return Statement(first, "\n".join(taken).strip()), *following
        taken.append(line)
        index += 1
        if index == len(lines):
            break
        line = lines[index]
    if not scanner.outside:
        raise ScriptSyntaxError(scanner.opened_at, f"this {scanner.inside} is never closed")
    ending = "'/' alone on a line" if is_plsql else "';' or '/'"
    raise ScriptSyntaxError(first, f"this statement is never ended: {ending} is missing")


class _Scanner:
    """Follows quotes and comments through the lines of one statement."""

    def __init__(self, line: int) -> None:
        self._until = ""
        self.inside = ""
        self.opened_at = line

    @property
    def outside(self) -> bool:
        return not self._until

    def feed(self, line: str, number: int, *, stop_at_semicolon: bool) -> int | None:
        """Take one line; the place of the semicolon that ends the statement, if it has one."""
        place = 0
        while place < len(line):
            if self._until:
                end = line.find(self._until, place)
                if end < 0:
                    return None
                place = end + len(self._until)
                self._until = ""
                continue
            two = line[place : place + 2]
            if two == "--":
                return None
            if line[place] == ";" and stop_at_semicolon:
                return place
            place += self._open(line, place, two, number)
        return None

    def _open(self, line: str, place: int, two: str, number: int) -> int:
        """Enter the quote or comment that begins here, if one does; how many characters that takes."""
        character = line[place]
        if two == "/*":
            self._enter("*/", "comment", number)
            return 2
        if two.lower() == "q'" and place + 2 < len(line) and not _continues_a_word(line, place):
            opening = line[place + 2]
            self._enter(_CLOSING.get(opening, opening) + "'", "q-quoted string", number)
            return 3
        if character in "'\"":
            # A doubled quote closes and opens again: no case of its own.
            self._enter(character, "string" if character == "'" else "quoted name", number)
        return 1

    def _enter(self, until: str, inside: str, number: int) -> None:
        self._until, self.inside, self.opened_at = until, inside, number


def _continues_a_word(line: str, place: int) -> bool:
    """Whether a q belongs to a longer word; `nq'` is a q-quote of its own kind."""
    before = line[:place]
    if before[-1:].lower() == "n":
        before = before[:-1]
    return bool(before) and (before[-1].isalnum() or before[-1] in "_$#")


def _without_comments(text: str) -> str:
    return _COMMENT.sub(" ", text)
