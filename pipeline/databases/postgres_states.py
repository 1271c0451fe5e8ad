"""PostgreSQL: a state is a database. The prepared one is kept as a template, and a copy of it is made by the server itself.

A state that comes back is thrown away and a copy takes its place: nothing has to be found out about what a test did. A copy has
all that is in the database: rows, sequences, code, triggers, grants, comments, extensions, large objects, default privileges.
What belongs to the database but is kept beside it is given to each copy by statements: its owner, its settings and those of
roles in it, grants on it, its comment, its limit of connections. Its encoding and locale are the template's.

An image may offer a folder for the copies, by the setting `pipeline.states`: a volume, since making a database means making and
looking for thousands of files, which over the layers of an image takes five times as long. They are a tablespace there then.

The application's role is one for all states: its password and settings, which it may change itself, are put back. What else
belongs to the whole server (other roles, memberships, tablespaces), and subscriptions, which no copy has, is no part of a state.
"""

# ruff: noqa: S608 - DDL takes no bind variables

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from pipeline.databases.engine import Address
from pipeline.databases.states import Server, Sql, State, StatementError
from pipeline.errors import PreparationError

STATES = "pipeline_states"  # the tablespace of originals and copies, where the image offers a folder for it
BUSY_PATIENCE = 10.0  # seconds for others to log out of the prepared database before it can be copied
RIVAL_PATIENCE = 2.0  # seconds for a worker that makes the tablespace at the same time to have made it
_BUSY = "is being accessed by other users"

# The settings whose value is a list of quoted words (pg_dump treats the same ones so: dumputils.c, variable_is_guc_list_quote).
LISTS = (
    *("search_path", "temp_tablespaces", "unix_socket_directories"),
    *("local_preload_libraries", "session_preload_libraries", "shared_preload_libraries"),
)


@dataclass(frozen=True)
class Surroundings:
    """What belongs to a database but is not in it, so that a copy by template leaves it behind; and the settings of the application's role."""

    owner: str
    connection_limit: int  # -1: none
    comment: str | None
    grants: Sequence[Sequence[str]] | None  # (privilege, grantee, " WITH GRANT OPTION" or ""); None: what every new database grants
    settings: Sequence[Sequence[str]]  # by ALTER DATABASE … SET, ALTER ROLE … IN DATABASE … SET: (role or "", variable, value)
    own_settings: Sequence[Sequence[str]]  # by ALTER ROLE … SET: (variable, value)

    def statements(self, name: str) -> list[str]:
        """What gives the database `name` the same; its owner is given when it is made."""
        database = quoted(name)
        found = []
        if self.connection_limit != -1:
            found.append(f"ALTER DATABASE {database} CONNECTION LIMIT {self.connection_limit}")
        if self.comment is not None:
            found.append(f"COMMENT ON DATABASE {database} IS {literal(self.comment)}")
        if self.grants is not None:
            found.append(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC, {quoted(self.owner)}")
        found += [f"GRANT {privilege} ON DATABASE {database} TO {grantee}{option}" for privilege, grantee, option in self.grants or ()]
        for role, variable, value in self.settings:
            whose = f"ALTER ROLE {role} IN DATABASE" if role else "ALTER DATABASE"
            found.append(f"{whose} {database} SET {assignment(variable, value)}")
        return found


class PostgresStates:
    """Copies of the template `original`; `sql` is the administrator's connection, where each statement is its own transaction."""

    def __init__(self, sql: Sql, server: Server, original: str, prefix: str) -> None:
        self._sql = sql
        self._server = server
        self._original = original
        self._names = (f"{prefix}_{number}" for number in itertools.count(1))

    def create(self) -> State:
        name = next(self._names)
        if "_password" not in self.__dict__:
            self._put_role_right()  # as the prepared state left it, before the first test; afterwards it is done when a state comes back
        copy_database(self._sql, self._original, name, self._surroundings.owner, strategy=self._strategy)
        statements = self._surroundings.statements(name)
        try:
            self._sql.run(*(["; ".join(statements)] if statements else []))  # one round trip
        except StatementError as error:
            raise PreparationError(
                f"a setting, grant or comment of the prepared database cannot be copied: {error}", "Take it out of the preparation."
            ) from error
        return State(name, replace(self._server.address, service=name), self._server.user)

    def restore(self, _state: State) -> bool:
        """Never; but what a test did to its own role is undone."""
        self._put_role_right()
        return False

    def drop(self, state: State) -> None:
        drop_database(self._sql, state.name)

    def close(self) -> None:
        if "_surroundings" in self.__dict__:  # a test may have had a state
            with contextlib.suppress(PreparationError):
                self._put_role_right()
        self._sql.close()

    @cached_property
    def _surroundings(self) -> Surroundings:
        return kept_surroundings(self._sql, self._original)

    @cached_property
    def _strategy(self) -> str:
        return quickest_strategy(self._sql)

    @cached_property
    def _password(self) -> list[tuple[Any, ...]]:
        return read_password(self._sql, self._server.user.name)

    def _put_role_right(self) -> None:
        """The application's role is one for all states, and may change its own password and settings. Raises PreparationError."""
        role, settings = self._server.user.name, self._surroundings.own_settings
        statements = []
        try:
            before = self._password
            if read_role_settings(self._sql, role) != [tuple(pair) for pair in settings]:
                statements = [f"ALTER ROLE {quoted(role)} RESET ALL"]
                statements += [f"ALTER ROLE {quoted(role)} SET {assignment(variable, value)}" for variable, value in settings]
            if before and read_password(self._sql, role) != before:
                statements.append(f"ALTER ROLE {quoted(role)} PASSWORD {literal(str(before[0][0]))}")  # a hash, which is taken as it is
            self._sql.run(*statements)
        except StatementError as error:
            raise PreparationError(f"what a test did to the role {role} cannot be undone: {error}") from error


def make_template(sql: Sql, address: Address, name: str, user: str) -> None:
    """Keep the database at `address` as the template `name`, which is the administrator's, and which nobody can log in to.

    What a template copy leaves behind is kept as its comment, with the settings of the role `user`.
    """
    surroundings = read_surroundings(sql, address.service, user)
    copy_database(sql, address.service, name, tablespace=_make_tablespace(sql), strategy=quickest_strategy(sql))
    try:
        sql.run(
            f"ALTER DATABASE {quoted(name)} ALLOW_CONNECTIONS false; "
            f"COMMENT ON DATABASE {quoted(name)} IS {literal(json.dumps(asdict(surroundings)))}"
        )
    except StatementError as error:
        with contextlib.suppress(PreparationError):
            drop_database(sql, name)
        raise PreparationError(f"the prepared database {address.service} cannot be kept: {error}") from error


def _make_tablespace(sql: Sql) -> str:
    """Where originals and copies of them are kept; empty where the image offers no place of its own. Raises PreparationError.

    It stays until the container goes: another run of tests may be about to use it.
    """
    folder = str(sql.rows("SELECT coalesce(current_setting('pipeline.states', true), '')")[0][0])
    if folder and not _has_tablespace(sql):
        try:
            sql.run(f"CREATE TABLESPACE {STATES} LOCATION {literal(folder)}")
        except StatementError as error:
            ends = time.monotonic() + RIVAL_PATIENCE
            while time.monotonic() < ends:
                if _has_tablespace(sql):
                    return STATES  # another worker was quicker
                time.sleep(0.05)
            what = f"the folder for copies of databases, {folder}, cannot be used: {error}"
            hint = "It is the image's setting `pipeline.states`: an empty folder that belongs to the server's user."
            raise PreparationError(what, hint) from error
    return STATES if folder else ""


def _has_tablespace(sql: Sql) -> bool:
    return bool(sql.rows(f"SELECT 1 FROM pg_tablespace WHERE spcname = '{STATES}'"))


def kept_surroundings(sql: Sql, original: str) -> Surroundings:
    """As `make_template` kept them. Raises PreparationError."""
    try:
        rows = sql.rows(f"SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = {literal(original)}")
        return Surroundings(**json.loads(rows[0][0]))
    except (StatementError, IndexError, TypeError, ValueError) as error:
        raise PreparationError(f"the prepared state {original} is not there, or is no prepared state", "Was it dropped?") from error


def read_surroundings(sql: Sql, database: str, user: str) -> Surroundings:
    """Raises PreparationError."""
    this = f"datname = {literal(database)}"
    try:
        owner, limit, comment, default = sql.rows(
            "SELECT pg_get_userbyid(datdba), datconnlimit, shobj_description(oid, 'pg_database'), datacl IS NULL"
            f" FROM pg_database WHERE {this}"
        )[0]
        grants = sql.rows(
            "SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,"
            f" CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END FROM pg_database, aclexplode(datacl) WHERE {this}"
        )
        settings = sql.rows(
            "SELECT CASE setrole WHEN 0 THEN '' ELSE quote_ident(pg_get_userbyid(setrole)) END, unnest(setconfig)"
            f" FROM pg_db_role_setting WHERE setdatabase = (SELECT oid FROM pg_database WHERE {this})"
        )
        own_settings = read_role_settings(sql, user)
    except (StatementError, IndexError) as error:
        raise PreparationError(f"the prepared database {database} cannot be looked at: {error}") from error
    split = [(str(role), *_split(str(setting))) for role, setting in settings]
    return Surroundings(str(owner), int(limit), comment, None if default else grants, split, own_settings)


def read_role_settings(sql: Sql, role: str) -> list[tuple[str, str]]:
    rows = sql.rows(
        "SELECT unnest(setconfig) FROM pg_db_role_setting WHERE setdatabase = 0"
        f" AND setrole = (SELECT oid FROM pg_roles WHERE rolname = {literal(role)})"
    )
    return sorted(_split(str(setting)) for (setting,) in rows)


def read_password(sql: Sql, role: str) -> list[tuple[Any, ...]]:
    """Its hash; nothing where it has none, or where this administrator is not to see it."""
    try:
        return sql.rows(f"SELECT rolpassword FROM pg_authid WHERE rolname = {literal(role)} AND rolpassword IS NOT NULL")
    except StatementError:
        return []


def assignment(variable: str, value: str) -> str:
    """For SET. A list is kept as it was written, and must not become one quoted word."""
    return f"{variable} TO {value if variable.lower() in LISTS and value else literal(value)}"


def _split(setting: str) -> tuple[str, str]:
    variable, _, value = setting.partition("=")
    return variable, value


def drop_database(sql: Sql, name: str) -> None:
    """Take a state or an original away, with whoever is logged in to it. Raises PreparationError."""
    try:
        sql.run(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")
    except StatementError as error:
        raise PreparationError(f"the database {name} could not be dropped: {error}", "It ends with the container.") from error


def quickest_strategy(sql: Sql) -> str:
    """For CREATE DATABASE. File by file wants two checkpoints, which cost nothing where nobody waits for the disk; else page by page is quicker."""
    by_file = sql.rows("SELECT current_setting('fsync') = 'off' AND current_setting('server_version_num')::int >= 150000")
    return " STRATEGY FILE_COPY" if by_file == [(True,)] else ""


def copy_database(sql: Sql, original: str, name: str, owner: str = "", tablespace: str = "", strategy: str = "") -> None:
    """`owner`: else whoever makes it. `tablespace`: else the original's. `strategy`: what `quickest_strategy` found.

    Raises PreparationError, for example where someone stays logged in to `original`.
    """
    ends = time.monotonic() + BUSY_PATIENCE
    options = (f" OWNER {quoted(owner)}" if owner else "") + (f" TABLESPACE {quoted(tablespace)}" if tablespace else "")
    options += strategy
    while True:
        try:
            return sql.run(f"CREATE DATABASE {quoted(name)} TEMPLATE {quoted(original)}{options}")
        except StatementError as error:
            if _BUSY not in str(error) or time.monotonic() > ends:
                raise PreparationError(
                    f"the prepared database {original} cannot be copied: {error}",
                    "Nobody may be logged in to it at that moment: close connections before the first test asks for a state.",
                ) from error
        time.sleep(0.05)


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


def literal(text: str) -> str:
    escaped = text.replace("'", "''")
    return f"E'{escaped.replace(chr(92), chr(92) * 2)}'" if chr(92) in text else f"'{escaped}'"
