"""`--workers`: forks of a test run that know nothing but their number, each with a database state of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from pipeline.adapters.docker_engine import DockerEngine
from pipeline.sessions import PROJECT
from tests.engine.checkouts import Checkout
from tests.engine.conftest import own_image, wait_for

# What a test runner does with forks: a few programs at once, each told its number, each with tests that would disturb the others.
RUNNER = """
import os, subprocess, sys
count = int(os.environ["DB_WORKERS"])
forks = [subprocess.Popen([sys.executable, "fork.py", str(number)]) for number in range(1, count + 1)]
sys.exit(max(fork.wait() for fork in forks))
"""
FORK = """
import json, os, sys
from pathlib import Path
{connect}
number = sys.argv[1]
mine = {{name: os.environ[f"DB_{{number}}_{{name}}"] for name in ("USER", "PASSWORD", "DSN", "JDBC_URL", "HOST", "PORT", "SERVICE")}}
properties = dict(
    line.split("=", 1) for line in Path(os.environ["PIPELINE_DATABASE_PROPERTIES"]).read_text().splitlines()
)
assert properties[f"db.{{number}}.user"] == mine["USER"] and properties["db.workers"] == os.environ["DB_WORKERS"]
with connect(mine) as connection, connection.cursor() as cursor:
    for round in range(3):
        cursor.execute("SELECT name FROM customer ORDER BY name")
        assert cursor.fetchall() == [("a",), ("b",)], number
        cursor.execute("DELETE FROM customer")
        cursor.execute("INSERT INTO customer VALUES ('" + number + "')")
        connection.commit()
        cursor.execute("SELECT name FROM customer")
        assert cursor.fetchall() == [(number,)], number
        cursor.execute("DELETE FROM customer")
        cursor.execute("INSERT INTO customer VALUES ('a')")
        cursor.execute("INSERT INTO customer VALUES ('b')")
        connection.commit()
    cursor.execute("DROP TABLE customer")
    connection.commit()
Path(f"seen-{{number}}").write_text(json.dumps(mine))
"""
POSTGRES = 'import psycopg\nconnect = lambda mine: psycopg.connect(mine["DSN"], user=mine["USER"], password=mine["PASSWORD"])'
ORACLE = 'import oracledb\nconnect = lambda mine: oracledb.connect(dsn=mine["DSN"], user=mine["USER"], password=mine["PASSWORD"])'
SCHEMA = "CREATE TABLE customer (name VARCHAR(20));\nINSERT INTO customer VALUES ('a');\nINSERT INTO customer VALUES ('b');\n"
ENGINES = {"postgres": ("postgres", "engine: postgres", POSTGRES), "oracle": ("oracle-standin", "engine: oracle", ORACLE)}


@pytest.fixture
def make_project(make_checkout: Callable[[], Checkout]) -> Callable[..., Checkout]:
    def make(engine: str, *lines: str) -> Checkout:
        image, line, connect = ENGINES[engine]
        found = make_checkout()
        found.configure(own_image(image), line, "prepare: [{sql: sql}]", *lines, run=(sys.executable, "runner.py"))
        found.write("sql/01.sql", SCHEMA)
        found.write("runner.py", RUNNER)
        found.write("fork.py", FORK.format(connect=connect))
        return found

    return make


def seen(checkout: Checkout) -> list[dict[str, str]]:
    return [json.loads(path.read_text()) for path in sorted(checkout.root.glob("seen-*"))]


@pytest.mark.parametrize("engine", ENGINES)
def test_each_fork_has_a_state_of_its_own_and_none_is_left(make_project: Callable[..., Checkout], engine: str) -> None:
    checkout = make_project(engine)
    checkout.start()
    try:
        for _ in range(2):  # the second run finds the prepared state, whatever the forks of the first one did
            ended = checkout.invoke("run-tests", "--workers", "3")
            assert ended.code == 0, ended.err
            assert "workers: 3 × a schema of their own" in ended.err
            forks = seen(checkout)
            assert len({(fork["USER"], fork["SERVICE"]) for fork in forks}) == len(forks) == 3
        properties = next((checkout.root / ".pipeline").glob("database*.properties")).read_text()
        assert "db.jdbc.url=" in properties
        assert "db.1." not in properties
        left = subprocess.run(
            [sys.executable, "-m", "invoke", "db.shell", "--system"],
            input="SELECT datname FROM pg_database;\n" if engine == "postgres" else "SELECT username FROM all_users;\n",
            cwd=checkout.root,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "template1" in left.stdout or "APP" in left.stdout.upper()
        assert "worker_" not in left.stdout.lower()
        assert "original_" not in left.stdout.lower()
    finally:
        assert checkout.invoke("stop-oracle").code == 0
    checkout.assert_nothing_left()


def test_a_container_for_each_fork(make_project: Callable[..., Checkout]) -> None:
    checkout = make_project("postgres", "isolation: container")
    ended = checkout.invoke("itest", "--workers", "2")
    assert ended.code == 0, ended.err
    assert len({fork["PORT"] for fork in seen(checkout)}) == 2
    checkout.assert_nothing_left()


def test_a_failed_fork_fails_the_run_and_its_password_is_not_shown(make_project: Callable[..., Checkout]) -> None:
    checkout = make_project("oracle")
    checkout.write(
        "fork.py",
        "import os, sys\nfrom pathlib import Path\n"
        "text = '<testsuite name=\"s\"><testcase name=\"t\"><failure>' + os.environ['DB_2_PASSWORD'] + '</failure></testcase></testsuite>'\n"
        "Path(os.environ['PIPELINE_RESULTS'], 'junit-' + sys.argv[1] + '.xml').write_text(text)\n"
        "Path('password').write_text(os.environ['DB_2_PASSWORD'])\nsys.exit(1)\n",
    )
    ended = checkout.invoke("itest", "--workers", "2")
    assert ended.code == 42, ended.err
    password = (checkout.root / "password").read_text()
    assert len(password) > 10
    assert not [path for path in checkout.results.rglob("*") if path.is_file() and password in path.read_text(errors="replace")]
    checkout.assert_nothing_left()


def test_a_killed_run_leaves_no_container_of_a_worker(make_project: Callable[..., Checkout]) -> None:
    checkout = make_project("postgres", "isolation: container")
    checkout.write("runner.py", "import os, pathlib, time\npathlib.Path('testing').write_text(str(os.getpid()))\ntime.sleep(60)\n")
    checkout.start()
    try:
        process = checkout.begin("run-tests", "--workers", "2")
        wait_for(lambda: (path := checkout.root / "testing").exists() and path.read_text(), "the tests run", 60.0)
        assert len(checkout.containers) == 3
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.kill(int((checkout.root / "testing").read_text()), signal.SIGKILL)  # the test command outlives a bracket that is killed
        process.communicate()
        wait_for(lambda: len(checkout.containers) == 1, "the containers of the workers are gone", 30.0)
    finally:
        assert checkout.invoke("stop-oracle").code == 0
    checkout.assert_nothing_left()


@pytest.mark.parametrize("number", ["-1", "65"])
def test_how_many_there_may_be(make_project: Callable[..., Checkout], number: str) -> None:
    checkout = make_project("postgres")
    ended = checkout.invoke("itest", f"--workers={number}")
    assert ended.code == 10
    assert "1 to 64" in ended.err
    assert DockerEngine().list_containers({PROJECT: checkout.project}) == []
