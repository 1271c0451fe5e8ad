"""What is said of a run that failed: in which phase, what the container was allowed and how it ended, who waited for whom."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from pipeline.databases.engine import Account, Address
from pipeline.integration.database import Database

ACTIVITY = "activity.md"
PATIENCE = 5.0  # seconds for what is asked of a database that may hang


@runtime_checkable
class TellingEngine(Protocol):
    """A kind of database that can be asked who is logged in, and who waits for whom."""

    @property
    def activity(self) -> Mapping[str, str]:
        """A heading → the query that the administrator asks. One that this server does not understand is said, and left out."""

    @property
    def error(self) -> type[Exception]: ...

    def open(self, address: Address, account: Account) -> Any: ...


def ask_activity(kind: object, database: Database) -> str:
    """Sessions and locks at this moment, as Markdown; what could not be asked says why. Takes PATIENCE seconds at most."""
    if not isinstance(kind, TellingEngine):
        return f"The engine {database.engine} cannot say.\n"
    parts: list[str] = []

    def ask() -> None:
        try:
            connection = kind.open(database.address, database.administrator)
        except Exception as error:  # noqa: BLE001 - any: this is said beside the failure that matters
            parts.append(f"The administrator cannot log in: {error}\n")
            return
        for heading, query in kind.activity.items():
            parts.append(f"## {heading}\n\n{_table(connection, kind.error, query)}\n")
        connection.close()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    late = f"The database did not answer within {PATIENCE:.0f} s.\n" if thread.is_alive() else ""
    return "".join([*parts, late])


def _table(connection: Any, error: type[Exception], query: str) -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute(query)
            names = [str(column[0]).lower() for column in cursor.description]
            rows = cursor.fetchall()
    except error as failed:
        return f"cannot be asked here: {' '.join(str(failed).split())}\n"
    lines = [names, ["---"] * len(names), *rows]
    return "".join("| " + " | ".join(_cell(value) for value in line) + " |\n" for line in lines) if rows else "none\n"


def _cell(value: object) -> str:
    return "" if value is None else " ".join(str(value).split()).replace("|", "\\|")
