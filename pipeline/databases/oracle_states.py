"""Oracle: a state is a user. It is made by running the preparation again as that user, and restored in the cheapest way that is right.

What a test did is found out by comparing what the data dictionary says of the user with what it said before the first test.
Where that is the same, only rows and sequences can have changed: rows come back from the original, a user that is prepared
in the same way and that no test gets, and sequences are restarted. Where it is not, or where anything stands in the way,
the user is dropped and another one takes its place. So nothing has to be known about how a test did what it did.
"""

# ruff: noqa: S608 - names of objects cannot be bind variables; they come from the data dictionary

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.databases.engine import Account, Address, Connection, Password
from pipeline.databases.states import Prepare, Server, Sql, State, StatementError, in_order, quote_plain
from pipeline.errors import PipelineError, PreparationError

Open = Callable[[Address, Account], Sql]
Connect = Callable[[Address, Account], Connection]

_PLAIN = re.compile(r"[A-Z][A-Z0-9_$#]*")


class View(NamedTuple):
    """A view of the data dictionary: what of it must be the same again, and the column that says whose it is."""

    name: str
    columns: str
    owner: str = "owner"


# No times, no statistics and no status of compiled code: those change by themselves. A view that a database lacks is left out.
_DICTIONARY = (
    View("all_objects", "object_name, subobject_name, object_type, object_id"),
    View(
        "all_tab_columns", "table_name, column_name, column_id, data_type, data_length, data_precision, data_scale, nullable, data_default"
    ),
    View(
        "all_constraints", "constraint_name, constraint_type, table_name, search_condition, r_owner, r_constraint_name, delete_rule, status"
    ),
    View("all_cons_columns", "constraint_name, table_name, column_name, position"),
    View("all_indexes", "index_name, index_type, table_name, uniqueness"),
    View("all_ind_columns", "index_name, table_name, column_name, column_position, descend", "index_owner"),
    View("all_source", "name, type, line, text"),
    View("all_triggers", "trigger_name, table_name, status"),
    View("all_views", "view_name, text"),
    View("all_sequences", "sequence_name, min_value, max_value, increment_by, cycle_flag, cache_size", "sequence_owner"),
    View("all_synonyms", "synonym_name, table_owner, table_name"),
    View("all_tab_privs", "grantee, table_name, privilege, grantable", "table_schema"),
    View("all_tab_comments", "table_name, comments"),
    View("all_col_comments", "table_name, column_name, comments"),
)
_WATCH = "pipeline_watch"  # a table of the original: who writes into it and rolls back leaves no row
_GENERATED_SEQUENCE = "ISEQ$$"  # an identity column's; only the table can restart it


@dataclass(frozen=True)
class Restoration:
    """How the rows and sequences of one user are brought back."""

    dictionary: dict[str, Counter[tuple[Any, ...]]]
    before: Sequence[str] = ()  # statements that stop triggers
    rows: str = ""  # a PL/SQL block: all rows out, the original's in
    after: Sequence[str] = ()  # triggers and sequences


@dataclass
class OracleStates:
    """Users of the database of `server`; `original` is the user whose rows are the prepared ones."""

    open: Open
    connect: Connect
    server: Server
    original: str
    prefix: str
    prepare: Prepare
    _restorations: dict[State, Restoration | None] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _administrator: Sql | None = None

    def create(self) -> State:
        state = State(f"{self.prefix}_{next(self._numbers)}".upper(), self.server.address, self._new_account())
        state = State(state.name, state.address, Account(state.name, state.account.password))
        make_user(self._sql, self.server, state)
        try:
            self.prepare(lambda: self.connect(state.address, state.account), state)
            self._restorations[state] = self._plan(state)
            # The preparation may say SYSDATE or USER: every state is to have the rows that the original has.
            self._bring_back(self._restorations[state])
        except StatementError as error:
            raise PreparationError(f"the user {state.name} could not be prepared as a database state: {error}", _CONTAINERS) from error
        return state

    def restore(self, state: State) -> bool:
        restoration = self._restorations.get(state)
        if restoration is None:
            return False
        try:
            kill_sessions(self._sql, state.name)
            if read_dictionary(self._sql, state.name, restoration.dictionary) != restoration.dictionary:
                return False
            self._bring_back(restoration)
            # A test may have changed it, or locked the account.
            self._sql.run(f'ALTER USER {_quoted(state.name)} IDENTIFIED BY "{state.account.password.value}" ACCOUNT UNLOCK')
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

    @property
    def _sql(self) -> Sql:
        if self._administrator is None:
            self._administrator = self.open(self.server.address, self.server.administrator)
        return self._administrator

    def _forget_administrator(self) -> None:
        """The connection may be what is broken, or hold locks."""
        if self._administrator is not None:
            self._administrator.close()
        self._administrator = None

    def _new_account(self) -> Account:
        return Account("", _new_password())

    def _plan(self, state: State) -> Restoration | None:
        """How to restore `state`, found out while nothing has been done to it; None where it can only be replaced."""
        owner = state.name
        sequences = read_sequences(self._sql, owner)
        if any(name.startswith(_GENERATED_SEQUENCE) for name in sequences):
            return None
        rows = restore_rows(self._sql, owner, self.original)
        if rows is None:
            return None
        triggers = [
            _quoted(str(name))
            for name, status in self._sql.rows(f"SELECT trigger_name, status FROM all_triggers WHERE owner = '{owner}'")
            if status == "ENABLED"
        ]
        restart = [f"ALTER SEQUENCE {_quoted(owner)}.{_quoted(name)} RESTART START WITH {number}" for name, number in sequences.items()]
        self._sql.run(*restart)
        return Restoration(
            dictionary=read_dictionary(self._sql, owner),
            before=[f"ALTER TRIGGER {_quoted(owner)}.{trigger} DISABLE" for trigger in triggers],
            rows=rows,
            after=[*(f"ALTER TRIGGER {_quoted(owner)}.{trigger} ENABLE" for trigger in triggers), *restart],
        )

    def _bring_back(self, restoration: Restoration | None) -> None:
        if restoration is None:
            return
        self._sql.run(*restoration.before)
        if restoration.rows:
            self._sql.run(restoration.rows)
        self._sql.commit()
        self._sql.run(*restoration.after)
        self._sql.commit()


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


def read_dictionary(sql: Sql, owner: str, like: dict[str, Counter[tuple[Any, ...]]] | None = None) -> dict[str, Counter[tuple[Any, ...]]]:
    """What the data dictionary says of what `owner` has; of the same views as `like`, which must be there now."""
    found = {}
    for view in _DICTIONARY:
        query = f"SELECT {view.columns} FROM {view.name} WHERE {view.owner} = '{owner}'"
        if like is None:
            try:
                found[view.name] = Counter(sql.rows(query))
            except StatementError:
                continue
        elif view.name in like:
            found[view.name] = Counter(sql.rows(query))
    return found


def read_sequences(sql: Sql, owner: str) -> dict[str, int]:
    """The next number of each sequence, which is drawn."""
    names = [str(name) for (name,) in sql.rows(f"SELECT sequence_name FROM all_sequences WHERE sequence_owner = '{owner}'")]
    if any(name.startswith(_GENERATED_SEQUENCE) for name in names):
        return dict.fromkeys(names, 0)
    drawn = [int(sql.rows(f"SELECT {_quoted(owner)}.{_quoted(name)}.NEXTVAL FROM dual")[0][0]) for name in names]
    return dict(zip(names, drawn, strict=True))


def restore_rows(sql: Sql, owner: str, original: str) -> str | None:
    """The PL/SQL block that replaces all rows of `owner` by those of `original`; None where there is no order for that."""
    # Rows of a temporary table are gone with their session.
    tables = [str(name) for (name,) in sql.rows(f"SELECT table_name FROM all_tables WHERE owner = '{owner}' AND duration IS NULL")]
    references = sql.rows(
        "SELECT c.table_name, p.table_name FROM all_constraints c JOIN all_constraints p"
        " ON p.owner = c.r_owner AND p.constraint_name = c.r_constraint_name"
        f" WHERE c.owner = '{owner}' AND p.owner = '{owner}' AND c.constraint_type = 'R'"
    )
    ordered = in_order(tables, [(str(child), str(parent)) for child, parent in references])
    if ordered is None:
        return None
    columns: dict[str, list[str]] = {table: [] for table in tables}
    for table, column in sql.rows(
        f"SELECT table_name, column_name FROM all_tab_cols WHERE owner = '{owner}' AND virtual_column = 'NO' AND hidden_column = 'NO'"
        " ORDER BY table_name, column_id"
    ):
        if table in columns:
            columns[table].append(_quoted(str(column)))
    ours, theirs = _quoted(owner), _quoted(original)
    out = [f"DELETE FROM {ours}.{_quoted(table)};" for table in reversed(ordered)]
    filled = _filled(sql, original, tables)
    back = [
        f"INSERT INTO {ours}.{_quoted(table)} ({', '.join(columns[table])}) SELECT {', '.join(columns[table])} FROM {theirs}.{_quoted(table)};"
        for table in ordered
        if table in filled
    ]
    # Whoever is not logged out after all, and has changed something, makes this fail instead of wait.
    locks = [f"LOCK TABLE {ours}.{_quoted(table)} IN EXCLUSIVE MODE NOWAIT;" for table in ordered]
    return "\n".join(["BEGIN", *locks, *out, *back, "END;"]) if tables else ""


def _filled(sql: Sql, owner: str, tables: Sequence[str]) -> set[str]:
    """Which of the tables have rows."""
    questions = [
        f"SELECT {number} FROM dual WHERE EXISTS (SELECT 1 FROM {_quoted(owner)}.{_quoted(table)})" for number, table in enumerate(tables)
    ]
    return {tables[int(number)] for (number,) in sql.rows(" UNION ALL ".join(questions))} if tables else set()


def make_original(open_sql: Open, connect: Connect, server: Server, name: str, prepare: Prepare) -> str:
    """A user `name` with the prepared state, for no test to log in to. Raises PreparationError."""
    state = State(name.upper(), server.address, Account(name.upper(), _new_password()))
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


def _new_password() -> Password:
    """Random; within Oracle's 30 bytes, with a letter first, and nothing that must be quoted."""
    letters = string.ascii_letters + string.digits
    return Password("Aa1" + "".join(secrets.choice(letters) for _ in range(21)))
