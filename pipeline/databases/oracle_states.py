"""Oracle: a state is a user. It is made by running the preparation again as that user, and restored in the cheapest way that is right.

What a test did is found out by comparing what the data dictionary says of the user with what it said before the first test.
Where that is the same, only rows and sequences can have changed: rows come back from the original, a user that is prepared
in the same way and that no test gets, and sequences are restarted. Where it is not, or where anything stands in the way,
the user is dropped and another one takes its place. So nothing has to be known about how a test did what it did.

What is compared, and what a user may not have to be restored in place (materialized views, nested and external tables, queues,
clusters …), stands in oracle_dictionary.py. Not compared, as no part of a state: what others have, public synonyms among it.
"""

# ruff: noqa: S608 - names of objects cannot be bind variables; they come from the data dictionary

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from pipeline.databases.engine import Account, Address, Connection
from pipeline.databases.oracle_dictionary import COLUMNS, Dictionary, Reader
from pipeline.databases.passwords import new_password
from pipeline.databases.states import Prepare, Server, Sql, State, StatementError, in_order, quote_plain
from pipeline.errors import PipelineError, PreparationError

Open = Callable[[Address, Account], Sql]
Connect = Callable[[Address, Account], Connection]

_PLAIN = re.compile(r"[A-Z][A-Z0-9_$#]*")


_WATCH = "pipeline_watch"  # a table of the original: who writes into it and rolls back leaves no row


_ATTEMPTS = 2  # at finding out how a user is restored: another one who is dropped at that moment may be in the way


@dataclass(frozen=True)
class Sequences:
    """How sequences are brought back."""

    restarts: Mapping[str, str]  # name → the statement that makes it go on where it was prepared to
    told: Mapping[str, Any] | None = None  # name → the last number that the dictionary names then, where it shows whether one was drawn

    def due(self, last_numbers: Mapping[str, Any]) -> list[str]:
        """The statements for those from which a number was drawn; for all where that is not to be seen. DDL is what costs most here."""
        told = self.told
        return [what for name, what in self.restarts.items() if told is None or last_numbers.get(name) != told.get(name)]


@dataclass(frozen=True)
class Restoration:
    """How the rows and sequences of one user are brought back, and what the dictionary says of the user when they have been."""

    triggers: Sequence[str]  # those that are enabled
    rows: str  # a PL/SQL block in the user's schema: all rows out, the original's in; empty where there are no tables
    sequences: Sequences
    dictionary: Dictionary = field(default_factory=dict)


@dataclass
class OracleStates:
    """Users of the database of `server`; `original` is the user whose rows are the prepared ones."""

    open: Open
    connect: Connect
    server: Server
    original: str
    prefix: str
    prepare: Prepare
    _restorations: dict[State, Restoration] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _administrator: Sql | None = None
    _second: Sql | None = None
    _threads: ThreadPoolExecutor | None = None
    _reader: Reader | None = None
    _replaced: str = ""  # why all states are replaced, never restored

    def create(self) -> State:
        state = self._make()
        for _ in range(_ATTEMPTS):
            try:
                if not self._replaced:
                    self._plan(state)
                return state
            except StatementError as error:
                # Half of it may have been done: the next one is made anew.
                problem = str(error)
                self._forget_administrator()
                self.drop(state)
                state = self._make()
        self._replaced = problem
        return state

    def restore(self, state: State) -> bool:
        restoration = self._restorations.get(state)
        if restoration is None:
            return False
        try:
            kill_sessions(self._sql, state.name)
            if self._differs(state, restoration):
                return False
            bring_back_rows(self._sql, self.server, state.name, restoration)
        except StatementError:
            self._forget_administrator()
            return False
        return True

    def drop(self, state: State) -> None:
        self._restorations.pop(state, None)
        try:
            drop_user(self._sql, state.name)
        except StatementError as error:
            self._forget_administrator()
            raise PreparationError(f"the user {state.name} could not be dropped: {error}", "It ends with the container.") from error

    def close(self) -> None:
        self._forget_administrator()
        if self._threads is not None:
            self._threads.shutdown()

    @property
    def replaced(self) -> str:
        """Why no state can be restored in place, as far as that is known; empty where they can."""
        return self._replaced

    @property
    def _sql(self) -> Sql:
        if self._administrator is None:
            self._administrator = self.open(self.server.address, self.server.administrator)
        return self._administrator

    def _at_once(self, first: Callable[[Sql], object], second: Callable[[Sql], object]) -> tuple[object, object]:
        """Both at the same time, each on a connection of the administrator. A reset is what a test may be waiting for."""
        if self._second is None:
            self._second = self.open(self.server.address, self.server.administrator)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, "database states")
        other = self._threads.submit(second, self._second)
        try:
            return first(self._sql), other.result()
        finally:
            wait([other])  # before anything else is done on its connection

    @property
    def _dictionary(self) -> Reader:
        if self._reader is None:
            self._reader = Reader(self._sql)
        return self._reader

    def _differs(self, state: State, restoration: Restoration) -> bool:
        """Whether the dictionary says something else of `state`; where all but its columns are the same, its sequences are brought back.

        What it says of columns takes as long as all the rest, sequences included, which nobody misses where the state is replaced.
        """
        columns = {name: rows for name, rows in restoration.dictionary.items() if name == COLUMNS}
        rest = {name: rows for name, rows in restoration.dictionary.items() if name != COLUMNS}
        reader = self._dictionary

        def compare_rest(sql: Sql) -> str:
            different = reader.first_difference(sql, state.name, rest)
            if not different:
                bring_back_sequences(sql, state, restoration)
            return different

        return any(self._at_once(compare_rest, lambda sql: reader.first_difference(sql, state.name, columns)))

    def _forget_administrator(self) -> None:
        """A connection may be what is broken, or hold locks, or be in another user's schema."""
        for sql in (self._administrator, self._second):
            if sql is not None:
                sql.close()
        self._administrator = self._second = None

    def _make(self) -> State:
        """A user who is prepared. Raises PreparationError."""
        name = f"{self.prefix}_{next(self._numbers)}".upper()
        state = State(name, self.server.address, Account(name, new_password()))
        make_user(self._sql, self.server, state)
        self.prepare(lambda: self.connect(state.address, state.account), state)
        return state

    def _plan(self, state: State) -> None:
        """Find out, while nothing has been done to `state`, how it is restored, and do so once. Raises StatementError.

        The preparation may say SYSDATE or USER: every state that is restored is to have the rows that the original has.
        """
        reader, sql, owner = self._dictionary, self._sql, state.name
        found = reader.read(sql, owner)
        tables = read_tables(reader, found)
        self._replaced = reader.obstacle(found) or ("" if tables is not None else "its foreign keys go in a circle")
        if self._replaced or tables is None:
            return
        block = restore_rows(tables, read_columns(reader, found), self._original_columns, self._filled(tables), self.original)
        triggers = [str(each["trigger_name"]) for each in reader.records(found, "triggers") if each["status"] == "ENABLED"]
        names = sorted(str(each["sequence_name"]) for each in reader.records(found, "sequences"))
        restoration = Restoration(triggers, block, read_sequences(sql, owner, names))
        bring_back_rows(sql, self.server, owner, restoration)
        bring_back_sequences(sql, state, restoration)
        # Read again: the first rows of a partition, or of a segment, may have been those.
        self._restorations[state] = replace(restoration, dictionary=reader.read(sql, owner))

    @cached_property
    def _original_columns(self) -> Mapping[str, Sequence[Column]]:
        return read_columns(self._dictionary, self._dictionary.read(self._sql, self.original))

    def _filled(self, tables: Sequence[str]) -> frozenset[str]:
        """Which tables have rows in the original, where nothing changes any more."""
        if self._with_rows is None:
            self._with_rows = _filled(self._sql, self.original, tables)
        return self._with_rows

    _with_rows: frozenset[str] | None = None


def bring_back_rows(sql: Sql, server: Server, owner: str, restoration: Restoration) -> None:
    triggers = [f"{_quoted(owner)}.{_quoted(name)}" for name in restoration.triggers]
    sql.run(*(f"ALTER TRIGGER {trigger} DISABLE" for trigger in triggers))
    if restoration.rows:
        sql.run(f"ALTER SESSION SET CURRENT_SCHEMA = {_quoted(owner)}", restoration.rows)
        sql.commit()
        sql.run(f"ALTER SESSION SET CURRENT_SCHEMA = {_quoted(server.administrator.name.upper())}")
    sql.run(*(f"ALTER TRIGGER {trigger} ENABLE" for trigger in triggers))
    sql.commit()


def bring_back_sequences(sql: Sql, state: State, restoration: Restoration) -> None:
    """And the account."""
    last_numbers = read_last_numbers(sql, state.name) if restoration.sequences.told is not None else {}
    sql.run(*restoration.sequences.due(last_numbers))
    # A test may have changed the password, or locked the account.
    sql.run(f'ALTER USER {_quoted(state.name)} IDENTIFIED BY "{state.account.password.value}" ACCOUNT UNLOCK')
    sql.commit()


_CONTAINERS = "`isolation: container` in pipeline.yaml gives each worker a container of its own instead."


def make_user(sql: Sql, server: Server, state: State) -> None:
    """A user who may do what the application's user may. Raises PreparationError."""
    name = _quoted(state.name)
    try:
        sql.run(f'CREATE USER {name} IDENTIFIED BY "{state.account.password.value}"')
        for grant in read_grants(sql, server.user.name.upper()):
            sql.run(grant.format(user=name))
        sql.commit()
    except StatementError as error:
        raise PreparationError(f"the user {state.name} could not be made: {error}", _CONTAINERS) from error


def read_grants(sql: Sql, user: str) -> list[str]:
    """What `user` was granted, as statements with a place for another user's name."""
    found = []
    queries = (
        f"SELECT privilege FROM dba_sys_privs WHERE grantee = '{user}'",
        f"SELECT granted_role FROM dba_role_privs WHERE grantee = '{user}'",
        f"SELECT privilege || ' ON \"' || owner || '\".\"' || table_name || '\"' FROM dba_tab_privs WHERE grantee = '{user}' AND type <> 'DIRECTORY'",
    )
    for query in queries:
        found += [f"GRANT {what.replace('{', '{{').replace('}', '}}')} TO {{user}}" for (what,) in _rows_where_there_are(sql, query)]
    quotas = _rows_where_there_are(sql, f"SELECT tablespace_name, max_bytes FROM dba_ts_quotas WHERE username = '{user}'")
    found += [f"ALTER USER {{user}} QUOTA {'UNLIMITED' if size < 0 else int(size)} ON {space}" for space, size in quotas]
    return found


def kill_sessions(sql: Sql, user: str) -> None:
    """Log `user` out everywhere: what a session holds, or writes later, would disturb the next test, and DROP USER waits for it."""
    for sid, serial in sql.rows(f"SELECT sid, serial# FROM v$session WHERE username = '{user}' AND status <> 'KILLED'"):
        try:
            sql.run(f"ALTER SYSTEM KILL SESSION '{sid},{serial}' IMMEDIATE")
        except StatementError as error:
            if "ORA-00030" not in str(error) and "ORA-00031" not in str(error):  # it has ended meanwhile; it is about to
                raise


def drop_user(sql: Sql, user: str) -> None:
    kill_sessions(sql, user)
    if sql.rows(f"SELECT username FROM all_users WHERE username = '{user}'"):
        # The stand-in would keep a record of each, and look for the user's schema ever after.
        kept = "object_type = 'SYNONYM' OR object_type = 'VIEW' AND status = 'INVALID'"
        for kind, name in sql.rows(f"SELECT object_type, object_name FROM all_objects WHERE owner = '{user}' AND ({kept})"):
            with contextlib.suppress(StatementError):
                sql.run(f"DROP {kind} {_quoted(user)}.{_quoted(str(name))}")
        sql.run(f"DROP USER {_quoted(user)} CASCADE")
        sql.commit()


def read_sequences(sql: Sql, owner: str, names: Sequence[str]) -> Sequences:
    """How the sequences are made to go on from where they are. A number is drawn from each for that, and given back."""
    quoted = {name: f"{_quoted(owner)}.{_quoted(name)}" for name in names}
    drawn = {name: int(sql.rows(f"SELECT {sequence}.NEXTVAL FROM dual")[0][0]) for name, sequence in quoted.items()}
    restarts = {name: f"ALTER SEQUENCE {quoted[name]} RESTART START WITH {number}" for name, number in drawn.items()}
    sql.run(*restarts.values())
    told = read_last_numbers(sql, owner) if names else {}
    # Oracle names the last number that it has set aside for drawing, and after a restart none is; the stand-in names the first.
    for name in names[:1]:
        sql.rows(f"SELECT {quoted[name]}.NEXTVAL FROM dual")
        shown = read_last_numbers(sql, owner).get(name) != told.get(name)
        sql.run(restarts[name])
        return Sequences(restarts, told if shown else None)
    return Sequences(restarts)


def read_last_numbers(sql: Sql, owner: str) -> dict[str, Any]:
    rows = sql.rows("SELECT sequence_name, last_number FROM all_sequences WHERE sequence_owner = :owner", {"owner": owner})
    return {str(name): number for name, number in rows}


class Column(NamedTuple):
    """A column that INSERT gives values to."""

    name: str
    plain: bool = True  # one that `SELECT *` names, too, in a table of which INSERT without a list fills all


def read_tables(reader: Reader, found: Dictionary) -> list[str] | None:
    """The tables whose rows stay, each after those it references; None where there is no such order."""
    # Rows of a temporary table are gone with their session.
    tables = [str(each["table_name"]) for each in reader.records(found, "tables") if not each["duration"]]
    constraints = reader.records(found, "constraints")
    table_of = {each["constraint_name"]: str(each["table_name"]) for each in constraints}
    references = [
        (str(each["table_name"]), table_of[each["r_constraint_name"]])
        for each in constraints
        if each["constraint_type"] == "R" and each["r_constraint_name"] in table_of
    ]
    return in_order(tables, references)


def read_columns(reader: Reader, found: Dictionary) -> dict[str, list[Column]]:
    """The columns of each table to which INSERT gives values, in their order: an invisible one is, a computed one is not."""
    tables: dict[str, list[Column]] = {}
    records = reader.records(found, "tab_cols")
    for each in sorted(records, key=lambda each: (each["column_id"] or 0, each.get("internal_column_id") or 0, str(each["column_name"]))):
        columns = tables.setdefault(str(each["table_name"]), [])
        hidden, computed = each["hidden_column"] == "YES", each["virtual_column"] == "YES"
        own = not hidden or each.get("user_generated") == "YES"  # what Oracle hides for itself, `*` leaves out
        if own:
            columns.append(Column("" if computed else str(each["column_name"]), plain=not (hidden or computed)))
    return tables


def restore_rows(
    tables: Sequence[str],
    columns: Mapping[str, Sequence[Column]],
    original_columns: Mapping[str, Sequence[Column]],
    filled: Container[str],
    original: str,
) -> str:
    """The PL/SQL block that replaces all rows of the current schema by those of `original`; empty where there are no tables.

    Its names are those of the current schema, and a list of columns is given only where needed: the stand-in translates it each
    time, which takes longer than running it (measured: 130 ms for 300 statements in full, 17 ms for their execution).
    """
    if not tables:
        return ""
    theirs = _quoted(original)
    # Whoever is not logged out after all, and has changed something, makes this fail instead of wait.
    lock = f"LOCK TABLE {', '.join(map(_quoted, tables))} IN EXCLUSIVE MODE NOWAIT;"
    out = [f"DELETE FROM {_quoted(table)};" for table in reversed(tables)]
    back = []
    for table in tables:
        if table in filled:
            ours = columns.get(table, ())
            same = list(ours) == list(original_columns.get(table, ())) and all(column.plain for column in ours)
            names = ", ".join(_quoted(column.name) for column in ours if column.name)
            listed, chosen = ("", "*") if same else (f" ({names})", names)
            back.append(f"INSERT INTO {_quoted(table)}{listed} SELECT {chosen} FROM {theirs}.{_quoted(table)};")
    return "\n".join(["BEGIN", lock, *out, *back, "END;"])


def _filled(sql: Sql, owner: str, tables: Sequence[str]) -> frozenset[str]:
    """Which of the tables have rows."""
    questions = [
        f"SELECT {number} FROM dual WHERE EXISTS (SELECT 1 FROM {_quoted(owner)}.{_quoted(table)})" for number, table in enumerate(tables)
    ]
    return frozenset(tables[int(number)] for (number,) in sql.rows(" UNION ALL ".join(questions))) if tables else frozenset()


def make_original(open_sql: Open, connect: Connect, server: Server, name: str, prepare: Prepare) -> str:
    """A user `name` with the prepared state, for no test to log in to. Raises PreparationError."""
    state = State(name.upper(), server.address, Account(name.upper(), new_password()))
    sql = open_sql(server.address, server.administrator)
    try:
        make_user(sql, server, state)
        prepare(lambda: connect(state.address, state.account), state)
        own = open_sql(state.address, state.account)
        try:
            own.run(f"CREATE TABLE {_WATCH} (token VARCHAR2(20))", f"GRANT SELECT, INSERT ON {_WATCH} TO PUBLIC")
        finally:
            own.close()
    except StatementError as error:
        raise PreparationError(f"the prepared state could not be kept: {error}", _CONTAINERS) from error
    except PipelineError as error:
        raise PreparationError(
            f"the preparation could not be run as another user: {error.message}",
            f"Where its scripts name a schema, a state cannot be a user. {_CONTAINERS}",
        ) from error
    finally:
        sql.close()
    return state.name


def drop_original(open_sql: Open, server: Server, original: str) -> None:
    """Raises PreparationError."""
    with contextlib.closing(open_sql(server.address, server.administrator)) as sql:
        try:
            drop_user(sql, original)
        except StatementError as error:
            raise PreparationError(f"the user {original} could not be dropped: {error}", "It ends with the container.") from error


def watch(connection: Any, error: type[Exception], original: str) -> Callable[[], bool]:
    """By a row that is inserted now, in a table beside the prepared state, and that must be there until the end, but not after it."""
    token = secrets.token_hex(8)
    table = f"{_quoted(original)}.{_WATCH}"

    def is_there() -> bool:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT COUNT(*) FROM {table} WHERE token = '{token}'")
            return bool(cursor.fetchone()[0])

    if not original:
        return lambda: False
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} VALUES ('{token}')")

    def nothing_left() -> bool:
        try:
            kept = is_there()
            connection.rollback()
            return kept and not is_there()
        except error:
            return False

    return nothing_left


def _rows_where_there_are(sql: Sql, query: str) -> list[tuple[Any, ...]]:
    """Nothing where the database has no such view, as the stand-in, which enforces no grants."""
    try:
        return sql.rows(query)
    except StatementError as error:
        if "ORA-00942" in str(error):
            return []
        raise


def _quoted(name: str) -> str:
    # As it stands where that is the same: the stand-in knows such names in lower case only.
    return quote_plain(name, lambda text: _PLAIN.fullmatch(text) is not None)
