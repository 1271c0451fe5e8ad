"""A prompt for SQL against a database that runs: through the driver, so that no client need be installed and no password is typed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pipeline.databases.engine import ScriptError, Statement

LEAVING = ("exit", "quit", "\\q")
MOST_ROWS = 500  # shown of one statement
WIDEST = 60  # characters of one value
_NEXT = "following_statement"

Split = Callable[[str], Sequence[Statement]]


def run_shell(lines: Iterable[str], split: Split, connection: Any, write: Callable[[str], None], going_on: Callable[[bool], None]) -> bool:
    """Run statements as they are completed, each committed at once; whether all went well.

    `connection` is one of a PEP 249 driver. `going_on` is told before each line whether it continues a statement.
    """
    buffer, good = "", True
    going_on(False)
    for line in lines:
        if not buffer.strip() and line.strip().rstrip(";").lower() in LEAVING:
            return good
        buffer += line if line.endswith("\n") else f"{line}\n"
        if not buffer.strip() or is_complete(split, buffer):
            good = _run(split, buffer, connection, write) and good
            buffer = ""
        going_on(bool(buffer))
    return _run(split, buffer, connection, write) and good


def is_complete(split: Split, text: str) -> bool:
    """Whether what follows `text` would be a statement of its own. What cannot be split is complete: waiting does not mend it."""
    try:
        return split(f"{text}\n{_NEXT}")[-1].text == _NEXT
    except (ScriptError, IndexError):
        return True


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows under their columns' names."""
    cells = [[_shown(value) for value in row] for row in rows]
    widths = [max([len(name), *(len(row[number]) for row in cells)]) for number, name in enumerate(columns)]
    lines = [list(columns), ["-" * width for width in widths], *cells]
    return "\n".join("  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def _run(split: Split, text: str, connection: Any, write: Callable[[str], None]) -> bool:
    try:
        statements = split(text)
    except ScriptError as error:
        write(f"error: {error}")
        return False
    for statement in statements:
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement.text)
                write(_outcome(cursor))
            connection.commit()
        except Exception as error:  # noqa: BLE001 - each driver has its own, and the next statement may be right
            write("error: " + str(error).splitlines()[0])
            connection.rollback()
            return False
    return True


def _outcome(cursor: Any) -> str:
    if not cursor.description:
        return "done" if cursor.rowcount < 0 else f"done, {cursor.rowcount} rows"
    columns = [str(column[0]) for column in cursor.description]
    rows = cursor.fetchmany(MOST_ROWS + 1)
    more = f"the first {MOST_ROWS} rows" if len(rows) > MOST_ROWS else f"{len(rows)} rows"
    return f"{table(columns, rows[:MOST_ROWS])}\n({more})"


def _shown(value: Any) -> str:
    text = "" if value is None else str(value.read()) if hasattr(value, "read") else str(value)
    text = text.replace("\n", "\\n")
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"
