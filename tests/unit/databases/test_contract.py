"""Contracts: what an image wants to be told, as data."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from pipeline.adapters import processes
from pipeline.config import read_config
from pipeline.databases.contract import CONTRACTS, DatabaseKind, load_kind, read_contract
from pipeline.databases.engine import Password
from pipeline.errors import ConfigurationError
from pipeline.integration.run import check_run, read_kind
from pipeline.plugins import ORACLE

NAMES = sorted(path.stem for path in CONTRACTS.glob("*.yaml"))
PASSWORDS = {"system": Password("SysGeheim1"), "postgres": Password("SysGeheim1"), "app": Password("AppGeheim1")}
PATHS = MappingProxyType({name: f"/run/pipeline/{name}" for name in PASSWORDS})
GOOD = """description: an image
engine: postgres
port: 5432
service: {default: app}
stop: {seconds: 30}
data: /data
limits: {memory: 1g, shm: 64m, processes: 100}
deadline: 60
"""


@dataclass(frozen=True)
class Case:
    text: str
    message: str


def kind_of(name: str) -> DatabaseKind:
    return load_kind(read_contract(CONTRACTS / f"{name}.yaml").engine, name)


@pytest.mark.parametrize("name", NAMES)
def test_no_contract_puts_a_password_into_the_environment(name: str) -> None:
    kind = kind_of(name)
    for value in kind.environment("app", kind.contract.service.default, PATHS).values():
        assert not any(password.value in value for password in PASSWORDS.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_image_learns_both_passwords_or_where_they_are(name: str) -> None:
    kind = kind_of(name)
    told = "\n".join(kind.environment("app", "other", PATHS).values())
    told += "\n".join(content.decode() for content in kind.files("app", "other", PATHS, PASSWORDS).values())
    assert "/run/pipeline/app" in told
    assert f"/run/pipeline/{kind.administrator}" in told or "SysGeheim1" in told
    assert "{" not in "".join(kind.environment("app", "other", PATHS).values())


@pytest.mark.parametrize("name", NAMES)
def test_no_script_of_a_contract_holds_a_password(name: str) -> None:
    kind = kind_of(name)
    for path, content in kind.files("app", "app", PATHS, PASSWORDS).items():
        if path in kind.contract.files:
            assert b"Geheim" not in content


def test_the_community_images_are_told_in_their_own_words() -> None:
    assert kind_of("oracle-community").environment("app", "FREEPDB1", PATHS) == {
        "ORACLE_PASSWORD_FILE": "/run/pipeline/system",
        "APP_USER": "app",
        "APP_USER_PASSWORD_FILE": "/run/pipeline/app",
    }


@pytest.mark.parametrize(("service", "created"), [("FREEPDB1", None), ("xepdb1", None), ("XE", None), ("LEDGER", "LEDGER")])
def test_a_service_that_the_image_does_not_bring_is_asked_for(service: str, created: str | None) -> None:
    assert kind_of("oracle-community").environment("app", service, PATHS).get("ORACLE_DATABASE") == created


def test_oracles_own_images_get_the_password_as_a_secret_of_theirs() -> None:
    kind = kind_of("oracle-vendor")
    assert kind.environment("app", "FREEPDB1", PATHS) == {}
    assert kind.files("app", "FREEPDB1", PATHS, PASSWORDS)["/run/secrets/oracle_pwd"] == b"SysGeheim1"


def test_their_start_script_gives_the_user_its_password_by_standard_input_only(tmp_path: Path) -> None:
    """Played with a program in place of sqlplus: the images themselves are not at hand."""
    (tmp_path / "app").write_text("AppGeheim1")
    sqlplus = tmp_path / "sqlplus"
    sqlplus.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/arguments\ncat >{tmp_path}/script\n')
    sqlplus.chmod(0o755)
    paths = {"system": f"{tmp_path}/system", "app": f"{tmp_path}/app"}
    files = kind_of("oracle-vendor").files("app", "FREEPDB1", paths, PASSWORDS)
    (tmp_path / "start.sh").write_bytes(files["/opt/oracle/scripts/startup/000-application-user.sh"])
    path = f"{tmp_path}:{os.environ['PATH']}"
    command = ["bash", "-c", f'. "{tmp_path}/start.sh"; echo "still here"']  # the images read it into their own shell
    ended = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == [kind_of("oracle-vendor").ready_line, "still here"]
    assert (tmp_path / "arguments").read_text() == "-S / as sysdba\n"
    script = (tmp_path / "script").read_text()
    assert [statement.text.partition("\n")[0] for statement in ORACLE.split(script)] == [
        "ALTER SESSION SET CONTAINER = FREEPDB1",
        "DECLARE found NUMBER; password VARCHAR2(128);",
    ]
    assert "password := 'AppGeheim1';" in script
    assert "UPPER('app')" in script


def test_without_a_name_the_engine_says_which_contract_is_meant() -> None:
    assert load_kind("oracle").contract.name == "oracle-community"


def test_a_contract_of_ones_own_is_a_file_beside_pipeline_yaml(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD.replace("postgres", "oracle"))
    assert load_kind("oracle", "mine.yaml", tmp_path).contract.name == "mine"


def test_a_contract_of_another_engine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'postgres-official' is one of the engine 'postgres', not of 'oracle'"):
        load_kind("oracle", "postgres-official")


def test_a_contract_that_is_not_there_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_kind("oracle", "oracle-comunity")
    assert "Did you mean 'oracle-community'?" in caught.value.hint


CASES: Sequence[Case] = (
    Case(GOOD + "ready: now\n", "mine.yaml:9: unknown key 'ready'"),
    Case(GOOD.replace("port: 5432", "port: 0"), "mine.yaml:3: 'port': expected a whole number >= 1"),
    Case(GOOD.replace("1g", "lots"), "mine.yaml:7: 'limits.memory': expected text matching"),
    Case(GOOD + "environment:\n  A: x\n  B: '{pasword}'\n", "mine.yaml:11: 'environment.B': there is no placeholder {pasword}"),
    Case(GOOD + "files: {etc/x: y}\n", "mine.yaml:9: 'files.etc/x': is not an absolute path"),
    Case(GOOD.replace("engine: postgres\n", ""), "mine.yaml:1: the key 'engine' is missing"),
    Case(GOOD.replace("/data", "data"), "mine.yaml:6: 'data': expected text matching"),
)


@pytest.mark.parametrize("case", CASES, ids=[case.message.split(":", 2)[2] for case in CASES])
def test_a_mistake_is_told_with_file_line_and_key(case: Case, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(case.text)
    with pytest.raises(ConfigurationError) as caught:
        read_contract(tmp_path / "mine.yaml")
    assert caught.value.message.startswith(case.message)


def test_braces_of_a_shell_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD.replace("postgres", "oracle") + "files: {/x.sh: 'echo ${HOME} {user}'}\n")
    kind = load_kind("oracle", "mine.yaml", tmp_path)
    assert kind.files("app", "s", PATHS, PASSWORDS) == {"/x.sh": b"echo ${HOME} app"}


def test_the_contract_in_the_docs_is_one(tmp_path: Path) -> None:
    docs = (Path(__file__).resolve().parents[3] / "docs" / "databases.md").read_text()
    (tmp_path / "database.yaml").write_text(
        next(block for block in docs.split("```yaml\n") if block.startswith("description:")).split("```")[0]
    )
    kind = load_kind("postgres", "database.yaml", tmp_path)
    assert b"cat /run/pipeline/app" in kind.files("app", "app", PATHS, PASSWORDS)["/docker-entrypoint-initdb.d/000-user.sql"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("engine: postgress", "pipeline.yaml:4: 'itest.engine': there is no database engine 'postgress'"),
        ("contract: postgres-oficial", "pipeline.yaml:4: 'itest.contract': there is no contract 'postgres-oficial'"),
        (
            "contract: postgres-official",
            "pipeline.yaml:4: 'itest.contract': the contract 'postgres-official' is one of the engine 'postgres'",
        ),
        ("contract: mine.yaml", "pipeline.yaml:4: 'itest.contract': mine.yaml:9: unknown key 'ready'"),
    ],
)
def test_a_mistake_in_the_configuration_is_told_with_its_line(lines: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text(f"registry: localhost:5000\nnamespace: a\nitest:\n  {lines}\n")
    (tmp_path / "mine.yaml").write_text(GOOD + "ready: now\n")
    with pytest.raises(ConfigurationError) as caught:
        read_kind(read_config(tmp_path))
    assert caught.value.message.startswith(message)


def test_the_contract_says_what_the_configuration_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text("registry: localhost:5000\nnamespace: a\nitest: {engine: postgres, run: [sh], shm: 64m}\n")
    config = read_config(tmp_path)
    spec = check_run(config, "postgres:17", read_kind(config), processes).database
    assert (spec.service, spec.memory, spec.shm, spec.processes, spec.deadline) == ("app", "1g", "64m", 512, 120)
