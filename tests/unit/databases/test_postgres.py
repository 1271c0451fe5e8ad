"""PostgreSQL: how psql's scripts are split, and what a server's answers mean."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.databases.engine import Account, Address, Answer, Password, Phase, ScriptError
from pipeline.databases.postgres import Postgres, PostgresConnection, split_psql

HERE = Address("127.0.0.1", 5432, "app")


def texts(script: str) -> list[str]:
    return [statement.text for statement in split_psql(script)]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("SELECT ';'; SELECT 2;", ["SELECT ';'", "SELECT 2"]),
        ("SELECT 'it''s;'; SELECT 2;", ["SELECT 'it''s;'", "SELECT 2"]),
        (r"SELECT E'\';'; SELECT 2;", [r"SELECT E'\';'", "SELECT 2"]),
        (r"SELECT '\'; SELECT 2;", [r"SELECT '\'", "SELECT 2"]),  # no escape without an E
        ('SELECT 1 AS ";"; SELECT 2;', ['SELECT 1 AS ";"', "SELECT 2"]),
        ("SELECT 1 -- ;\n; SELECT 2;", ["SELECT 1 -- ;", "SELECT 2"]),
        ("/* ; /* ; */ ; */ SELECT 1; SELECT 2;", ["SELECT 1", "SELECT 2"]),
        ("DO $$ BEGIN a; b; END $$; SELECT 2;", ["DO $$ BEGIN a; b; END $$", "SELECT 2"]),
        ("DO $x$ $$; $y$; $x$; SELECT 2;", ["DO $x$ $$; $y$; $x$", "SELECT 2"]),
        ("SELECT a$b$c; SELECT 2;", ["SELECT a$b$c", "SELECT 2"]),  # a dollar inside a name quotes nothing
        ("SELECT $1; SELECT 2;", ["SELECT $1", "SELECT 2"]),
        ("CREATE RULE r AS ON INSERT TO t DO (UPDATE a; UPDATE b); SELECT 2;", None),
        ("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN a THEN 1 END; END; SELECT 2;", None),
        ("create or replace procedure p() begin atomic insert into t values (1); end; SELECT 2", None),
        ("BEGIN; INSERT INTO t VALUES (1); END; SELECT 2;", ["BEGIN", "INSERT INTO t VALUES (1)", "END", "SELECT 2"]),
        ("CREATE TABLE copy (a int); COPY t TO STDOUT;", ["CREATE TABLE copy (a int)", "COPY t TO STDOUT"]),
        ("\ufeff;; ;\n-- nothing\n/* nothing */", []),
        ("SELECT 'without an end; ", ["SELECT 'without an end;"]),
        ("SELECT $$ without an end; ", ["SELECT $$ without an end;"]),
        ("SELECT 1.5e3; SELECT 2;", ["SELECT 1.5e3", "SELECT 2"]),
        ("SELECT 'größe' AS größe; SELECT 2;", ["SELECT 'größe' AS größe", "SELECT 2"]),
    ],
)
def test_a_statement_ends_where_psql_ends_it(script: str, expected: list[str] | None) -> None:
    first = script.rpartition("; SELECT 2")[0]
    assert texts(script) == (expected if expected is not None else [first, "SELECT 2"])


def test_a_statement_knows_its_line_and_its_number() -> None:
    found = split_psql("-- begin\n\nSELECT 1;\n\n  SELECT\n2;")
    assert [(statement.line, statement.number) for statement in found] == [(3, 1), (5, 2)]


@dataclass(frozen=True)
class Refused:
    script: str
    line: int
    message: str


@pytest.mark.parametrize(
    "case",
    [
        Refused("SELECT 1;\n\\i other.sql\n", 2, r"'\\i' is a command of psql itself"),
        Refused("SELECT 1 \\gexec", 1, r"'\\gexec' is a command of psql itself"),
        Refused("SELECT 1;\n\nCOPY t (a, b) FROM stdin;\n1\t2\n\\.\n", 3, "COPY … FROM stdin gets its rows from psql"),
        Refused("copy public.t from STDIN with (format csv);\n", 1, "COPY … FROM stdin"),
    ],
    ids=lambda case: case.message,
)
def test_what_only_psql_can_do_is_refused_with_its_line(case: Refused) -> None:
    with pytest.raises(ScriptError, match=case.message) as caught:
        split_psql(case.script)
    assert caught.value.line == case.line


PIECES = st.sampled_from(["1", "'a;b'", "E'\\';'", '"x;y"', "$$;$$", "$t$ $$; $t$", "-- ;\n", "/* ; /* ; */ */", "(1; 2)", "name", "ä"])


@given(st.lists(st.lists(PIECES, max_size=6), max_size=6))
def test_statements_joined_by_semicolons_come_apart_again(statements: list[list[str]]) -> None:
    written = [" ".join(["SELECT", *parts, "FROM x"]) for parts in statements]  # no comment at the ends, which would not be part of it
    assert texts(";\n".join(written)) == written


@given(st.text(alphabet="'\"$/*-\\;(E)a b\n", max_size=40))
def test_no_script_makes_the_splitter_fail_or_lose_text(script: str) -> None:
    try:
        found = split_psql(script)
    except ScriptError:
        return
    position = 0
    for statement in found:
        position = script.index(statement.text, position) + len(statement.text)


def test_addresses_for_drivers() -> None:
    engine = Postgres(Fake())
    assert engine.dsn(HERE) == "postgresql://127.0.0.1:5432/app"
    assert engine.dsn(Address("fd00::1", 5432, "a/b")) == "postgresql://[fd00::1]:5432/a%2Fb"
    assert engine.jdbc_url(HERE) == "jdbc:postgresql://127.0.0.1:5432/app"


@dataclass(frozen=True)
class Failed:
    code: str = ""
    connected: bool = True
    answered: bool = True
    logged_in: bool = False
    message: str = "no"


@dataclass(frozen=True)
class Fake:
    """A driver whose logins end as said."""

    failure: Failed | None = None

    async def try_login(self, *_address_and_account: object) -> Failed | None:
        return self.failure

    def connect(self, dsn: str, user: str, password: str) -> PostgresConnection:
        raise AssertionError(dsn)

    def open(self, dsn: str, user: str, password: str) -> object:
        raise AssertionError(dsn)

    error = Exception


@pytest.mark.parametrize(
    ("failure", "phase", "refused"),
    [
        (Failed("", connected=False, answered=False), Phase.PORT, False),
        (Failed("", answered=False), Phase.LISTENER, False),
        (Failed("57P03"), Phase.SERVICE, False),
        (Failed("3D000"), Phase.SERVICE, False),
        (Failed("53300"), Phase.SERVICE, False),
        (Failed("28P01"), Phase.LOGIN, True),
        (Failed("28000"), Phase.LOGIN, True),
        (Failed(""), Phase.LOGIN, False),
        (Failed("42501", logged_in=True), Phase.QUERY, False),
        (Failed("57P01", logged_in=True), Phase.QUERY, False),
    ],
)
def test_a_code_says_what_is_waited_for(failure: Failed, phase: Phase, refused: bool) -> None:
    answer = asyncio.run(Postgres(Fake(failure)).log_in(HERE, Account("app", Password("x")), 1.0))
    assert answer == Answer(False, "no", refused=refused, phase=phase)
