"""PostgreSQL: a state is a database. The prepared one is kept as a template, and a copy of it is made by the server itself.

A state that comes back is thrown away and a copy takes its place: nothing has to be found out about what a test did. What
belongs to the whole server (roles, tablespaces) is not part of a state.
"""

# ruff: noqa: S608 - DDL takes no bind variables

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline.databases.engine import Address
from pipeline.databases.states import Server, Sql, State, StatementError
from pipeline.errors import PreparationError

BUSY_PATIENCE = 10.0  # seconds for others to log out of the prepared database before it can be copied
_BUSY = "is being accessed by other users"

# The settings whose value is a list of quoted words (pg_dump treats the same ones so: dumputils.c, variable_is_guc_list_quote).
LISTS = (
    *("search_path", "temp_tablespaces", "unix_socket_directories"),
    *("local_preload_libraries", "session_preload_libraries", "shared_preload_libraries"),
)


class PostgresStates:
    """Copies of the template `original`; `sql` is the administrator's connection, where each statement is its own transaction."""

    def __init__(self, sql: Sql, server: Server, original: str, prefix: str) -> None:
        self._sql = sql
        self._server = server
        self._original = original
        self._names = (f"{prefix}_{number}" for number in itertools.count(1))

    def create(self) -> State:
        name = next(self._names)
        copy_database(self._sql, self._original, name, self._server.user.name)
        copy_settings(self._sql, self._server.address.service, name)
        return State(name, replace(self._server.address, service=name), self._server.user)

    def restore(self, _state: State) -> bool:
        return False

    def drop(self, state: State) -> None:
        try:
            self._sql.run(f"DROP DATABASE IF EXISTS {quoted(state.name)} WITH (FORCE)")
        except StatementError as error:
            raise PreparationError(f"the database {state.name} could not be dropped: {error}", "It ends with the container.") from error

    def close(self) -> None:
        self._sql.close()


def make_template(sql: Sql, address: Address, name: str, owner: str) -> None:
    """Keep the database at `address` as the template `name`, which nobody can log in to."""
    copy_database(sql, address.service, name, owner)
    sql.run(f"ALTER DATABASE {quoted(name)} ALLOW_CONNECTIONS false")


def copy_database(sql: Sql, original: str, name: str, owner: str) -> None:
    """Raises PreparationError, for example where someone stays logged in to `original`."""
    ends = time.monotonic() + BUSY_PATIENCE
    while True:
        try:
            return sql.run(f"CREATE DATABASE {quoted(name)} TEMPLATE {quoted(original)} OWNER {quoted(owner)}")
        except StatementError as error:
            if _BUSY not in str(error) or time.monotonic() > ends:
                raise PreparationError(
                    f"the prepared database {original} cannot be copied: {error}",
                    "Nobody may be logged in to it at that moment: close connections before the first test asks for a state.",
                ) from error
        time.sleep(0.05)


def copy_settings(sql: Sql, original: str, name: str) -> None:
    """What ALTER DATABASE … SET has set on `original`: CREATE DATABASE … TEMPLATE leaves it behind."""
    literal = original.replace("'", "''")
    rows = sql.rows(
        "SELECT CASE setrole WHEN 0 THEN '' ELSE quote_ident(pg_get_userbyid(setrole)) END, unnest(setconfig) FROM pg_db_role_setting"
        f" WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = '{literal}')"
    )
    for role, setting in rows:
        variable, _, value = setting.partition("=")
        whose = f"ALTER ROLE {role} IN DATABASE" if role else "ALTER DATABASE"
        escaped = value.replace("'", "''")
        # A list is kept as it was written and must not become one quoted word.
        listed = value if variable.lower() in LISTS and value else f"'{escaped}'"
        try:
            sql.run(f"{whose} {quoted(name)} SET {variable} TO {listed}")
        except StatementError as error:
            raise PreparationError(f"the setting {variable} of the prepared database cannot be copied: {error}", "Take it out.") from error


def watch(connection: Any, error: type[Exception]) -> Callable[[], bool]:
    """By the number of the transaction that begins now, and that must be the same at the end."""

    def transaction() -> object:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()::text")
            return cursor.fetchone()[0]

    begun = transaction()

    def nothing_left() -> bool:
        try:
            if connection.info.transaction_status.name == "INERROR":  # it can only be rolled back; but may not be the first one
                connection.rollback()
                return False
            kept = transaction() == begun
            connection.rollback()
        except error:
            return False
        return kept

    return nothing_left


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
