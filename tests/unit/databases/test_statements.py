"""Splitting SQL scripts the SQL*Plus way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.databases.engine import ScriptError
from pipeline.databases.statements import split_script

TRIGGER = "CREATE OR REPLACE TRIGGER t BEFORE INSERT ON a FOR EACH ROW\nBEGIN\n  :NEW.x := 'q;';\nEND;"


def texts(script: str) -> list[str]:
    return [statement.text for statement in split_script(script)]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", []),
        ("-- only a comment;\n/* ; */\n", []),
        ("SELECT 1 FROM dual;", ["SELECT 1 FROM dual"]),
        ("SELECT 1 FROM dual", ["SELECT 1 FROM dual"]),  # SQL*Plus would leave it out without a word
        ("SELECT 1\n\nFROM dual;\n", ["SELECT 1\n\nFROM dual"]),
        ("a;b;", ["a", "b"]),
        (";;\n;", []),
        ("SELECT ';' FROM dual;", ["SELECT ';' FROM dual"]),
        ("SELECT 'it''s;' FROM dual;", ["SELECT 'it''s;' FROM dual"]),
        ('SELECT ";" FROM dual;', ['SELECT ";" FROM dual']),
        ("SELECT q'[it's;]' FROM dual;", ["SELECT q'[it's;]' FROM dual"]),
        ("SELECT NQ'!it's;!' FROM dual;", ["SELECT NQ'!it's;!' FROM dual"]),
        ("SELECT 1 -- it's;\nFROM dual;", ["SELECT 1 -- it's;\nFROM dual"]),
        ("SELECT 1 /* it's; */ FROM dual;", ["SELECT 1 /* it's; */ FROM dual"]),
        ("SELECT a / b FROM t;", ["SELECT a / b FROM t"]),
        ("SELECT 1 FROM dual\n/\nSELECT 2 FROM dual\n / \n", ["SELECT 1 FROM dual", "SELECT 2 FROM dual"]),
        ("INSERT INTO t VALUES (1);\n/\n", ["INSERT INTO t VALUES (1)"] * 2),  # a slash repeats the last statement
        (f"{TRIGGER}\n/\nSELECT 1 FROM dual;", [TRIGGER, "SELECT 1 FROM dual"]),
        ("BEGIN NULL; END;\n/", ["BEGIN NULL; END;"]),
        ("begin null; end;", ["begin null; end;"]),
        ("DECLARE\n  x NUMBER;\nBEGIN\n  NULL;\nEND;\n/\n", ["DECLARE\n  x NUMBER;\nBEGIN\n  NULL;\nEND;"]),
        ("<<outer>>\nBEGIN NULL; END;\n/\n", ["<<outer>>\nBEGIN NULL; END;"]),
        (
            "create /* ; */ or replace\nnoneditionable package p as x number; end;\n/\n",
            ["create /* ; */ or replace\nnoneditionable package p as x number; end;"],
        ),
        ("CREATE TYPE ty AS OBJECT (x NUMBER);\n/\n", ["CREATE TYPE ty AS OBJECT (x NUMBER);"]),
        ("CREATE TABLE typeset (x NUMBER);\nDROP TABLE typeset;", ["CREATE TABLE typeset (x NUMBER)", "DROP TABLE typeset"]),
        ("EXEC p('a;b');\nexecute p", ["BEGIN p('a;b'); END;", "BEGIN p; END;"]),
        ("SET ECHO ON\nset define off;\nPROMPT it's; begun\nREM don't;\nSELECT 1 FROM dual;", ["SELECT 1 FROM dual"]),
        ("COLUMN a FORMAT a10 -\n  HEADING b\nSELECT 1 FROM dual;", ["SELECT 1 FROM dual"]),
        ("SET ROLE r;\nSET TRANSACTION READ ONLY;", ["SET ROLE r", "SET TRANSACTION READ ONLY"]),
        (
            "COMMENT ON TABLE t IS 'x';\nCOMMIT;\nLOCK TABLE t IN SHARE MODE;",
            ["COMMENT ON TABLE t IS 'x'", "COMMIT", "LOCK TABLE t IN SHARE MODE"],
        ),
        ("SELECT 1 FROM dual;\nEXIT\nSELECT 2 FROM dual;", ["SELECT 1 FROM dual"]),
        ("\ufeffSELECT 1\r\nFROM dual\r\n/\r\n", ["SELECT 1\nFROM dual"]),
        ("SELECT 'never closed; \n/\n", ["SELECT 'never closed; \n/"]),
    ],
)
def test_splits_as_sqlplus_does(script: str, expected: list[str]) -> None:
    assert texts(script) == expected


def test_numbers_and_lines_are_what_a_person_counts() -> None:
    statements = split_script("-- first\n\nSELECT 1\nFROM dual;\nSELECT 2 FROM dual; SELECT 3 FROM dual;\n/\n")
    assert [(statement.number, statement.line) for statement in statements] == [(1, 3), (2, 5), (3, 5), (4, 6)]


@pytest.mark.parametrize(
    "line", ["@other.sql", "@@other", "CONNECT a/b", "conn a/b", "DEFINE x = 1", "HOST ls", "! ls", "ACCEPT x", "START other"]
)
def test_refuses_with_its_line_what_only_sqlplus_can_do(line: str) -> None:
    with pytest.raises(ScriptError) as caught:
        split_script(f"SELECT 1 FROM dual;\n\n{line}\n")
    assert caught.value.line == 3


_WORD = st.sampled_from(["SELECT", "x", "1", "';'", "q'[;']'", '";"', "/* ; */", "-- ;\n", "\n", "(", ")"])


@given(st.lists(st.lists(_WORD, min_size=1, max_size=6).map(lambda words: "INSERT " + " ".join(words) + " y"), max_size=5))
def test_any_statements_joined_by_semicolons_come_back(statements: list[str]) -> None:
    assert texts(";\n".join(statements)) == statements


@given(st.text(alphabet="a;/'\"q[]-*\n \t@", max_size=60))
def test_never_hangs_nor_loses_its_place(script: str) -> None:
    try:
        statements = split_script(script)
    except ScriptError:
        return
    assert all(1 <= statement.line <= script.count("\n") + 1 and statement.text for statement in statements)
