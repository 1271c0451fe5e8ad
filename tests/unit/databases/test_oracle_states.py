"""Oracle's states against a scripted data dictionary: what the stand-in has no views for. That Oracle answers so is not shown here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pipeline.databases.engine import Account, Address, Connection, Password
from pipeline.databases.oracle_dictionary import VIEWS, Reader
from pipeline.databases.oracle_states import OracleStates, Sequences
from pipeline.databases.states import Server, Sql, State
from pipeline.errors import PreparationError

Row = dict[str, Any]
STATE, ORIGINAL = "W_1", "ORIGINAL"
_FROM = re.compile(r"SELECT (.*?) FROM (\w+)(?: WHERE (.*))?", re.DOTALL)


class RefusedError(Exception):
    """What the scripted database raises."""


@dataclass
class Scripted:
    """A database whose dictionary is rows by view, each user's alike, and that writes down what is run in it."""

    views: dict[str, list[Row]]
    done: list[str] = field(default_factory=list)
    refused: Callable[[str], bool] = lambda _statement: False
    next_number: int = 7
    shows_draws: bool = True
    drawn: bool = False

    def cursor(self) -> Cursor:
        return Cursor(self)

    def commit(self) -> None:
        self.done.append("COMMIT")

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class Cursor:
    database: Scripted
    description: list[tuple[str]] | None = None
    arraysize: int = 0
    rows: list[tuple[Any, ...]] = field(default_factory=list)

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        """It stays as it is."""

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.rows

    def execute(self, statement: str, _binds: Mapping[str, object] | None = None) -> None:
        if self.database.refused(statement):
            raise RefusedError("ORA-01234: refused")
        if not statement.startswith("SELECT"):
            self.database.done.append(statement)
            self.database.drawn = self.database.drawn and not statement.startswith("ALTER SEQUENCE")
            return
        self.rows, self.description = [], [("x",)]
        if ".NEXTVAL" in statement:
            self.database.drawn = True
            self.rows = [(self.database.next_number,)]
        elif "last_number" in statement:
            moved = 20 if self.database.drawn and self.database.shows_draws else 0
            self.rows = [(row["sequence_name"], self.database.next_number + moved) for row in self.database.views.get("dba_sequences", [])]
        elif (found := _FROM.match(statement)) and not found[2].startswith(("v", "dual")):
            self._select(found[1], found[2])

    def _select(self, columns: str, view: str) -> None:
        if view not in self.database.views:
            raise RefusedError("ORA-00942: table or view does not exist")
        rows = self.database.views[view]
        names = sorted({name for row in rows for name in row} | {"owner"}) if columns == "*" else columns.split(", ")
        self.description = [(name.upper(),) for name in names]
        self.rows = [tuple(row.get(name) for name in names) for row in rows]


def dictionary(**views: list[Row]) -> dict[str, list[Row]]:
    """A user with one table and one sequence, and more. The first row of each view says which columns there are."""
    table = dict.fromkeys(("nested", "external", "read_only", "hybrid"), "NO") | {"table_name": "T", "duration": None, "secondary": "N"}
    return {
        "dba_objects": [{"object_name": "T", "object_type": "TABLE", "object_id": 1}],
        "dba_tables": [{**table, "iot_name": None, "iot_type": None, "cluster_name": None, "pct_free": 10}],
        "dba_tab_cols": [column("ID", 1), column("NAME", 2)],
        "dba_constraints": [
            {
                "constraint_name": "T_PK",
                "constraint_type": "P",
                "table_name": "T",
                "r_constraint_name": None,
                "delete_rule": None,
                "status": "ENABLED",
                "deferrable": "NOT DEFERRABLE",
                "deferred": "IMMEDIATE",
                "validated": "VALIDATED",
                "rely": None,
            }
        ],
        "dba_indexes": [
            {
                "index_name": "T_PK",
                "uniqueness": "UNIQUE",
                "visibility": "VISIBLE",
                "status": "VALID",
                "funcidx_status": None,
                "indexing": "FULL",
                "table_name": "T",
            }
        ],
        "dba_sequences": [{"sequence_name": "S", "increment_by": 1, "scale_flag": "N", "session_flag": "N", "sequence_owner": "x"}],
        "dba_triggers": [{"trigger_name": "TR", "status": "ENABLED"}],
        "all_users": [{"username": STATE}],
        "all_objects": [],
        **views,
    }


def column(name: str, number: int, **more: Any) -> Row:
    usual = {"hidden_column": "NO", "virtual_column": "NO", "user_generated": "YES", "data_type": "NUMBER", "nullable": "Y"}
    return {"table_name": "T", "column_name": name, "column_id": number, **usual, **more}


def source_of(database: Scripted) -> OracleStates:
    server = Server(Address("h", 1, "s"), Account("app", Password("p")), Account("system", Password("q")))

    def prepare(_connect: Callable[[], Connection], _state: State) -> None:
        database.done.append("PREPARED")

    def connect(_address: Address, _account: Account) -> Connection:
        raise AssertionError("nobody logs in")

    return OracleStates(lambda _address, _account: Sql(database, RefusedError), connect, server, ORIGINAL, "w", prepare)


def test_what_nothing_has_changed_is_restored_in_place() -> None:
    database = Scripted(dictionary())
    source = source_of(database)
    state = source.create()
    database.done.clear()
    assert source.restore(state)
    assert "ALTER TRIGGER W_1.TR DISABLE" in database.done
    assert database.done.index("ALTER TRIGGER W_1.TR DISABLE") < next(i for i, done in enumerate(database.done) if done.startswith("BEGIN"))
    assert not [done for done in database.done if done.startswith("ALTER SEQUENCE")], "no number was drawn"
    source.close()


CHANGES: Sequence[tuple[str, Row]] = [
    *[("dba_constraints", change) for change in ({"deferrable": "DEFERRABLE"}, {"deferred": "DEFERRED"}, {"validated": "NOT VALIDATED"})],
    *[("dba_constraints", change) for change in ({"status": "DISABLED"}, {"rely": "RELY"}, {"delete_rule": "CASCADE"})],
    *[("dba_indexes", change) for change in ({"visibility": "INVISIBLE"}, {"uniqueness": "NONUNIQUE"}, {"status": "UNUSABLE"})],
    *[("dba_indexes", change) for change in ({"funcidx_status": "DISABLED"}, {"indexing": "PARTIAL"})],
    *[("dba_tables", change) for change in ({"pct_free": 20}, {"read_only": "YES"})],
    *[("dba_tab_cols", change) for change in ({"nullable": "N"}, {"hidden_column": "YES"}, {"data_type": "DATE"})],
    *[("dba_sequences", change) for change in ({"increment_by": 2}, {"session_flag": "Y"})],
    ("dba_triggers", {"status": "DISABLED"}),
    ("dba_objects", {"object_id": 2}),
]


@pytest.mark.parametrize(("view", "change"), CHANGES)
def test_what_differs_in_any_attribute_is_replaced(view: str, change: Row) -> None:
    database = Scripted(dictionary())
    source = source_of(database)
    state = source.create()
    database.views[view][0] = {**database.views[view][0], **change}
    assert not source.restore(state)
    source.close()


NEW: Sequence[tuple[str, Row]] = [
    ("dba_tab_privs", {"grantee": "SOMEBODY", "table_name": "T", "privilege": "SELECT"}),
    ("dba_col_privs", {"grantee": "SOMEBODY", "table_name": "T", "column_name": "ID", "privilege": "UPDATE"}),
    ("dba_tab_comments", {"table_name": "T", "comments": "new"}),
    ("dba_col_comments", {"table_name": "T", "column_name": "ID", "comments": "new"}),
    ("dba_synonyms", {"synonym_name": "X", "table_name": "T"}),
    ("dba_ind_expressions", {"index_name": "T_PK", "column_expression": 'UPPER("NAME")', "index_owner": STATE}),
    ("dba_policies", {"object_name": "T", "policy_name": "P", "object_owner": STATE}),
    ("dba_mview_logs", {"master": "T", "log_table": "MLOG$_T", "log_owner": STATE}),
    ("dba_sys_privs", {"privilege": "CREATE ANY TABLE", "grantee": STATE}),
    ("dba_recyclebin", {"object_name": "BIN$1", "original_name": "EXTRA"}),
    ("dba_objects", {"object_name": "M", "object_type": "DIMENSION", "object_id": 9}),
]


@pytest.mark.parametrize(("view", "row"), NEW)
def test_whatever_is_found_besides_is_replaced(view: str, row: Row) -> None:
    database = Scripted(dictionary(**({} if view == "dba_objects" else {view: [dict.fromkeys(row)]})))
    usual = database.views[view]
    if view != "dba_objects":
        # A view of the dictionary has its columns where it has no rows, too.
        source = source_of(database)
        reader = Reader(source._sql)
        database.views[view] = []
        source._reader = reader
    else:
        source = source_of(database)
    state = source.create()
    assert source.restore(state)
    database.views[view] = [*(usual if view == "dba_objects" else []), row]
    assert not source.restore(state)
    source.close()


ONLY_REPLACED: Sequence[tuple[str, dict[str, list[Row]]]] = [
    *[
        (f"a {kind.lower()}", {"dba_objects": [{"object_name": "X", "object_type": kind, "object_id": 2}]})
        for kind in ("MATERIALIZED VIEW", "QUEUE", "CLUSTER", "JOB", "JAVA CLASS", "DOMAIN", "SOMETHING NEW")
    ],
    *[
        (f"in dba_{view}", {f"dba_{view}": [row]})
        for view, row in (
            ("mviews", {"mview_name": "M"}),
            ("queue_tables", {"queue_table": "Q"}),
            ("nested_tables", {"table_name": "N"}),
            ("external_tables", {"table_name": "X"}),
            ("object_tables", {"table_name": "O"}),
            ("clusters", {"cluster_name": "C"}),
            ("mview_logs", {"master": "T", "log_owner": STATE}),
            ("policies", {"object_name": "T", "object_owner": STATE}),
            ("blockchain_tables", {"table_name": "B", "schema_name": STATE}),
        )
    ],
    *[
        (what, {"dba_tables": [{**dictionary()["dba_tables"][0], **mark}]})
        for what, mark in (
            ("index-organised", {"iot_type": "IOT"}),
            ("part of an index-organised table", {"iot_type": "IOT_OVERFLOW", "iot_name": "I"}),
            ("in a cluster", {"cluster_name": "C"}),
            ("nested", {"nested": "YES"}),
            ("external", {"external": "YES"}),
            ("read only", {"read_only": "YES"}),
        )
    ],
    ("a table of objects", {"dba_tables": [{**dictionary()["dba_tables"][0], "table_name": "ANOTHER"}]}),
    ("has a LONG", {"dba_tab_cols": [column("ID", 1, data_type="LONG")]}),
    ("cannot be restarted", {"dba_sequences": [{"sequence_name": "ISEQ$$_7", "sequence_owner": STATE}]}),
    ("cannot be restarted", {"dba_sequences": [{"sequence_name": "S", "scale_flag": "Y", "sequence_owner": STATE}]}),
]


@pytest.mark.parametrize(("why", "views"), ONLY_REPLACED)
def test_who_has_what_is_not_brought_back_by_rows_is_only_ever_replaced(why: str, views: dict[str, list[Row]]) -> None:
    database = Scripted(dictionary(**views))
    source = source_of(database)
    state = source.create()
    assert why in source.replaced
    assert not source.restore(state)
    assert not [done for done in database.done if done.startswith(("BEGIN", "ALTER SEQUENCE"))], "it is as it was prepared"
    source.close()


def test_what_cannot_be_brought_back_at_first_is_made_again_and_only_replaced() -> None:
    database = Scripted(dictionary(), refused=lambda statement: statement.startswith("BEGIN"))
    source = source_of(database)
    state = source.create()
    assert database.done.count("PREPARED") == 3, "two attempts, and one that is left as it is"
    assert not source.restore(state)
    source.create()
    assert database.done.count("PREPARED") == 4
    assert "ORA-01234" in source.replaced
    source.close()


def test_a_failure_that_passes_costs_one_more_user_and_nothing_else() -> None:
    failures = iter([True])
    database = Scripted(dictionary(), refused=lambda statement: statement.startswith("BEGIN") and next(failures, False))
    source = source_of(database)
    assert source.restore(source.create())
    source.close()


def test_a_dictionary_that_cannot_be_read_is_no_dictionary_without_views() -> None:
    database = Scripted(dictionary(), refused=lambda statement: "dba_indexes" in statement)
    source = source_of(database)
    source.create()
    assert "refused" in source.replaced, "and not compared without indexes"
    source.close()


def test_only_sequences_that_moved_are_restarted_where_the_dictionary_tells() -> None:
    restarts = {"A": "restart A", "B": "restart B"}
    assert Sequences(restarts, {"A": 1, "B": 5}).due({"A": 1, "B": 25}) == ["restart B"]
    assert Sequences(restarts).due({"A": 1, "B": 5}) == ["restart A", "restart B"]


@pytest.mark.parametrize(("shown", "restarts"), [(True, 0), (False, 1)])
def test_whether_the_dictionary_shows_that_a_number_was_drawn_is_tried(shown: bool, restarts: int) -> None:
    database = Scripted(dictionary(), shows_draws=shown)
    source = source_of(database)
    state = source.create()
    database.done.clear()
    assert source.restore(state)
    assert len([done for done in database.done if done.startswith("ALTER SEQUENCE")]) == restarts
    if shown:
        database.drawn = True
        assert source.restore(state)
        assert "ALTER SEQUENCE W_1.S RESTART START WITH 7" in database.done
    source.close()


def test_columns_that_insert_fills_are_named_where_some_are_hidden_or_computed() -> None:
    hidden = column("SECRET", 0, hidden_column="YES")
    computed = column("TWICE", 3, virtual_column="YES")
    oracles_own = column("SYS_NC00004$", 0, hidden_column="YES", virtual_column="YES", user_generated="NO")
    for more, listed in (([hidden], " (SECRET, ID, NAME)"), ([computed], " (ID, NAME)"), ([oracles_own], "")):
        database = Scripted(dictionary(dba_tab_cols=[column("ID", 1), column("NAME", 2), *more]))
        source = source_of(database)
        source._with_rows = frozenset(["T"])
        source.create()
        block = next(done for done in database.done if done.startswith("BEGIN"))
        assert f"INSERT INTO T{listed} SELECT" in block
        source.close()


def test_a_view_is_read_once_and_by_columns_that_exist() -> None:
    names = [view.name for view in VIEWS]
    assert len(names) == len(set(names))
    for view in VIEWS:
        columns = view.columns.replace(",", " ").split()
        assert len(columns) == len(set(columns)), view.name
    reader = Reader(Sql(Scripted({"all_synonyms": [{"synonym_name": "S", "owner": "O"}]}), RefusedError))
    assert reader.names == ["all_synonyms (synonym_name)"]


def test_a_user_who_cannot_be_dropped_is_said_with_why() -> None:
    database = Scripted(
        {**dictionary(), "all_users": [{"username": STATE}], "all_objects": []}, refused=lambda text: text.startswith("DROP USER")
    )
    with pytest.raises(PreparationError, match="could not be dropped: ORA-01234"):
        source_of(database).drop(State(STATE, Address("h", 1, "s"), Account(STATE, Password("p"))))
