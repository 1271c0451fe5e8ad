"""The pytest plugin as its users run it: pytest in a process of its own, with workers, against real databases.

What the tests inside saw they write down, one JSON document each, and the tests here count: containers, states, rows.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.docker_engine import DockerEngine
from pipeline.sessions import PROJECT
from tests.engine.conftest import own_image, wait_for

SCHEMA = """
CREATE TABLE account (id INTEGER PRIMARY KEY, name VARCHAR2(30));
CREATE SEQUENCE numbers;
INSERT INTO account VALUES (1, 'prepared');
"""
# What every project has: a fixture that writes down where the test was, and a short way to ask.
CONFTEST = """
import json, os, uuid
from pathlib import Path
import pytest

@pytest.fixture
def seen(request):
    def write(**facts):
        worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        document = {"test": request.node.name, "worker": worker, **facts}
        Path("seen", uuid.uuid4().hex).write_text(json.dumps(document))
    return write

def rows(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, name FROM account ORDER BY id")
        return [list(row) for row in cursor.fetchall()]
"""
HEAD = "import pytest\nfrom conftest import rows\n\nPREPARED = [[1, 'prepared']]\n\n"


@dataclass
class Project:
    """A project whose tests are run by pytest in a process of its own."""

    root: Path
    name: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:10]}")
    engine: DockerEngine = field(default_factory=DockerEngine)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def configure(self, image: str, *lines: str, prepare: str = "{sql: schema.sql}") -> None:
        head = ["registry: localhost:5000", "namespace: ledger", f"project: {self.name}"]
        itest = [f"image: {image}", f"prepare: [{prepare}]", "deadline: 60", *lines]
        self.write("pipeline.yaml", "\n".join([*head, "itest:", *(f"  {line}" for line in itest)]) + "\n")

    def invoke(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        self.write("tasks.py", "from pipeline.tasks import namespace\n")
        command = [sys.executable, "-m", "invoke", *arguments]
        return subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False, timeout=120)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rA", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        own = ("DB_", "PYTEST_", "PIPELINE_", "COV")
        return {name: value for name, value in os.environ.items() if not name.startswith(own)}

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def outcomes(self, result: subprocess.CompletedProcess[str]) -> dict[str, int]:
        return {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?)", result.stdout.splitlines()[-1])}

    @property
    def seen(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text(encoding="utf-8")) for path in (self.root / "seen").iterdir()]

    @property
    def containers(self) -> list[str]:
        return [container.id for container in self.engine.list_containers({PROJECT: self.name})]


@pytest.fixture
def project(tmp_path: Path, standin_image: str) -> Iterator[Project]:
    made = Project(tmp_path)
    made.configure(standin_image)
    made.write("schema.sql", SCHEMA)
    made.write("pytest.ini", "[pytest]\naddopts = --strict-markers --import-mode=prepend\nfilterwarnings = error\n")
    made.write("conftest.py", CONFTEST)
    (tmp_path / "seen").mkdir()
    yield made
    for container in made.containers:
        made.engine.remove_container(container)


def assert_nothing_left(project: Project) -> None:
    assert project.containers == []
    assert not [path for path in Path(tempfile.gettempdir()).glob("pipeline-pytest-*") if project.name in (path / "session").read_text()]


def guardians(project: Project) -> list[str]:
    """The processes that watch over what the project's runs have started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes().decode(errors="replace")
            if "pipeline.guardian" in command and project.name in command:
                found.append(command)
    return found


def test_one_database_for_all_workers_and_a_state_for_each_test(project: Project) -> None:
    project.write(
        "test_it.py",
        HEAD
        + f"""
from pipeline.adapters.docker_engine import DockerEngine

@pytest.mark.parametrize("number", range(8))
def test_state(number, database, schema, connection, seen):
    before = rows(connection)
    with connection.cursor() as cursor:
        cursor.execute("SELECT numbers.NEXTVAL FROM dual")
        drawn = cursor.fetchone()[0]
        cursor.execute(f"INSERT INTO account VALUES ({{number + 10}}, 'mine')")
        if number % 4 == 1:
            cursor.execute("CREATE TABLE extra (id INTEGER)")
        if number % 4 == 2:
            cursor.execute("DROP TABLE account")
    connection.commit()
    after = rows(connection) if number % 4 != 2 else None
    containers = len(DockerEngine().list_containers({{"{PROJECT}": "{project.name}"}}))
    seen(port=database.address.port, state=schema.name, before=before, drawn=drawn, after=after, number=number, containers=containers)
    assert schema.environment["DB_USER"] == schema.account.name != database.account.name
    assert number % 3, "a test that fails leaves no trace, either"

@pytest.mark.database_state("shared")
def test_the_database_itself_is_untouched(connection, seen):
    seen(before=rows(connection), shared=True)
""",
    )
    result = project.run("-n", "2")
    assert project.outcomes(result) == {"passed": 6, "failed": 3}, result.stdout
    seen = [one for one in project.seen if "number" in one]
    assert {one["worker"] for one in seen} == {"gw0", "gw1"}
    assert len({one["port"] for one in seen}) == 1
    assert {one["containers"] for one in seen} == {1}
    assert all(one["before"] == [[1, "prepared"]] and one["drawn"] == 1 for one in seen), seen
    assert all(one["after"] in (None, [[1, "prepared"], [one["number"] + 10, "mine"]]) for one in seen), seen
    workers_of: dict[str, set[str]] = {}
    for one in seen:
        workers_of.setdefault(one["state"], set()).add(one["worker"])
    assert all(len(workers) == 1 for workers in workers_of.values()), "a state belongs to one worker"
    assert [one["before"] for one in project.seen if one.get("shared")] == [[[1, "prepared"]]]
    assert_nothing_left(project)


def test_states_of_a_worker_are_kept_and_those_rolled_back_are_looked_at(project: Project) -> None:
    project.write(
        "test_it.py",
        HEAD
        + """
def change(connection, statement, commit):
    with connection.cursor() as cursor:
        cursor.execute(statement)
    if commit:
        connection.commit()

@pytest.mark.database_state("worker")
def test_worker_first(schema, connection, seen):
    change(connection, "INSERT INTO account VALUES (2, 'kept')", True)
    seen(state=schema.name)

@pytest.mark.database_state("worker")
def test_worker_second(schema, connection, seen):
    assert rows(connection) == [*PREPARED, [2, "kept"]]
    seen(state=schema.name)

STATEMENTS = ["INSERT INTO account VALUES (3, 'gone')", "DELETE FROM account", "CREATE TABLE extra (id INTEGER)"]

@pytest.mark.database_state("rollback")
@pytest.mark.parametrize("commit", [False, True, False])
@pytest.mark.parametrize("statement", STATEMENTS)
def test_rollback(statement, commit, connection, _database_state, seen):
    assert rows(connection) == PREPARED
    change(connection, statement, commit)
    seen(rollback=True, state=_database_state.name, commit=commit)

@pytest.mark.database_state("rollback")
def test_own_rollback_and_commit(connection):
    assert rows(connection) == PREPARED
    change(connection, "DELETE FROM account", False)
    connection.rollback()
    change(connection, "DELETE FROM account", True)

@pytest.mark.database_state("rollback")
def test_last(connection):
    assert rows(connection) == PREPARED
""",
    )
    result = project.run()
    assert project.outcomes(result) == {"passed": 13}, result.stdout
    kept = [one["state"] for one in project.seen if "rollback" not in one]
    assert len(set(kept)) == 1
    rolled_back = [one["state"] for one in project.seen if "rollback" in one]
    assert set(kept).isdisjoint(rolled_back)
    assert_nothing_left(project)


def test_a_container_for_each_worker(project: Project) -> None:
    project.write(
        "test_it.py",
        HEAD
        + f"""
import time
from pathlib import Path
from pipeline.adapters.docker_engine import DockerEngine

pytestmark = pytest.mark.database_state("worker")

@pytest.mark.parametrize("number", range(4))
def test_own(number, schema, connection, seen):
    with connection.cursor() as cursor:
        cursor.execute("SELECT user FROM dual")
        user = cursor.fetchone()[0]
    containers = len(DockerEngine().list_containers({{"{PROJECT}": "{project.name}"}}))
    seen(port=schema.address.port, user=user, containers=containers, prepared=rows(connection))
""",
    )
    result = project.run("-n", "2", "--dist", "each", "--database-isolation", "container")
    assert project.outcomes(result) == {"passed": 8}, result.stdout
    ports: dict[str, set[int]] = {}
    for one in project.seen:
        ports.setdefault(one["worker"], set()).add(one["port"])
    assert [len(found) for found in ports.values()] == [1, 1], ports
    assert ports["gw0"] != ports["gw1"]
    assert {one["user"] for one in project.seen} == {"APP"}, "the name is the one that the code has"
    assert max(one["containers"] for one in project.seen) == 2
    assert all(one["prepared"] == [[1, "prepared"]] for one in project.seen)
    assert_nothing_left(project)


def test_inside_run_tests_the_running_session_is_used(project: Project) -> None:
    command = json.dumps(project.command("-n", "2"))
    configuration = (project.root / "pipeline.yaml").read_text(encoding="utf-8")
    project.write("pipeline.yaml", f"{configuration}  run: {command}\n")
    project.write(
        "test_it.py",
        HEAD
        + f"""
import os
from pipeline.adapters.docker_engine import DockerEngine

@pytest.mark.parametrize("number", range(4))
def test_own(number, database, connection, seen):
    containers = len(DockerEngine().list_containers({{"{PROJECT}": "{project.name}"}}))
    seen(port=database.address.port, given=int(os.environ["DB_PORT"]), containers=containers, rows=rows(connection))
""",
    )
    result = project.invoke("itest")
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(project.seen) == 4
    for one in project.seen:
        assert (one["port"], one["containers"], one["rows"]) == (one["given"], 1, [[1, "prepared"]])
    assert_nothing_left(project)


SPOILING = (
    HEAD
    + """
@pytest.mark.database_state("shared")
def test_a_shared_test_comes_first(connection):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO account VALUES (2, 'spoiled')")
        cursor.execute("CREATE TABLE spoiled (id INTEGER)")
    connection.commit()

@pytest.mark.parametrize("number", range(2))
def test_state(number, connection):
    assert rows(connection) == PREPARED
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM information_schema.tables WHERE table_name = 'spoiled'")
        assert cursor.fetchone()[0] == 0

def test_last(schema):
    pass
"""
)


def databases(project: Project) -> set[str]:
    (container,) = project.containers
    command = ["docker", "exec", container, "psql", "-U", "postgres", "-Atc", "SELECT datname FROM pg_database"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_a_shared_test_that_came_before_spoils_no_state_and_a_session_that_goes_on_keeps_none(project: Project) -> None:
    command = json.dumps(project.command("-p", "no:randomly", "-p", "no:xdist"))
    project.configure(own_image("postgres"), "engine: postgres", "service: ledger", f"run: {command}")
    project.write("schema.sql", SCHEMA.replace("VARCHAR2", "VARCHAR"))
    project.write("test_it.py", SPOILING)
    try:
        started = project.invoke("start-oracle", "--session", "stays", "--json")
        assert started.returncode == 0, started.stderr
        result = project.invoke("run-tests", "--session", "stays")
        assert "4 passed" in result.stdout, result.stdout + result.stderr
        assert databases(project) == {"postgres", "template0", "template1", "ledger"}
        killing = "def test_it(schema):\n    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        project.write("test_it.py", killing)
        command = json.dumps(project.command("-n", "1", "--max-worker-restart", "0"))
        project.configure(own_image("postgres"), "engine: postgres", "service: ledger", f"run: {command}")
        result = project.invoke("run-tests", "--session", "stays")
        assert "crashed" in result.stdout, result.stdout + result.stderr
        assert databases(project) == {"postgres", "template0", "template1", "ledger"}
    finally:
        project.invoke("stop-oracle", "--session", "stays")
    assert_nothing_left(project)


def test_a_prepared_state_that_cannot_be_kept_is_tried_and_explained_once_and_no_report_holds_a_password(project: Project) -> None:
    project.write("schema.sql", SCHEMA.replace("TABLE account", "TABLE app.account").replace("INTO account", "INTO app.account"))
    project.write(
        "test_it.py",
        HEAD
        + """
@pytest.mark.database_state("shared")
def test_shared(schema, seen):
    password = schema.account.password.value
    seen(password=password)
    print(f"it is {password}")
    assert password == "another"

@pytest.mark.parametrize("number", range(3))
def test_own(number, schema):
    pass
""",
    )
    result = project.run("--junitxml", "report.xml", "-p", "no:xdist", TESTCONTAINERS_CONNECTION_MODE="bridge_ip")
    assert project.outcomes(result) == {"failed": 1, "errors": 3}, result.stdout
    assert result.stdout.count("no database state can be had in this run") == 2 * 2, "each in full and in the summary"
    assert project.seen[0]["password"] not in result.stdout + (project.root / "report.xml").read_text(encoding="utf-8")
    assert "it is ***" in result.stdout
    assert_nothing_left(project)
    wait_for(lambda: not guardians(project), "the guardian was told that there is nothing to do", deadline=10)


def test_a_baked_database_is_taken_and_what_is_wrong_in_the_configuration_is_said_before_a_start(project: Project) -> None:
    project.configure(
        own_image("postgres"),
        "engine: postgres",
        "contract: postgres",
        "service: ledger",
        prepare="{sql: schema.sql}, {run: [sh, count.sh], reads: []}",
    )
    project.write("schema.sql", SCHEMA.replace("VARCHAR2", "VARCHAR"))
    project.write("count.sh", "echo prepared >> count.txt\n")
    baked = project.invoke("db.bake", "--json")
    assert baked.returncode == 0, baked.stderr
    image = json.loads(baked.stdout)["reference"]
    try:
        project.write(
            "test_it.py",
            HEAD + "@pytest.mark.database_state('shared')\ndef test_it(connection):\n    assert rows(connection) == PREPARED\n",
        )
        result = project.run()
        assert project.outcomes(result) == {"passed": 1}, result.stdout
        assert (project.root / "count.txt").read_text(encoding="utf-8").split() == ["prepared"]
        project.configure(own_image("postgres"), "engine: postgres", "service: ledger", "memory: 4000g")
        result = project.run()
        assert "Lower `itest.memory`" in result.stdout
    finally:
        subprocess.run(["docker", "rmi", "--force", image], capture_output=True, check=False)
    assert_nothing_left(project)


def test_who_does_not_use_it_pays_nothing(project: Project) -> None:
    project.write(
        "test_it.py",
        """
import sys

def test_nothing():
    heavy = ("docker", "oracledb", "psycopg", "testcontainers", "msgspec", "yaml", "asyncio", "pipeline.config")
    assert [name for name in heavy if name in sys.modules] == []
""",
    )
    result = project.run()
    assert project.outcomes(result) == {"passed": 1}, result.stdout
    assert_nothing_left(project)


def test_the_container_shows_no_secret_and_a_killed_run_leaves_none(project: Project) -> None:
    project.write(
        "test_it.py",
        HEAD + "import time\n\ndef test_long(database, seen):\n    seen(password=database.account.password.value)\n    time.sleep(600)\n",
    )
    process = subprocess.Popen(
        project.command("-n", "1"), cwd=project.root, env=project.environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(lambda: project.seen, "the test runs", deadline=60)
        (container,) = project.containers
        inspected = subprocess.run(["docker", "inspect", container], capture_output=True, text=True, check=True).stdout
        assert project.seen[0]["password"] not in inspected
        assert "docker.sock" not in inspected
        assert '"HostIp": "127.0.0.1"' in inspected
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    wait_for(lambda: not project.containers, "the container is gone", deadline=30)
    assert_nothing_left(project)


@pytest.mark.parametrize(
    ("arguments", "environment", "body", "said"),
    [
        ((), {}, "@pytest.mark.database_state('own')\ndef test_it(schema): pass", "it takes one of 'shared', 'worker', 'test', 'rollback'"),
        ((), {"PIPELINE_DATABASE_SH": "/there/is/none"}, "def test_it(schema): pass", "names a session that is over"),
        (
            ("--database-image", "localhost:1/there/is:none"),
            {},
            "def test_it(schema): pass\ndef test_two(schema): pass",
            "localhost:1/there/is:none",
        ),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(
    project: Project, arguments: tuple[str, ...], environment: dict[str, str], body: str, said: str
) -> None:
    project.write("test_it.py", HEAD + body)
    result = project.run(*arguments, **environment)
    assert "passed" not in project.outcomes(result)
    assert said in result.stdout
    assert "pipeline/pytest_" not in result.stdout, "no traceback through the plugin"
    assert_nothing_left(project)
