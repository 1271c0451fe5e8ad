"""docs/how-to-databases.md: each how-to is done as it is shown, with a test of its own beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import docker
import pytest

from tests.engine.checkouts import TASKS, Checkout
from tests.engine.conftest import own_image, remove_images
from tests.engine.documents import write_shown

DOCUMENT = "how-to-databases.md"
ORACLE = """
import os, oracledb
with oracledb.connect(user=os.environ["DB_USER"], password=os.environ["DB_PASSWORD"], dsn=os.environ["DB_DSN"]) as connection:
    def ask(query):
        return [row[0] for row in connection.cursor().execute(query).fetchall()]
"""
POSTGRES = """
import os, psycopg
with psycopg.connect(os.environ["DB_DSN"], user=os.environ["DB_USER"], password=os.environ["DB_PASSWORD"]) as connection:
    def ask(query):
        return [row[0] for row in connection.execute(query).fetchall()]
"""


@pytest.fixture
def shown(make_checkout: Callable[[], Checkout]) -> Callable[..., Checkout]:
    def make(heading: str, image: str, *tests: str) -> Checkout:
        """The project that is shown below a heading, whose tests are `tests`."""
        found = make_checkout()
        files = write_shown(DOCUMENT, found.root, heading)
        lines = files["pipeline.yaml"].splitlines(keepends=True)
        assert lines[0] == "itest:\n"
        run = json.dumps([sys.executable, "tests.py"])
        head = ["registry: localhost:5000\n", "namespace: ledger\n", f"project: {found.project}\n"]
        found.write("pipeline.yaml", "".join([*head, lines[0], f"  image: {own_image(image)}\n", f"  run: {run}\n", *lines[1:]]))
        found.write("tasks.py", TASKS)
        found.write("tests.py", (POSTGRES if image == "postgres" else ORACLE) + "".join(f"    assert {test}\n" for test in tests))
        return found

    return make


def done(checkout: Checkout, *arguments: str) -> str:
    ended = checkout.invoke(*(arguments or ("itest",)))
    assert ended.code == 0, ended.err
    return ended.err


def test_several_schemas(shown: Callable[..., Checkout]) -> None:
    query = "SELECT e.amount + a.amount FROM entry e JOIN archive.entry a ON a.id = e.id"
    checkout = shown("Several schemas (Oracle)", "oracle-standin", f'ask("{query}") == [42]', 'ask("SELECT USER FROM dual") == ["LEDGER"]')
    done(checkout)


def test_what_only_sys_may_do(shown: Callable[..., Checkout]) -> None:
    owners = "SELECT owner FROM all_tables WHERE table_name = 'SYS_WAS_HERE'"
    checkout = shown("What only SYS may do (Oracle)", "oracle-standin", f'ask("{owners}") in (["SYS"], ["SYSTEM"])')
    checkout.write("database/ledger/01.sql", "CREATE TABLE entry (id INTEGER);\n")
    done(checkout)


def test_an_error_of_sys_ends_the_start(shown: Callable[..., Checkout]) -> None:
    checkout = shown("What only SYS may do (Oracle)", "oracle-standin")
    checkout.write("database/ledger/01.sql", "CREATE TABLE entry (id INTEGER);\n")
    script = (checkout.root / "database/sys.sql").read_text()
    checkout.write("database/sys.sql", script + "SELECT nonsense FROM nowhere;\n")
    ended = checkout.invoke("itest")
    assert ended.code == 40, ended.err
    assert "100-sys.sql: statement 3 (line 4)" in ended.err
    checkout.assert_nothing_left()


def test_an_oracle_image_of_ones_own(make_checkout: Callable[[], Checkout], standin_image: str, engine: docker.DockerClient) -> None:
    checkout = make_checkout()
    files = write_shown(DOCUMENT, checkout.root, "An Oracle image of one's own")
    checkout.write(
        "images/company-oracle.yaml",
        files["images/company-oracle.yaml"].replace("docker.io/gvenzl/oracle-free:23-slim-faststart", standin_image),
    )
    run = json.dumps([sys.executable, "tests.py"])
    head = f"registry: localhost:5000\nnamespace: {checkout.project}\nproject: {checkout.project}\n"
    checkout.write("pipeline.yaml", f"{head}{files['pipeline.yaml']}  run: {run}\n")
    checkout.write("tasks.py", TASKS)
    query = "SELECT value FROM system.company_settings WHERE name = 'currency'"
    checkout.write("tests.py", ORACLE + f"    assert ask({query!r}) == ['EUR']\n")
    for command in (
        ["init", "-q", "-b", "main"],
        ["add", "."],
        ["-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *command], cwd=checkout.root, check=True)
    try:
        done(checkout)
    finally:
        remove_images(engine, f"*/{checkout.project}/*")
    checkout.assert_nothing_left()


def test_character_set(shown: Callable[..., Checkout]) -> None:
    checkout = shown("Character set (PostgreSQL)", "postgres", 'ask("SHOW server_encoding") == ["LATIN1"]', "ask(\"SELECT 'ä'\") == ['ä']")
    done(checkout)


def test_variables_of_the_container(shown: Callable[..., Checkout]) -> None:
    checkout = shown("Variables of the container (any)", "oracle-standin")
    checkout.start()
    try:
        inside = ["docker", "exec", checkout.containers[0].id, "date", "+%Z"]
        assert subprocess.run(inside, check=True, capture_output=True, text=True).stdout.strip() in ("CET", "CEST")
    finally:
        done(checkout, "stop-oracle")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("environment: {POSTGRES_DB: other}", "'itest.environment.POSTGRES_DB': is set by the contract"),
        ("environment: {REPORT_PASSWORD: x}", "'itest.environment.REPORT_PASSWORD': looks like a secret"),
        ("mounts: {./nowhere: /data}", "there is no"),
        ("mounts: {./sql: data}", "'data' is not an absolute path"),
        ("mounts: {some/folder: /data}", "'itest.mounts.some/folder': is not a volume's name"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(make_checkout: Callable[[], Checkout], line: str, message: str) -> None:
    checkout = make_checkout()
    checkout.configure("example/never-asked-for", "engine: postgres", line)
    checkout.write("sql/01.sql", "SELECT 1;\n")
    ended = checkout.invoke("itest")
    assert ended.code == 10
    assert ended.err.startswith("error: pipeline.yaml:8: ")
    assert message in ended.err
    checkout.assert_nothing_left()


def test_a_volume_that_is_not_there_is_not_made(make_checkout: Callable[[], Checkout]) -> None:
    checkout = make_checkout()
    volume = f"{checkout.project}-data"
    checkout.configure(own_image("postgres"), "engine: postgres", f"mounts: {{{volume}: /data}}")
    checkout.write("tests.py", "")
    ended = checkout.invoke("itest")
    assert ended.code == 20, ended.err
    assert volume in ended.err
    assert subprocess.run(["docker", "volume", "inspect", volume], check=False, capture_output=True).returncode != 0


def test_gigabytes_of_test_data(shown: Callable[..., Checkout]) -> None:
    rows = 20_000
    checkout = shown("Gigabytes of test data (PostgreSQL)", "postgres", f'ask("SELECT sum(amount) FROM entry") == [{2 * rows}]')
    checkout.write("testdata/entry.csv", "".join(f"{number},2\n" for number in range(rows)))
    assert "prepare: database/load.sql" in done(checkout)
    baked = checkout.invoke("db.bake", "--json")
    assert baked.code == 0, baked.err
    references = [json.loads(baked.out)["reference"]]
    try:
        assert "no preparation is run" in done(checkout)
        checkout.write("testdata/entry.csv", "".join(f"{number},4\n" for number in range(rows // 2)))  # other files are another database
        assert "prepare: database/load.sql" in done(checkout)
    finally:
        subprocess.run(["docker", "rmi", *references], check=False, capture_output=True)
    checkout.assert_nothing_left()
