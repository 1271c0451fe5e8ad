"""What a copy by template leaves behind, and the application's role, against an administrator's connection that only writes down."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pytest

from pipeline.databases.engine import Account, Address, Password
from pipeline.databases.postgres_states import PostgresStates, Surroundings, literal, make_template
from pipeline.databases.states import Server, Sql, State
from pipeline.errors import PreparationError

PLAIN = Surroundings("app", -1, None, None, [], [])


class DriverError(Exception):
    """What the written-down connection raises."""


@dataclass
class Writing:
    """Answers a query by the first of its answers whose words are in it."""

    answers: dict[str, list[tuple[Any, ...]]]
    done: list[str] = field(default_factory=list)
    description: list[object] = field(default_factory=lambda: [()])
    arraysize: int = 0
    found: list[tuple[Any, ...]] = field(default_factory=list)

    def cursor(self) -> Writing:
        return self

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, *_: object) -> None:
        """It goes on."""

    def close(self) -> None:
        """Nothing is held."""

    def execute(self, statement: str) -> None:
        if not statement.startswith("SELECT"):
            self.done.append(statement)
        self.found = next((rows for words, rows in self.answers.items() if words in statement), [])

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.found


def states(surroundings: Surroundings, **answers: list[tuple[Any, ...]]) -> tuple[PostgresStates, Writing]:
    kept: dict[str, list[tuple[Any, ...]]] = {"shobj_description": [(json.dumps(asdict(surroundings)),)]}
    database = Writing(kept | answers)
    server = Server(Address("h", 1, "app"), Account("app", Password("p")), Account("postgres", Password("q")))
    return PostgresStates(Sql(database, DriverError), server, "original", "w"), database


def test_a_database_with_nothing_beside_it_costs_one_statement() -> None:
    source, database = states(PLAIN)
    assert source.create().name == "w_1"
    assert database.done == ['CREATE DATABASE "w_1" TEMPLATE "original" OWNER "app"']


def test_copies_go_where_the_image_has_a_place_for_them_and_by_the_quickest_way() -> None:
    looked_at: dict[str, list[tuple[Any, ...]]] = {
        "datconnlimit": [("app", -1, None, True)],
        "pipeline.states": [("/states",)],
        "fsync": [(True,)],
    }
    database = Writing(looked_at)
    make_template(Sql(database, DriverError), Address("h", 1, "app"), "original", "app")
    assert database.done[:2] == [
        "CREATE TABLESPACE pipeline_states LOCATION '/states'",
        'CREATE DATABASE "original" TEMPLATE "app" TABLESPACE "pipeline_states" STRATEGY FILE_COPY',
    ]
    source, database = states(PLAIN, fsync=[(True,)])
    source.create()
    assert database.done == ['CREATE DATABASE "w_1" TEMPLATE "original" OWNER "app" STRATEGY FILE_COPY']


def test_all_that_a_copy_leaves_behind_is_given_to_it_in_one_round_trip() -> None:
    surroundings = Surroundings(
        "owner",
        7,
        "it's here",
        [("CONNECT", "PUBLIC", ""), ("CREATE", '"App"', " WITH GRANT OPTION")],
        [("", "search_path", 'a, "B"'), ("app", "work_mem", "5MB")],
        [],
    )
    source, database = states(surroundings)
    source.create()
    assert database.done[0].endswith('OWNER "owner"')
    assert database.done[1:] == [
        'ALTER DATABASE "w_1" CONNECTION LIMIT 7; '
        "COMMENT ON DATABASE \"w_1\" IS 'it''s here'; "
        'REVOKE ALL ON DATABASE "w_1" FROM PUBLIC, "owner"; '
        'GRANT CONNECT ON DATABASE "w_1" TO PUBLIC; '
        'GRANT CREATE ON DATABASE "w_1" TO "App" WITH GRANT OPTION; '
        'ALTER DATABASE "w_1" SET search_path TO a, "B"; '
        "ALTER ROLE app IN DATABASE \"w_1\" SET work_mem TO '5MB'"
    ]


def test_a_database_that_grants_nothing_to_anybody_is_not_one_with_the_usual_grants() -> None:
    assert any("REVOKE ALL" in statement for statement in replace(PLAIN, grants=[]).statements("x"))
    assert PLAIN.statements("x") == []


def test_what_a_test_did_to_its_own_role_is_undone_when_its_state_comes_back() -> None:
    source, database = states(
        replace(PLAIN, own_settings=[["statement_timeout", "5min"]]),
        **{"FROM pg_db_role_setting": [("statement_timeout=5min",)], "FROM pg_authid": [("SCRAM-SHA-256$first",)]},
    )
    state = source.create()
    database.done.clear()
    assert not source.restore(state)
    assert database.done == [], "nothing had changed"
    database.answers["FROM pg_db_role_setting"] = [("search_path=nowhere",)]
    database.answers["FROM pg_authid"] = [("SCRAM-SHA-256$other",)]
    assert not source.restore(state)
    assert database.done == [
        'ALTER ROLE "app" RESET ALL',
        "ALTER ROLE \"app\" SET statement_timeout TO '5min'",
        "ALTER ROLE \"app\" PASSWORD 'SCRAM-SHA-256$first'",
    ]


def test_an_original_that_is_gone_is_said_so() -> None:
    source, _ = states(PLAIN, shobj_description=[])
    with pytest.raises(PreparationError, match="the prepared state original is not there"):
        source.create()


def test_a_source_that_nobody_used_asks_nothing_when_it_is_closed() -> None:
    source, database = states(PLAIN, shobj_description=[])
    source.drop(State("w_1", Address("h", 1, "w_1"), Account("app", Password("p"))))
    source.close()
    assert database.done == ['DROP DATABASE IF EXISTS "w_1" WITH (FORCE)']


@pytest.mark.parametrize(("text", "written"), [("a", "'a'"), ("a'b", "'a''b'"), ("a\\b'", "E'a\\\\b'''")])
def test_texts_are_quoted_whatever_the_server_takes_a_backslash_for(text: str, written: str) -> None:
    assert literal(text) == written
