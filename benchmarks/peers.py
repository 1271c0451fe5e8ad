"""The test bracket beside testcontainers-python and pytest-docker: the same image, the same preparation, the same 20 tests."""

from __future__ import annotations

import importlib.util
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.cases import MEMORY_GOAL, Outcome
from benchmarks.measure import Run, Series, in_turn, memory_of, run_command, seconds_of
from benchmarks.project import TASKS, commit
from benchmarks.stage import INVOKE, Stage

TABLES, TESTS = 100, 20
BRACKET_GOAL, QUERY_GOAL = 0.7, 0.5
NOTE = "the stand-in is PostgreSQL behind Oracle's protocol: figures on it are PostgreSQL's"

# Each peer's own documented way; what is prepared and what is tested is the same text.
_TESTS = f"""
import os, time
import pytest

FIRST = os.environ["BENCHMARK_FIRST_QUERY"]

@pytest.mark.parametrize("number", range({TESTS}))
def test_rows(connection, number):
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO TABLE_{{number:03}} (ID, NAME) VALUES (:1, :2)", [number, "one"])
        cursor.execute(f"SELECT COUNT(*) FROM TABLE_{{number:03}}")
        assert cursor.fetchone()[0] == 1
    if not os.path.exists(FIRST):
        open(FIRST, "w").write(repr(time.time()))
"""
_OURS = """
import os
import oracledb, pytest

@pytest.fixture(scope="session")
def connection():
    with oracledb.connect(user=os.environ["DB_USER"], password=os.environ["DB_PASSWORD"], dsn=os.environ["DB_DSN"]) as connection:
        yield connection
"""
_PREPARE = """
def prepare(connection):
    with open("prepare/tables.sql") as file, connection.cursor() as cursor:
        for statement in file.read().split(";"):
            if statement.strip():
                cursor.execute(statement)
    connection.commit()
"""
_TESTCONTAINERS = f"""
import os, secrets
import oracledb, pytest
from testcontainers.community.oracle import OracleDbContainer
{_PREPARE}
@pytest.fixture(scope="session")
def connection():
    password = secrets.token_hex(12)
    with OracleDbContainer(os.environ["BENCHMARK_IMAGE"], oracle_password=password, username="app", password=password) as database:
        dsn = f"{{database.get_container_host_ip()}}:{{database.get_exposed_port(1521)}}/FREEPDB1"
        with oracledb.connect(user="app", password=password, dsn=dsn) as connection:
            prepare(connection)
            yield connection
"""
_PYTEST_DOCKER = f"""
import os
import oracledb, pytest
{_PREPARE}
@pytest.fixture(scope="session")
def docker_compose_file():
    return "docker-compose.yml"

@pytest.fixture(scope="session")
def connection(docker_ip, docker_services):
    dsn = f"{{docker_ip}}:{{docker_services.port_for('database', 1521)}}/FREEPDB1"
    found = []
    def answers():
        try:
            found.append(oracledb.connect(user="app", password=os.environ["BENCHMARK_PASSWORD"], dsn=dsn))
        except oracledb.Error:
            return False
        return True
    docker_services.wait_until_responsive(timeout=60.0, pause=0.1, check=answers)
    with found[0] as connection:
        prepare(connection)
        yield connection
"""
_COMPOSE = """
services:
  database:
    image: ${BENCHMARK_IMAGE}
    environment: {ORACLE_PASSWORD: "${BENCHMARK_PASSWORD}", APP_USER: app, APP_USER_PASSWORD: "${BENCHMARK_PASSWORD}"}
    ports: ["127.0.0.1::1521"]
"""


def measure_peers(stage: Stage, rounds: int) -> list[Outcome]:
    """From the command to the first query of the first test, and to the end of the command, the database gone.

    The goals are those of a baked database; the same with its preparation stands beside them.
    """
    bench = _Bench(stage, stage.own_image("oracle-standin"))
    ours = {
        "baked": bench.project("baked", _OURS, [INVOKE, "itest"], "local"),
        "prepared": bench.project("prepared", _OURS, [INVOKE, "itest"], "never"),
    }
    bench.bake("baked")
    peers = {"testcontainers": bench.project("testcontainers", _TESTCONTAINERS, _PYTEST)}
    reason = _why_not_pytest_docker()
    if not reason:
        peers["pytest-docker"] = bench.project("pytest-docker", _PYTEST_DOCKER, _PYTEST)
    found = []
    for peer, theirs in peers.items():
        for way, mine in ours.items():
            found += _beside(f"invoke itest, {way}", mine, f"pytest with {peer}", theirs, rounds)
    if reason:
        found.append(Outcome(f"{TESTS} tests, {TABLES} tables : pytest-docker", "x", BRACKET_GOAL, None, note=reason))
    return found


_PYTEST = [sys.executable, "-m", "pytest", "-q", "tests", "-p", "no:cacheprovider"]


class _Bench:
    """Makes the projects and runs them, noting when the first query was answered."""

    def __init__(self, stage: Stage, image: str) -> None:
        self._stage = stage
        self._environment = {
            **stage.environment,
            "BENCHMARK_IMAGE": image,
            "BENCHMARK_PASSWORD": secrets.token_hex(12),
            "TESTCONTAINERS_RYUK_DISABLED": "true",  # its image comes from a public registry; without it the peer is quicker
        }
        self._image = image

    def bake(self, name: str) -> None:
        """Make the prepared database of a project an image."""
        run_command([INVOKE, "db.bake"], self._stage.folder / f"peers-{name}", self._environment)

    def project(self, name: str, fixture: str, command: list[str], bake: str = "never") -> Callable[[], tuple[Run, float]]:
        """A project whose tests are run by `command`: the run, and the seconds until its first query was answered."""
        folder = self._stage.folder / f"peers-{name}"
        first = folder / "first-query"
        tables = ";\n".join(f"CREATE TABLE TABLE_{number:03} (ID INTEGER PRIMARY KEY, NAME VARCHAR2(100))" for number in range(TABLES))
        _write(
            folder,
            {
                "tasks.py": TASKS,
                ".gitignore": ".pipeline/\n__pycache__/\nfirst-query\n",
                "pipeline.yaml": _config(self._stage, self._image, bake),
                "prepare/tables.sql": tables + ";\n",
                "docker-compose.yml": _COMPOSE,
                "tests/conftest.py": fixture,
                "tests/test_rows.py": _TESTS,
            },
        )
        commit(folder)
        environment: Mapping[str, str] = {**self._environment, "BENCHMARK_FIRST_QUERY": str(first)}

        def run() -> tuple[Run, float]:
            first.unlink(missing_ok=True)
            begun = time.time()  # the clock that the tests read, too, in their own process
            done = run_command(command, folder, environment)
            return done, float(first.read_text(encoding="utf-8")) - begun

        return run


def _beside(
    mine: str, ours: Callable[[], tuple[Run, float]], other: str, theirs: Callable[[], tuple[Run, float]], rounds: int
) -> list[Outcome]:
    queries: dict[str, list[float]] = {mine: [], other: []}

    def noted(name: str, run: Callable[[], tuple[Run, float]]) -> Callable[[], Run]:
        def call() -> Run:
            done, query = run()
            queries[name].append(query)
            return done

        return call

    a, b = in_turn(noted(mine, ours), noted(other, theirs), max(3, rounds // 2))
    whole = {mine: seconds_of(a), other: seconds_of(b)}
    first = {name: Series(tuple(seconds[1:])) for name, seconds in queries.items()}  # without the run that is not counted
    memory = {mine: memory_of(a), other: memory_of(b)}
    case = f"{mine} : {other}"
    return [
        Outcome(f"{TESTS} tests, {TABLES} tables, {case}", "x", BRACKET_GOAL, _ratio(whole), whole, NOTE),
        Outcome(f"command to first query, {case}", "x", QUERY_GOAL, _ratio(first), first, NOTE),
        Outcome(f"memory, {case}", "MB", MEMORY_GOAL, max(memory[mine].values), memory, "of the largest process"),
    ]


def _ratio(series: Mapping[str, Series]) -> float:
    first, second = series.values()
    return first.median / second.median


def _why_not_pytest_docker() -> str:
    if importlib.util.find_spec("pytest_docker") is None:
        return "pytest-docker is not installed: pip install pytest-docker"
    compose = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return "" if compose.returncode == 0 else "docker compose is not installed (Debian, Ubuntu: docker-compose-v2 or docker-compose)"


def _config(stage: Stage, image: str, bake: str) -> str:
    lines = [f"registry: {stage.registry}", f"namespace: {stage.namespace}", "itest:", f"  image: {image}", f"  bake: {bake}"]
    lines.append("  prepare: [{sql: prepare}]")
    return "\n".join([*lines, "  run: [python, -m, pytest, -q, tests, -p, 'no:cacheprovider']"]) + "\n"


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
