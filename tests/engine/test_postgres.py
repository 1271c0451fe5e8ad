"""PostgreSQL as a second engine: its image, and the bracket on it, by the same commands as any other database."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from pipeline.adapters.docker_engine import DockerEngine
from pipeline.databases.engine import Account, Address, Answer, Password, Phase
from pipeline.plugins import POSTGRES
from tests.engine.checkouts import Checkout
from tests.engine.conftest import RUN, TEST_LABEL, own_image, wait_for

PASSING = """
import os
from pathlib import Path
import psycopg
with psycopg.connect(os.environ["DB_DSN"], user=os.environ["DB_USER"], password=os.environ["DB_PASSWORD"]) as connection:
    assert connection.execute("SELECT total(2)").fetchone() == (42,)
    assert connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (False,)
    assert os.environ["DB_JDBC_URL"] == f"jdbc:postgresql://{os.environ['DB_HOST']}:{os.environ['DB_PORT']}/ledger"
Path(os.environ["PIPELINE_RESULTS"], "junit.xml").write_text('<testsuite name="s"><testcase name="t"/></testsuite>')
"""
SCHEMA = """
CREATE TABLE entry (amount integer);  -- one; two
INSERT INTO entry VALUES (40);
CREATE FUNCTION total(more integer) RETURNS integer AS $$
DECLARE found integer;
BEGIN
  SELECT sum(amount) INTO found FROM entry;
  RETURN found + more;
END;
$$ LANGUAGE plpgsql;
"""


@pytest.fixture(scope="module")
def postgres_image() -> str:
    return own_image("postgres")


@pytest.fixture
def ledger(make_checkout: Callable[[], Checkout], postgres_image: str) -> Checkout:
    """A project whose tests want PostgreSQL, by either of the two contracts that its image keeps."""
    found = make_checkout()
    found.configure(postgres_image, "engine: postgres", "service: ledger", "prepare: [{sql: sql}]")
    found.write("sql/01-schema.sql", SCHEMA)
    found.write("tests.py", PASSING)
    return found


def test_itest_starts_prepares_tests_and_leaves_only_results(ledger: Checkout) -> None:
    ended = ledger.invoke("itest")
    assert ended.code == 0, ended.err
    assert "1 passed, 0 failed" in ended.err
    ledger.assert_nothing_left()
    assert "ready to accept connections" in (ledger.results / "database.log").read_text()


def test_no_password_is_shown_by_inspect_nor_by_the_log(ledger: Checkout) -> None:
    ledger.start()
    variables = (ledger.root / ".pipeline").glob("database*.sh")
    password = next(line.partition("=")[2] for line in next(variables).read_text().splitlines() if "DB_PASSWORD" in line)
    container = ledger.containers[0].id
    shown = subprocess.run(["docker", "inspect", container], check=True, capture_output=True, text=True).stdout
    logged = subprocess.run(["docker", "logs", container], check=True, capture_output=True, text=True)
    assert "POSTGRES_PASSWORD_FILE" in shown
    assert password not in shown + logged.stdout + logged.stderr
    assert ledger.invoke("stop-oracle").code == 0


def test_an_error_in_a_script_is_told_with_file_line_and_code(ledger: Checkout) -> None:
    ledger.write("sql/02-wrong.sql", "SELECT 1;\n\nSELECT\n  nonsense;\n")
    ended = ledger.invoke("itest")
    assert ended.code == 41
    assert 'sql/02-wrong.sql:4: statement 2, run as app, failed: ERROR 42703: column "nonsense" does not exist' in ended.err


def test_a_transaction_that_a_script_leaves_open_is_not_lost_without_a_word(ledger: Checkout) -> None:
    ledger.write("sql/02-open.sql", "BEGIN;\nINSERT INTO entry VALUES (1);\n")
    ended = ledger.invoke("itest")
    assert ended.code == 41
    assert "neither committed nor rolled back" in ended.err


def test_preparing_as_the_administrator(ledger: Checkout, postgres_image: str) -> None:
    ledger.configure(postgres_image, "engine: postgres", "service: ledger", "prepare: [{sql: sql}, {sql: admin.sql, user: system}]")
    ledger.write("admin.sql", "CREATE ROLE other NOLOGIN;\nCREATE DATABASE second;\n")
    ended = ledger.invoke("itest")
    assert ended.code == 0, ended.err


def test_a_baked_database_is_prepared_and_opens_with_no_password_of_before(ledger: Checkout, postgres_image: str) -> None:
    keep = json.dumps([sys.executable, "-c", "import os; open('before', 'w').write(os.environ['DB_PASSWORD'])"])
    ledger.configure(
        postgres_image, "engine: postgres", "contract: postgres", "service: ledger", f"prepare: [{{sql: sql}}, {{run: {keep}, reads: []}}]"
    )
    ended = ledger.invoke("db.bake", "--json")
    assert ended.code == 0, ended.err
    reference = json.loads(ended.out)["reference"]
    try:
        found = ledger.start()
        address = Address(found["host"], found["port"], found["service"])
        variables = dict(
            line.removeprefix("export ").split("=", 1) for line in (ledger.root / ".pipeline/database.sh").read_text().splitlines()
        )
        now, before = Password(variables["DB_PASSWORD"]), Password((ledger.root / "before").read_text())
        assert asyncio.run(POSTGRES.log_in(address, Account("app", now), 5.0)).ready
        assert asyncio.run(POSTGRES.log_in(address, Account("app", before), 5.0)).refused
        ended = ledger.invoke("run-tests")
        assert ended.code == 0, ended.err
    finally:
        ledger.invoke("stop-oracle")
        subprocess.run(["docker", "image", "rm", "--force", reference], check=True, capture_output=True)


# The image


@dataclass
class Server:
    """A container of the image, started as its users would, with a password in a file."""

    image: str
    engine: DockerEngine = field(default_factory=DockerEngine)
    container: str = ""

    def start(self, files: dict[str, str] | None = None, **environment: str) -> None:
        made = self.engine.create_container(
            name=f"test-postgres-{uuid.uuid4().hex[:10]}",
            image=self.image,
            labels={TEST_LABEL: RUN},
            environment={"POSTGRES_PASSWORD_FILE": "/run/secret/password", "POSTGRES_DB": "app", **environment},
            publish=5432,
        )
        assert made is not None
        self.container = made
        self.engine.write_files(made, "/run/secret", {"password": b"Geheim1"})
        for path, text in (files or {}).items():
            folder, _, name = path.rpartition("/")
            self.engine.write_files(made, folder, {name: text.encode()})
        self.engine.start_container(made)

    def log_in(self, password: str = "Geheim1", user: str = "postgres", service: str = "app") -> Answer:
        found = self.engine.find_container(self.container)
        port = found.ports.get(5432, 1) if found else 1
        return asyncio.run(POSTGRES.log_in(Address("127.0.0.1", port, service), Account(user, Password(password)), 5.0))

    def wait_until_ready(self) -> None:
        wait_for(lambda: self.log_in().ready, "PostgreSQL takes a login")

    def ask(self, query: str) -> str:
        command = ["docker", "exec", self.container, "psql", "-U", "postgres", "-d", "app", "-At", "-c", query]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def docker(self, *command: str) -> None:
        subprocess.run(["docker", *command, self.container], check=True, capture_output=True)

    def wait_until_ended(self) -> int:
        def ended() -> bool:
            found = self.engine.find_container(self.container)
            return found is not None and found.state == "exited"

        wait_for(ended, "the container ends")
        found = self.engine.find_container(self.container)
        assert found is not None
        return found.exit_code

    @property
    def log(self) -> str:
        return self.engine.read_log(self.container).decode()


@pytest.fixture
def server(postgres_image: str) -> Iterator[Server]:
    made = Server(postgres_image)
    yield made
    if made.container:
        made.engine.remove_container(made.container)


def test_codes_of_the_real_server(server: Server) -> None:
    server.start()
    server.wait_until_ready()
    wrong = server.log_in("falsch")
    assert wrong.refused
    assert wrong.reason.startswith("28P01 ")
    unknown = server.log_in(service="nix")
    assert (unknown.refused, unknown.phase) == (False, Phase.SERVICE)
    assert unknown.reason.startswith("3D000 ")


def test_scripts_run_before_anybody_gets_in_and_again_at_each_start(server: Server) -> None:
    init = "CREATE TABLE began (at timestamptz);\n"
    start = "INSERT INTO began VALUES (now()) RETURNING pg_sleep(0.3);\n"
    server.start({"/docker-entrypoint-initdb.d/1.sql": init, "/docker-entrypoint-startdb.d/1.sql": start})
    server.wait_until_ready()
    assert server.ask("SELECT count(*) FROM began") == "1"
    server.docker("stop")
    assert server.wait_until_ended() == 0
    assert server.log.rstrip().endswith("database system is shut down")
    server.docker("start")
    server.wait_until_ready()
    assert server.ask("SELECT count(*) FROM began") == "2"


def test_a_stop_is_clean_with_a_client_still_logged_in(server: Server) -> None:
    server.start()
    server.wait_until_ready()
    client = subprocess.Popen(["docker", "exec", server.container, "psql", "-U", "postgres", "-d", "app", "-c", "SELECT pg_sleep(600)"])
    wait_for(lambda: "sleep" in server.ask("SELECT query FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), "the client is busy")
    server.docker("stop", "--time", "20")
    assert server.wait_until_ended() == 0
    assert "database system is shut down" in server.log
    client.wait(timeout=20)


def test_a_killed_container_keeps_what_was_committed(server: Server) -> None:
    server.start()
    server.wait_until_ready()
    server.ask("CREATE TABLE kept AS SELECT 1 AS one")
    server.docker("kill")
    server.docker("start")
    server.wait_until_ready()
    assert server.ask("SELECT one FROM kept") == "1"


@pytest.mark.parametrize(
    ("files", "environment", "message"),
    [
        ({"/docker-entrypoint-initdb.d/1.sql": "SELECT nonsense;"}, {}, "/docker-entrypoint-initdb.d/1.sql failed"),
        ({"/docker-entrypoint-initdb.d/1.sh": "false"}, {}, "/docker-entrypoint-initdb.d/1.sh failed"),
        ({}, {"POSTGRES_PASSWORD": "x"}, "both POSTGRES_PASSWORD and POSTGRES_PASSWORD_FILE are set"),
        ({}, {"POSTGRES_PASSWORD_FILE": "/nowhere"}, "which cannot be read"),
        ({}, {"POSTGRES_PASSWORD_FILE": ""}, "no password: set POSTGRES_PASSWORD_FILE"),
    ],
    ids=["sql", "shell", "both", "unreadable", "none"],
)
def test_what_is_wrong_ends_the_start_and_is_said(server: Server, files: dict[str, str], environment: dict[str, str], message: str) -> None:
    server.start(files, **environment)
    assert server.wait_until_ended() == 1
    assert message in server.log


def test_a_first_start_that_broke_off_is_not_gone_on_with(server: Server) -> None:
    server.start({"/docker-entrypoint-initdb.d/1.sh": "exit 1"})
    server.wait_until_ended()
    server.docker("start")
    assert server.wait_until_ended() == 1
    assert "an earlier first start did not come to its end" in server.log


def test_the_image_holds_no_password_and_its_data_is_in_no_volume(postgres_image: str) -> None:
    shown = subprocess.run(["docker", "image", "inspect", postgres_image], check=True, capture_output=True, text=True).stdout
    config = json.loads(shown)[0]["Config"]
    assert config["Volumes"] == {"/var/lib/postgresql/states": {}}  # for copies of databases; the data can be committed
    assert not [name for name in config["Env"] if "PASSWORD" in name]
