"""What a baked database is known by, and when a database must not become one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.config import Step
from pipeline.databases.bake import (
    ACCOUNTS,
    Fingerprint,
    baked_reference,
    labels_of,
    left_behind,
    make_fingerprint,
    read_baked,
    read_programs,
    rotating,
    unclean,
    why_not,
)
from pipeline.databases.contract import DatabaseKind, Limits, PasswordFiles, Scripts, Service, Stop, load_kind
from pipeline.databases.engine import Password, Statement
from pipeline.databases.prepare import Program, Script
from pipeline.databases.states import StatementError
from pipeline.errors import ConfigurationError

IMAGE = "sha256:" + "a" * 64
READY = b"DATABASE IS READY TO USE!\n"
CLEAN = READY + b"CONTAINER: shutdown requested.\nCONTAINER: stopped.\n"


@pytest.fixture(scope="module")
def kind() -> DatabaseKind:
    return load_kind("oracle")


def script(*texts: str, user: str = "app", shown: str = "a.sql") -> Script:
    return Script(shown, user, [Statement(text, line=number, number=number) for number, text in enumerate(texts, 1)])


def fingerprint_of(
    kind: DatabaseKind,
    image: str = IMAGE,
    service: str = "FREEPDB1",
    user: str = "app",
    steps: Sequence[Script | Program] = (script("CREATE TABLE a (b INTEGER)"), Program(("flyway", "migrate"))),
    reads: Sequence[str] = ("1",),
) -> Fingerprint:
    return make_fingerprint(kind, image, service, user, steps, reads)


def test_the_same_inputs_have_the_same_fingerprint(kind: DatabaseKind) -> None:
    again = fingerprint_of(load_kind("oracle"))
    assert fingerprint_of(kind) == again
    assert fingerprint_of(kind).differences(again.inputs) == []


def test_names_of_scripts_do_not_matter(kind: DatabaseKind) -> None:
    renamed: list[Script | Program] = [script("CREATE TABLE a (b INTEGER)", shown="sql/01-a.sql"), Program(("flyway", "migrate"))]
    assert fingerprint_of(kind, steps=renamed).value == fingerprint_of(kind).value


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image": "sha256:" + "b" * 64}, ["image"]),
        ({"service": "FREE"}, ["service"]),
        ({"user": "ledger"}, ["environment", "user"]),
        ({"steps": [script("CREATE TABLE a (c INTEGER)"), Program(("flyway", "migrate"))]}, ["step 1"]),
        ({"steps": [script("CREATE TABLE a (b INTEGER)", user="system"), Program(("flyway", "migrate"))]}, ["step 1"]),
        ({"steps": [script("CREATE TABLE a (b INTEGER)"), Program(("flyway", "repair"))]}, ["step 2"]),
        ({"steps": [Program(("flyway", "migrate")), script("CREATE TABLE a (b INTEGER)")]}, ["step 1", "step 2"]),
        ({"steps": [script("CREATE TABLE a (b INTEGER)")]}, ["step 2"]),
        ({"reads": ("2",)}, ["step 2"]),
    ],
)
def test_each_input_changes_it_and_is_named(kind: DatabaseKind, change: dict[str, object], named: list[str]) -> None:
    changed = fingerprint_of(kind, **change)  # type: ignore[arg-type] # as the table has them
    assert changed.value != fingerprint_of(kind).value
    assert changed.differences(fingerprint_of(kind).inputs) == named


def test_statements_are_not_taken_for_each_other(kind: DatabaseKind) -> None:
    one, two = (fingerprint_of(kind, steps=[script(*texts)], reads=()).value for texts in (("a", "b"), ("a\0b",)))
    assert one != two


def test_another_contract_is_another_database(kind: DatabaseKind) -> None:
    other = replace(kind, contract=msgspec.structs.replace(kind.contract, environment={**kind.contract.environment, "NLS_LANG": "x"}))
    assert fingerprint_of(other).differences(fingerprint_of(kind).inputs) == ["contract", "environment"]


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"name": "x", "description": "x", "ready_line": "x", "deadline": 1.0}, False),
        ({"stop": Stop(1.0), "limits": Limits("1g", "1g", 99)}, False),
        ({"bake": ("stopped", ("x",))}, False),
        ({"bake": ("exit_codes", (7,))}, False),
        ({"bake": ("run", ("x",))}, True),
        ({"files": {"/x": "y"}}, True),
        ({"data": "/x"}, True),
        ({"port": 1}, True),
        ({"scripts": Scripts(start="/x")}, True),
        ({"service": Service("X")}, True),
        ({"password_files": PasswordFiles("/x")}, True),
    ],
)
def test_of_a_contract_counts_what_is_in_the_database(kind: DatabaseKind, change: dict[str, Any], counts: bool) -> None:
    if "bake" in change:
        assert kind.contract.bake
        key, value = change["bake"]
        change = {"bake": msgspec.structs.replace(kind.contract.bake, **{key: value})}
    other = replace(kind, contract=msgspec.structs.replace(kind.contract, **change))
    assert fingerprint_of(other).differences(fingerprint_of(kind).inputs) == (["contract"] if counts else [])


def test_what_a_program_reads_counts_by_name_and_content(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    (tmp_path / "db/V1.sql").write_text("a")
    (tmp_path / "seed.py").write_text("1")
    steps = [Step(run=("python", "seed.py"), reads=("db/*.sql",)), Step(sql="x.sql")]
    seen = [read_programs(tmp_path, steps)]
    for path, text in (("db/V1.sql", "b"), ("db/V2.sql", "b"), ("seed.py", "2")):
        (tmp_path / path).write_text(text)
        seen.append(read_programs(tmp_path, steps))
    (tmp_path / "unrelated.txt").write_text("x")
    assert len(set(seen)) == 4
    assert read_programs(tmp_path, steps) == seen[-1]
    (tmp_path / "db/V2.sql").rename(tmp_path / "db/V3.sql")
    assert read_programs(tmp_path, steps) != seen[-1]


def test_a_program_that_does_not_say_what_it_reads_is_not_baked(tmp_path: Path, kind: DatabaseKind) -> None:
    reads = read_programs(tmp_path, [Step(run=("flyway", "migrate"))])
    assert "does not say what 'flyway' reads" in why_not(kind, (), reads)
    assert why_not(kind, (), read_programs(tmp_path, [Step(run=("flyway", "migrate"), reads=())])) == ""


def test_data_in_a_volume_cannot_be_baked(kind: DatabaseKind) -> None:
    assert "in the volume /opt/oracle" in why_not(kind, ["/opt/oracle", "/tmp/x"])
    assert why_not(kind, ["/opt/oracle/oradata/below", "/var"]) == ""


def test_an_image_that_runs_no_script_at_its_start_cannot_be_baked() -> None:
    assert why_not(load_kind("postgres", "postgres-official"), ()) != ""


@pytest.mark.parametrize(
    ("code", "out_of_memory", "log", "why"),
    [
        (0, False, CLEAN, ""),
        (143, False, READY + b"Database dismounted.\nORACLE instance shut down.\n", ""),
        (0, False, b"CONTAINER: stopped.\n", "did not come to its end"),
        (0, False, b"CONTAINER: stopped.\n" + READY, "did not say"),
        (137, False, CLEAN, "exit code 137"),
        (1, False, CLEAN, "exit code 1"),
        (0, True, CLEAN, "want of memory"),
        (0, False, READY, "did not say"),
    ],
)
def test_only_a_clean_stop_after_a_whole_initialisation_is_baked(
    kind: DatabaseKind, code: int, out_of_memory: bool, log: bytes, why: str
) -> None:
    reason = unclean(kind, code, out_of_memory, log)
    assert (why in reason) if why else reason == ""


@pytest.mark.parametrize(
    ("registry", "image", "reference"),
    [
        ("127.0.0.1:5000", "docker.io/gvenzl/oracle-free:23-slim", "127.0.0.1:5000/shop/databases/oracle-free:t"),
        ("example.com/team", "127.0.0.1:5000/shop/oracle-standin:content-1", "example.com/team/shop/databases/oracle-standin:t"),
        ("example.com", "oracle-standin", "example.com/shop/databases/oracle-standin:t"),
    ],
)
def test_it_is_named_like_the_image_below_the_projects_namespace(registry: str, image: str, reference: str) -> None:
    assert str(baked_reference(registry, "shop", image, "t")) == reference


def test_an_image_is_known_by_its_whole_fingerprint(kind: DatabaseKind) -> None:
    fingerprint = fingerprint_of(kind)
    labels = labels_of(fingerprint, "shop", ["A", "B C"])
    found = read_baked("x:y", labels, fingerprint)
    assert found is not None
    assert found.accounts == ("A", "B C")
    other = fingerprint_of(kind, user="other")
    assert read_baked("x:y", labels, other) is None
    assert json.loads(labels["pipeline.database.inputs"])["user"] == "app"
    assert read_baked("x:y", {**labels, ACCOUNTS: ""}, fingerprint) is not None


def test_oracles_script_changes_common_accounts_in_the_root(kind: DatabaseKind) -> None:
    passwords = {"system": Password("Sys1"), "app": Password("App1"), "C##ALL": Password("All1"), "Odd": Password("Odd1")}
    lines = rotating(kind).password_script("XEPDB1", "app", passwords).splitlines()
    assert lines[0] == "WHENEVER SQLERROR EXIT FAILURE"
    changed = [line for line in lines if line.startswith(("ALTER USER", "ALTER SESSION SET CONTAINER"))]
    assert [line.split(" /*")[0].rstrip(";") for line in changed] == [
        "ALTER SESSION SET CONTAINER = CDB$ROOT",
        'ALTER USER "C##ALL" IDENTIFIED BY "All1"',
        'ALTER USER "SYS" IDENTIFIED BY "Sys1"',
        'ALTER USER "SYSTEM" IDENTIFIED BY "Sys1"',
        "ALTER SESSION SET CONTAINER = XEPDB1",
        'ALTER USER "Odd" IDENTIFIED BY "Odd1"',
        'ALTER USER "APP" IDENTIFIED BY "App1"',  # last: whoever can log in as the user takes all for done
    ]


def test_the_users_password_is_the_last_that_postgresql_changes() -> None:
    passwords = {"postgres": Password("P1"), "app": Password("A1"), "other": Password("O1")}
    lines = rotating(load_kind("postgres", "postgres")).password_script("app", "app", passwords).splitlines()
    assert [line.split()[2] for line in lines if line.startswith("ALTER ROLE")] == ['"postgres"', '"other"', '"app"']


def test_the_images_own_accounts_are_among_those_to_change(kind: DatabaseKind) -> None:
    def rows(query: str) -> list[tuple[str]]:
        assert "dba_users" in query
        return [("SYS",), ("SYSTEM",), ("PDBADMIN",), ("C##ALL",), ("Odd one",), ("APP",)]

    assert rotating(kind).other_accounts(rows, "app") == {"PDBADMIN", "C##ALL", "Odd one"}


def test_only_where_there_is_no_dba_users_the_stand_ins_accounts_are_asked_for(kind: DatabaseKind) -> None:
    def rows(error: str, query: str) -> list[tuple[str]]:
        if "dba_users" in query:
            raise StatementError(error)
        return [("SYS",), ("SYSTEM",), ("APP",), ("OTHER",)]

    assert rotating(kind).other_accounts(partial(rows, "ORA-00942: no such table"), "app") == {"OTHER"}
    with pytest.raises(StatementError):
        rotating(kind).other_accounts(partial(rows, "ORA-01031: insufficient privileges"), "app")


def test_an_engine_that_cannot_replace_passwords_says_so(kind: DatabaseKind) -> None:
    with pytest.raises(ConfigurationError, match="cannot replace passwords"):
        rotating(replace(kind, engine=object()))  # type: ignore[arg-type] # on purpose


def test_what_was_left_behind_is_found_below_folders_but_not_beside_them() -> None:
    changed = ["/run", "/run/pipeline", "/run/pipeline/app", "/run/pipeline2", "/etc/x"]
    assert left_behind(changed, ["/run/pipeline", "/etc/x"]) == ["/run/pipeline", "/run/pipeline/app", "/etc/x"]
