"""PostgreSQL: what its server says at a login, and how its scripts are split."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol
from urllib.parse import quote

from pipeline.databases.bake import Rows
from pipeline.databases.contract import CONTRACTS
from pipeline.databases.engine import Account, Address, Answer, Connection, Password, Phase, Probe, Problem, ScriptError, Statement
from pipeline.databases.postgres_states import PostgresStates, drop_database, make_template, quoted, watch
from pipeline.databases.states import Originals, Prepare, Server, Source, Sql

# SQLSTATE codes (PostgreSQL's documentation, appendix A).
_REFUSED = ("28P01", "28000")  # password, or role and pg_hba.conf; PostgreSQL locks nobody out for it
_NOT_SERVED = (
    *("57P01", "57P02", "57P03"),  # stopping, crashed, starting or recovering
    "3D000",  # there is no such database; a script may be about to create it
    "55000",  # it does not accept connections now
    "53300",  # too many connections
)
_MAINTENANCE = "postgres"  # the database that every server has
_SSL_REQUEST = struct.pack(">II", 8, 80877103)  # answered with one letter by any server, also by one that is starting


class Failure(Protocol):
    """How a driver says why a login failed, and how far it had got."""

    @property
    def code(self) -> str: ...

    @property
    def message(self) -> str: ...

    @property
    def connected(self) -> bool: ...

    @property
    def answered(self) -> bool: ...

    @property
    def logged_in(self) -> bool: ...


class Driver(Protocol):
    """What is needed of a program library that speaks PostgreSQL's protocol."""

    async def try_login(self, host: str, port: int, user: str, password: str, database: str, query: str, patience: float) -> Failure | None:
        """Log in, run `query`, log out, within `patience` seconds; why it failed, or None."""

    def connect(self, dsn: str, user: str, password: str) -> PostgresConnection:
        """Log in. Raises PreparationError."""

    def open(self, dsn: str, user: str, password: str) -> Any:
        """The library's own connection. Raises PreparationError."""

    @property
    def error(self) -> type[Exception]:
        """What the library raises."""


class PostgresConnection(Protocol):
    """A logged-in user, as the driver has it; a failure is (message, offset in the statement)."""

    def execute(self, statement: str) -> tuple[str, int] | None: ...

    def commit(self) -> tuple[str, int] | None: ...

    def close(self) -> None: ...


class Postgres:
    """The engine `postgres`."""

    default_contract = "postgres-official"
    contracts = CONTRACTS
    administrator = "postgres"
    own_users = ("postgres", "public", "none")  # and all that begin with pg_, which the server refuses itself
    knock = _SSL_REQUEST
    testcontainer = "testcontainers.community.postgres:PostgresContainer"  # what starts it for tests that run alone

    probes = (
        Probe(
            "tables and rows",
            (
                "CREATE TABLE verify_row (id integer PRIMARY KEY, name varchar(20) NOT NULL)",
                "INSERT INTO verify_row VALUES (1, 'a'), (2, 'b')",
                "UPDATE verify_row SET name = 'c' WHERE id = 2",
                "DELETE FROM verify_row WHERE id = 1",
            ),
            "SELECT name FROM verify_row",
            "c",
        ),
        Probe("sequence", ("CREATE SEQUENCE verify_number START 41",), "SELECT nextval('verify_number')", "41"),
        Probe(
            "large text",
            ("CREATE TABLE verify_text (content text)", "INSERT INTO verify_text VALUES (repeat('x', 80000))"),
            "SELECT length(content) FROM verify_text",
            "80000",
        ),
        Probe(
            "procedure",
            (
                "CREATE TABLE verify_call (n integer)",
                "CREATE PROCEDURE verify_add (n integer) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO verify_call VALUES (n + 1); END; $$",
                "CALL verify_add(41)",
            ),
            "SELECT n FROM verify_call",
            "42",
        ),
        Probe(
            "foreign key", ("CREATE TABLE verify_child (id integer REFERENCES verify_row (id))",), "SELECT count(*) FROM verify_child", "0"
        ),
        Probe(
            "rolled back",
            ("CREATE TABLE verify_undo (n integer)", "BEGIN", "INSERT INTO verify_undo VALUES (1)", "ROLLBACK"),
            "SELECT count(*) FROM verify_undo",
            "0",
        ),
    )

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._originals = Originals()

    def dsn(self, address: Address) -> str:
        return f"postgresql://{address.host_and_port}/{quote(address.service, safe='')}"

    def jdbc_url(self, address: Address) -> str:
        return f"jdbc:{self.dsn(address)}"

    def split(self, script: str) -> Sequence[Statement]:
        return split_psql(script)

    async def log_in(self, address: Address, account: Account, patience: float) -> Answer:
        failure = await self._driver.try_login(
            address.host, address.port, account.name, account.password.value, address.service, "SELECT 1", patience
        )
        if failure is None:
            return Answer(ready=True)
        return Answer(False, failure.message, refused=failure.code in _REFUSED and not failure.logged_in, phase=_phase(failure))

    def open(self, address: Address, account: Account) -> Any:
        return self._driver.open(self.dsn(address), account.name, account.password.value)

    def other_accounts(self, rows: Rows, user: str) -> set[str]:
        found = rows("SELECT rolname FROM pg_roles WHERE rolcanlogin")
        return {str(name) for (name,) in found} - {self.administrator, user}

    activity: ClassVar[Mapping[str, str]] = {
        "Sessions": "SELECT pid, datname, usename, state, wait_event_type, wait_event, now() - state_change AS since,"
        " pg_blocking_pids(pid) AS blocked_by, query FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY pid",
        "Locks": "SELECT l.pid, l.locktype, l.mode, l.granted, l.relation::regclass AS relation, l.transactionid"
        " FROM pg_locks l WHERE l.pid <> pg_backend_pid() ORDER BY l.pid, l.granted",
    }

    def password_script(self, _service: str, user: str, passwords: Mapping[str, Password]) -> str:
        """For psql. A statement that fails is not logged: it holds a password."""
        head = ["\\set ON_ERROR_STOP on", "SET log_min_error_statement = panic;"]
        in_order = sorted(passwords.items(), key=lambda item: item[0] == user)
        return "\n".join([*head, *(f"ALTER ROLE {quoted(name)} PASSWORD '{password.value}';" for name, password in in_order), ""])

    @property
    def error(self) -> type[Exception]:
        return self._driver.error

    def watch(self, connection: Any, _original: str) -> Callable[[], bool]:
        return watch(connection, self.error)

    def make_original(self, server: Server, name: str, _prepare: Prepare) -> str:
        def make() -> str:
            with contextlib.closing(self._sql(server)) as sql:
                make_template(sql, server.address, name, server.user.name)
            return name

        return self._originals.make(server, make)

    def drop_original(self, server: Server, original: str) -> None:
        with contextlib.closing(self._sql(server)) as sql:
            drop_database(sql, original)

    def states(self, server: Server, original: str, prefix: str, _prepare: Prepare) -> Source:
        return PostgresStates(self._sql(server), server, original, prefix)

    def _sql(self, server: Server) -> Sql:
        """The administrator, in a database that is no copy of another one; each statement is its own transaction."""
        connection = self.open(replace(server.address, service=_MAINTENANCE), server.administrator)
        connection.autocommit = True
        return Sql(connection, self.error)

    def connect(self, address: Address, account: Account) -> Connection:
        return _Connection(self._driver.connect(self.dsn(address), account.name, account.password.value))


def _phase(failure: Failure) -> Phase:
    """What the attempt did not get through."""
    if failure.logged_in:
        return Phase.QUERY
    if failure.code in _NOT_SERVED:
        return Phase.SERVICE
    if failure.answered:
        return Phase.LOGIN
    return Phase.LISTENER if failure.connected else Phase.PORT


class _Connection:
    """The driver's connection with failures as Problems."""

    def __init__(self, connection: PostgresConnection) -> None:
        self._connection = connection

    def execute(self, statement: str) -> Problem | None:
        failure = self._connection.execute(statement)
        return Problem(*failure) if failure else None

    def commit(self) -> Problem | None:
        failure = self._connection.commit()
        return Problem(*failure) if failure else None

    def close(self) -> None:
        self._connection.close()


# What matters to where a statement ends, as in psql's own scanner. What has no end goes up to the end of the script.
_TOKEN = re.compile(
    r"(?P<blank>\s+|--[^\n]*)"
    r"|(?P<comment>/\*)"
    r"|(?P<quoted>[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)|'(?:[^']|'')*(?:'|\Z)|\"[^\"]*(?:\"|\Z))"
    r"|(?P<dollar>\$(?P<tag>(?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?)\$.*?(?:\$(?P=tag)\$|\Z))"
    r"|(?P<word>[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*)"
    r"|(?P<other>\d[\w.]*|.)",
    re.DOTALL,
)
_ROUTINE = re.compile(r"create (?:or replace )?(?:function|procedure)\b")
_COPY = re.compile(r"copy .*\bfrom stdin\b", re.DOTALL)


def split_psql(script: str) -> Sequence[Statement]:
    """The statements of `script` as psql finds them. Raises ScriptError for what only psql itself can carry out."""
    return [Statement(text, line, number) for number, (text, line) in enumerate(_pieces(script.removeprefix("\ufeff")), start=1)]


def _pieces(script: str) -> Iterator[tuple[str, int]]:
    position, start, words, depth, blocks = 0, -1, "", 0, 0
    while position < len(script):
        found, end = _next_token(script, position)
        kind, text = found
        if kind not in ("blank", "comment", "other") or (kind == "other" and text != ";"):
            start = position if start < 0 else start
        if text == "\\" and kind == "other":
            command = script[position:].split(maxsplit=1)[0]
            raise ScriptError(_line(script, position), f"'{command}' is a command of psql itself")
        if kind == "word":
            words = f"{words} {text.lower()}".lstrip()
            blocks = _open_blocks(words, blocks)
        elif kind == "other":
            depth = max(depth + (text == "(") - (text == ")"), 0)
            if text == ";" and not depth and not blocks:
                if start >= 0:
                    yield _piece(script, start, position, words)
                start, words = -1, ""
            elif text not in ".;":
                words += f" {text}" if words else ""
        position = end
    if start >= 0:
        yield _piece(script, start, len(script), words)


def _next_token(script: str, position: int) -> tuple[tuple[str, str], int]:
    found = _TOKEN.match(script, position)
    if found is None:  # `.` matches anything
        raise AssertionError(position)
    if found["comment"]:
        return ("comment", ""), _end_of_comment(script, position)
    kind = str(found.lastgroup) if found.lastgroup != "tag" else "dollar"
    return (kind, found[0]), found.end()


def _end_of_comment(script: str, position: int) -> int:
    """Comments nest in PostgreSQL."""
    depth = 0
    for found in re.compile(r"/\*|\*/").finditer(script, position):
        depth += 1 if found[0] == "/*" else -1
        if not depth:
            return found.end()
    return len(script)


def _open_blocks(words: str, blocks: int) -> int:
    """How many BEGIN and CASE are open in the body of a routine in SQL, where a semicolon does not end the statement."""
    if not _ROUTINE.match(words):
        return 0
    word = words.rpartition(" ")[2]
    if word == "begin" or (word == "case" and blocks):
        return blocks + 1
    return max(blocks - (word == "end"), 0)


def _piece(script: str, start: int, end: int, words: str) -> tuple[str, int]:
    line = _line(script, start)
    if _COPY.match(words):
        raise ScriptError(line, "COPY … FROM stdin gets its rows from psql; INSERT statements can be run here (pg_dump --inserts)")
    return script[start:end].rstrip(), line


def _line(script: str, position: int) -> int:
    return script.count("\n", 0, position) + 1
