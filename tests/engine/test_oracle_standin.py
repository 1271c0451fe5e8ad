"""The stand-in keeps the vendor image's contract as far as users of that image rely on it, and says what it is."""

from __future__ import annotations

import gzip
import importlib.util
import io
import sys
import tarfile
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import docker
import oracledb
import pytest
import sqlalchemy
from docker.models.containers import Container
from testcontainers.community.oracle import OracleDbContainer
from testcontainers.core.config import testcontainers_config

LABEL = "pipeline.test.oracle-standin"
READY = "DATABASE IS READY TO USE!"
DEADLINE_SECONDS = 60.0
POLL_SECONDS = 0.05
ORACLE_UID = 54321
INIT = "/container-entrypoint-initdb.d"
START = "/container-entrypoint-startdb.d"
SECRETS = {"ORACLE_PASSWORD": "sys-Secret.1", "APP_USER": "ledger", "APP_USER_PASSWORD": "a;p'p:Secret/2 é"}
SQLSCRIPT = Path(__file__).parents[2] / "dockerfiles/oracle-standin/oracle_standin/sqlscript.py"


@dataclass
class Laboratory:
    """Starts stand-ins, waits for conditions, and takes away what it started."""

    client: docker.DockerClient
    image: str
    label: str = field(default_factory=lambda: uuid.uuid4().hex)

    def create(self, environment: Mapping[str, str], files: Mapping[str, str | bytes] | None = None, **options: Any) -> Container:
        """A container with files in it, not started yet. A file's name ending in `*` makes it executable."""
        container: Container = self.client.containers.create(
            self.image,
            environment=dict(environment),
            labels={LABEL: self.label},
            ports={"1521/tcp": ("127.0.0.1", 0)},  # 0: any free port
            **options,
        )
        if files:
            container.put_archive("/", _archive(files))
        return container

    def start(self, environment: Mapping[str, str] = SECRETS, files: Mapping[str, str | bytes] | None = None, **options: Any) -> Container:
        container = self.create(environment, files, **options)
        container.start()
        return container

    def ready(self, environment: Mapping[str, str] = SECRETS, files: Mapping[str, str | bytes] | None = None, **options: Any) -> Container:
        container = self.start(environment, files, **options)
        wait_until_ready(container)
        return container

    def clean(self) -> None:
        for container in self.client.containers.list(all=True, filters={"label": f"{LABEL}={self.label}"}):
            container.remove(force=True, v=True)
        for volume in self.client.volumes.list(filters={"label": f"{LABEL}={self.label}"}):
            volume.remove(force=True)


@pytest.fixture
def laboratory(standin_image: str) -> Iterator[Laboratory]:
    laboratory = Laboratory(docker.from_env(), standin_image)
    try:
        yield laboratory
    finally:
        laboratory.clean()
        laboratory.client.close()


def _archive(files: Mapping[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name.rstrip("*").lstrip("/"))
            entry.size, entry.uid, entry.gid = len(data), ORACLE_UID, ORACLE_UID
            entry.mode = 0o755 if name.endswith("*") else 0o400
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def log_of(container: Container) -> str:
    return container.logs().decode()


def wait_for(condition: Callable[[], bool], container: Container, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen in {DEADLINE_SECONDS:.0f} s; the log:\n{log_of(container)}")
        time.sleep(POLL_SECONDS)


def wait_until_ready(container: Container, times: int = 1) -> None:
    def ready_or_dead() -> bool:
        container.reload()
        return log_of(container).count(READY) >= times or container.status == "exited"

    wait_for(ready_or_dead, container, f"ready line number {times}")
    assert log_of(container).count(READY) >= times, log_of(container)


def exit_code(container: Container) -> int:
    return int(container.wait(timeout=DEADLINE_SECONDS)["StatusCode"])


def port_of(container: Container, port: int = 1521) -> int:
    container.reload()
    (binding,) = container.ports[f"{port}/tcp"] or []
    return int(binding["HostPort"])


def connect(container: Container, user: str = "ledger", password: str = "", **where: str) -> oracledb.Connection:
    where = where or {"service_name": "FREEPDB1"}
    password = password or SECRETS["APP_USER_PASSWORD" if user == "ledger" else "ORACLE_PASSWORD"]
    return oracledb.connect(user=user, password=password, host="127.0.0.1", port=port_of(container), tcp_connect_timeout=10, **where)


def rows(container: Container, query: str, user: str = "ledger") -> list[tuple[Any, ...]]:
    with connect(container, user) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return [tuple(row) for row in cursor.fetchall()]


def causes(error: BaseException) -> list[str]:
    """The full codes of an oracledb error and of what caused it."""
    codes: list[str] = []
    current: BaseException | None = error
    while current is not None:
        codes += [argument.full_code for argument in current.args if hasattr(argument, "full_code")]
        current = current.__cause__
    return codes


# The contract's best judge


@pytest.fixture
def no_reaper(monkeypatch: pytest.MonkeyPatch) -> None:
    """testcontainers' clean-up container comes from a registry that may be out of reach; its own setting turns it
    off, and the `with` statement removes the database."""
    monkeypatch.setattr(testcontainers_config, "ryuk_disabled", True)


@pytest.mark.filterwarnings("ignore:The wait_for_logs function:DeprecationWarning")  # by testcontainers' own class
@pytest.mark.usefixtures("no_reaper")
def test_testcontainers_own_oracle_class_starts_it_and_its_documented_example_works(standin_image: str) -> None:
    with OracleDbContainer(standin_image) as oracle:
        engine = sqlalchemy.create_engine(oracle.get_connection_url())
        with engine.begin() as connection:
            result = connection.execute(sqlalchemy.text("SELECT 1 FROM dual"))
            assert result.fetchall() == [(1,)]
        engine.dispose()


@pytest.mark.filterwarnings("ignore:The wait_for_logs function:DeprecationWarning")  # by testcontainers' own class
@pytest.mark.usefixtures("no_reaper")
def test_testcontainers_own_oracle_class_gets_its_user_and_its_database(standin_image: str) -> None:
    with OracleDbContainer(standin_image, username="scott", password="tiger", dbname="BOOKS") as oracle:
        engine = sqlalchemy.create_engine(oracle.get_connection_url())
        with engine.begin() as connection:
            assert connection.execute(sqlalchemy.text("SELECT user FROM dual")).fetchall() == [("SCOTT",)]
        engine.dispose()


# Environment and secrets


def test_files_give_the_passwords_and_they_are_seen_nowhere(laboratory: Laboratory) -> None:
    files = {f"/run/secrets/{name}": f"{value}\n" for name, value in SECRETS.items()}
    environment = {f"{name}_FILE": f"/run/secrets/{name}" for name in SECRETS}
    container = laboratory.ready(environment, files)

    assert rows(container, "SELECT user FROM dual") == [("LEDGER",)]
    assert rows(container, "SELECT user FROM dual", user="system") == [("SYSTEM",)]
    for visible in (str(container.attrs), log_of(container), str(container.top(ps_args="-eww -o pid,args"))):
        assert "stand" in visible.lower()
        assert SECRETS["ORACLE_PASSWORD"] not in visible
        assert SECRETS["APP_USER_PASSWORD"] not in visible


def test_passwords_from_the_environment_are_not_in_the_log_or_in_arguments(laboratory: Laboratory) -> None:
    container = laboratory.ready()
    for visible in (log_of(container), str(container.top(ps_args="-eww -o pid,args"))):
        assert SECRETS["ORACLE_PASSWORD"] not in visible
        assert SECRETS["APP_USER_PASSWORD"] not in visible
    # Nor in the environment of the two programs that face the network and the disk.
    found = container.exec_run(["bash", "-c", "for p in $(cat /proc/1/task/1/children); do cat /proc/$p/environ; done"])
    assert b"PATH=" in found.output
    assert b"Secret" not in found.output


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        pytest.param({}, "set ORACLE_PASSWORD", id="no password"),
        pytest.param(
            {"ORACLE_PASSWORD": "a", "ORACLE_PASSWORD_FILE": "/etc/hostname"},
            "Both ORACLE_PASSWORD and ORACLE_PASSWORD_FILE",
            id="password twice",
        ),
        pytest.param(
            {"ORACLE_PASSWORD": "a", "APP_USER": "u", "APP_USER_PASSWORD": "a", "APP_USER_PASSWORD_FILE": "/x"},
            "Both APP_USER_PASSWORD and APP_USER_PASSWORD_FILE",
            id="user's password twice",
        ),
        pytest.param({"ORACLE_PASSWORD": "a", "ORACLE_RANDOM_PASSWORD": "y"}, "only one of them", id="given and random"),
        pytest.param({"ORACLE_PASSWORD": "a", "APP_USER": "u"}, "without APP_USER_PASSWORD", id="user, no password"),
        pytest.param({"ORACLE_PASSWORD": "a", "APP_USER_PASSWORD": "p"}, "without APP_USER", id="password, no user"),
        pytest.param({"ORACLE_PASSWORD_FILE": "/nowhere"}, "/nowhere, which cannot be read", id="no such file"),
        pytest.param({"ORACLE_PASSWORD": "a", "APP_USER": "a b", "APP_USER_PASSWORD": "p"}, "cannot be a user's name", id="name"),
    ],
)
def test_bad_orders_are_refused_with_what_to_do(laboratory: Laboratory, environment: dict[str, str], said: str) -> None:
    container = laboratory.start(environment)
    assert exit_code(container) == 1
    assert said in log_of(container)
    assert "Traceback" not in log_of(container)


def test_a_random_password_is_printed_as_the_vendor_prints_it(laboratory: Laboratory) -> None:
    container = laboratory.ready({"ORACLE_RANDOM_PASSWORD": "yes"})
    password = log_of(container).split("ORACLE PASSWORD FOR SYS AND SYSTEM: ")[1].split()[0]
    connect(container, "system", password).close()
    connect(container, "sys", password).close()


# Services


def test_services_it_does_not_serve_are_refused_as_a_listener_refuses_them(laboratory: Laboratory) -> None:
    container = laboratory.ready({**SECRETS, "ORACLE_DATABASE": "books, xepdb1"})
    for service in ("FREEPDB1", "free", "Books", "XEPDB1"):
        connect(container, service_name=service).close()
    connect(container, sid="XE").close()

    with pytest.raises(oracledb.OperationalError) as refused:
        connect(container, service_name="NOWHERE")
    assert "DPY-6001" in causes(refused.value)  # the driver's name for ORA-12514
    with pytest.raises(oracledb.OperationalError) as refused:
        connect(container, sid="NOWHERE")
    assert "DPY-6003" in causes(refused.value)  # the driver's name for ORA-12505
    address = f"(ADDRESS=(PROTOCOL=TCP)(HOST=127.0.0.1)(PORT={port_of(container)}))"
    with pytest.raises(oracledb.OperationalError, match="ORA-12504"):
        oracledb.connect(user="ledger", password="x", dsn=f"(DESCRIPTION={address}(CONNECT_DATA=(SERVER=DEDICATED)))")


def test_xe_is_not_served_unless_asked_for(laboratory: Laboratory) -> None:
    container = laboratory.ready()
    for where in ({"service_name": "XEPDB1"}, {"sid": "XE"}):
        with pytest.raises(oracledb.OperationalError):
            connect(container, **where)


def test_a_wrong_password_is_refused(laboratory: Laboratory) -> None:
    container = laboratory.ready()
    with pytest.raises(oracledb.DatabaseError, match="ORA-01017"):
        connect(container, password="not it")


# Scripts

_TABLE = "CREATE TABLE ledger.steps (id INTEGER GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name VARCHAR2(40));\n"


def _step(name: str) -> str:
    return f"INSERT INTO ledger.steps (name) VALUES ('{name}');\n"


def _zipped(text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("script.sql", text)
    return buffer.getvalue()


def test_scripts_run_in_the_order_of_their_names_and_start_scripts_at_each_start(laboratory: Laboratory) -> None:
    shell = "printf \"INSERT INTO steps (name) VALUES ('{}');\" | DB_PASSWORD=$APP_USER_PASSWORD standin-sql $APP_USER\n"
    container = laboratory.ready(
        SECRETS,
        {
            f"{INIT}/01.sql": _TABLE + _step("sql"),
            f"{INIT}/02/a.sql": f'CONNECT ledger/"{SECRETS["APP_USER_PASSWORD"]}"@//localhost/FREEPDB1\n' + _step("sub"),
            f"{INIT}/03.sql.gz": gzip.compress(_step("gz").encode()),
            f"{INIT}/04.sql.zip": _zipped(_step("zip")),
            f"{INIT}/05.sh": shell.format("sourced"),
            f"{INIT}/06.sh*": "#!/bin/sh\n" + shell.format("executed"),
            f"{INIT}/07.txt": "ignored",
            f"{START}/01.sql": _step("start"),
        },
    )
    first = ["sql", "sub", "gz", "zip", "sourced", "executed", "start"]
    assert [name for (name,) in rows(container, "SELECT name FROM steps ORDER BY id")] == first
    assert f"ignoring {INIT}/07.txt" in log_of(container)

    container.stop(timeout=20)
    container.start()
    wait_until_ready(container, times=2)
    assert [name for (name,) in rows(container, "SELECT name FROM steps ORDER BY id")] == [*first, "start"]


def test_a_failing_sql_script_stops_the_container_with_file_statement_and_error(laboratory: Laboratory) -> None:
    script = "-- a comment\nPROMPT hello there\nSELECT 1 FROM dual;\n\nINSERT INTO nowhere\n  VALUES (';');\nCOMMIT;\n"
    container = laboratory.start(SECRETS, {f"{INIT}/10_broken.sql": script, f"{INIT}/20_never.sql": "PROMPT never\n"})
    assert exit_code(container) == 1
    log = log_of(container)
    assert f"ERROR: {INIT}/10_broken.sql: statement 2 (line 5): INSERT INTO nowhere: ORA-00942" in log
    assert "hello there" in log
    assert "20_never" not in log
    assert READY not in log

    # What is half made is not passed off as a database.
    container.start()
    assert exit_code(container) == 1
    assert "an earlier first start did not come to its end" in log_of(container)


def test_a_script_may_ask_to_continue_and_runs_what_sqlplus_runs(laboratory: Laboratory) -> None:
    script = (
        "SET DEFINE OFF\nALTER SESSION SET CONTAINER = FREEPDB1;\n"
        "WHENEVER SQLERROR CONTINUE\nDROP TABLE nowhere;\nWHENEVER SQLERROR EXIT SQL.SQLCODE\n"
        f"{_TABLE}"
        "CREATE OR REPLACE PROCEDURE ledger.note(p VARCHAR2) AS\nBEGIN\n"
        "  INSERT INTO ledger.steps (name) VALUES (p); -- ; here\nEND;\n/\n"
        "EXEC ledger.note('it''s; fine')\n"
        "BEGIN\n  ledger.note(q'[a 'b' c]');\nEND;\n/\n"
        "EXIT\nthis is never read\n"
    )
    container = laboratory.ready(SECRETS, {f"{INIT}/a.sql": script})
    assert rows(container, "SELECT name FROM steps ORDER BY id") == [("it's; fine",), ("a 'b' c",)]
    assert "continuing, as the script asked" in log_of(container)


def test_a_failing_shell_script_stops_the_container(laboratory: Laboratory) -> None:
    container = laboratory.start(SECRETS, {f"{START}/a.sh": "echo before\nfalse\necho after\n"})
    assert exit_code(container) == 1
    assert f"ERROR: {START}/a.sh: ended with exit code 1" in log_of(container)
    assert "after" not in log_of(container)


def test_nobody_gets_in_from_outside_before_the_scripts_are_done(laboratory: Laboratory) -> None:
    go_on = f"{INIT}/go-on"
    script = f"until [ -e {go_on} ]; do read -t 0.05 <> <(:) || true; done"
    container = laboratory.start(SECRETS, {f"{INIT}/a.sh": script})
    wait_for(lambda: "running" in log_of(container), container, "the script")
    assert container.exec_run("healthcheck.sh").exit_code == 4
    with pytest.raises(oracledb.OperationalError, match="ORA-12528"):
        connect(container)
    container.exec_run(["touch", go_on])
    wait_until_ready(container)
    connect(container).close()


# Living and ending


def test_health_is_seen_within_seconds_and_names_what_is_asked(laboratory: Laboratory) -> None:
    container = laboratory.ready()
    assert container.exec_run("healthcheck.sh").exit_code == 0
    assert container.exec_run("healthcheck.sh freepdb1,FREE").exit_code == 0
    assert container.exec_run("healthcheck.sh NOWHERE").exit_code == 1

    def healthy() -> bool:
        container.reload()
        return bool(container.attrs["State"]["Health"]["Status"] == "healthy")

    asked = time.monotonic()
    wait_for(healthy, container, "health")
    assert time.monotonic() - asked < 5
    assert container.attrs["Config"]["Healthcheck"]["Interval"] <= 2_000_000_000


def test_term_ends_it_cleanly_and_a_second_start_keeps_data_and_users(laboratory: Laboratory) -> None:
    container = laboratory.ready()
    with connect(container) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept (id INTEGER)")
        cursor.execute("INSERT INTO kept VALUES (7)")
        connection.commit()
    with connect(container, "system") as connection, connection.cursor() as cursor:
        cursor.execute("CREATE USER other IDENTIFIED BY other1")

    asked = time.monotonic()
    container.stop(timeout=30)
    assert time.monotonic() - asked < 8
    assert exit_code(container) == 0
    assert "killed" not in log_of(container)

    container.start()
    wait_until_ready(container, times=2)
    assert rows(container, "SELECT id FROM kept") == [(7,)]
    connect(container, "other", "other1").close()


def test_a_killed_container_starts_again_with_what_was_committed(laboratory: Laboratory) -> None:
    container = laboratory.ready()
    with connect(container) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept (id INTEGER)")
        cursor.execute("INSERT INTO kept VALUES (7)")
        connection.commit()
    container.kill()
    container.wait()
    container.start()
    wait_until_ready(container, times=2)
    assert rows(container, "SELECT id FROM kept") == [(7,)]


def test_term_during_the_first_start_is_obeyed_and_told_apart(laboratory: Laboratory) -> None:
    container = laboratory.start(SECRETS, {f"{INIT}/a.sh": "exec tail -f /dev/null\n"})
    wait_for(lambda: "running" in log_of(container), container, "the script")
    container.stop(timeout=30)
    assert exit_code(container) == 143


@pytest.mark.parametrize(("argument", "name"), [("oracle_standin.listener", "the listener"), ("postgres", "PostgreSQL")])
def test_when_one_of_its_programs_dies_the_container_ends_and_says_which(laboratory: Laboratory, argument: str, name: str) -> None:
    container = laboratory.ready()
    find = f'for p in $(cat /proc/1/task/1/children); do grep -qF {argument} "/proc/$p/cmdline" && kill -KILL $p; done'
    container.exec_run(["bash", "-c", find])
    assert exit_code(container) == 1
    assert f"ERROR: {name} ended by signal 9" in log_of(container)


def test_an_empty_volume_gets_a_database(laboratory: Laboratory) -> None:
    container = laboratory.ready(SECRETS, tmpfs={"/opt/oracle/oradata": f"uid={ORACLE_UID},gid={ORACLE_UID}"})
    assert rows(container, "SELECT user FROM dual") == [("LEDGER",)]


def test_two_containers_never_share_one_data_folder(laboratory: Laboratory) -> None:
    volume = laboratory.client.volumes.create(labels={LABEL: laboratory.label})
    laboratory.ready(volumes=[f"{volume.name}:/opt/oracle/oradata"])
    second = laboratory.start(volumes=[f"{volume.name}:/opt/oracle/oradata"])
    assert exit_code(second) == 1
    assert "another container is using the data" in log_of(second)


def test_postgresql_is_reachable_only_where_asked_for(laboratory: Laboratory) -> None:
    query = ["/opt/oracle/standin/postgresql/psql", "-h", "127.0.0.1", "-U", "ledger", "-tAc"]
    password = {"PGPASSWORD": SECRETS["APP_USER_PASSWORD"]}
    closed = laboratory.ready()
    assert b"refused" in closed.exec_run([*query, "SELECT 1", "freepdb1"], environment=password).output

    opened = laboratory.ready({**SECRETS, "STANDIN_POSTGRESQL": "yes"})
    with connect(opened) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE account (name VARCHAR2(9))")
        cursor.execute("INSERT INTO account VALUES ('cash')")
        connection.commit()
    command = [*query, "UPDATE account SET name = name || '!' RETURNING name", "freepdb1"]
    assert b"cash!" in opened.exec_run(command, environment=password).output
    assert b"failed" in opened.exec_run(command, environment={"PGPASSWORD": "wrong"}).output


# It says what it is


def test_label_log_and_banner_say_that_it_is_not_oracle(laboratory: Laboratory) -> None:
    image = laboratory.client.images.get(laboratory.image)
    assert image.labels["pipeline.database.standin"] == "true"
    assert "Not Oracle" in image.labels["pipeline.database.standin.description"]
    assert not image.attrs["Config"].get("Volumes")
    assert image.attrs["Config"]["User"] == "oracle"
    assert list(image.attrs["Config"]["ExposedPorts"]) == ["1521/tcp"]

    container = laboratory.ready()
    assert "STAND-IN" in log_of(container).splitlines()[0]
    (banner, *_) = rows(container, "SELECT banner FROM v$version")
    assert "stand-in" in banner[0]
    assert "NOT an Oracle database" in banner[0]


# The splitter's rules, without a database


@pytest.fixture(scope="module")
def sqlscript() -> ModuleType:
    specification = importlib.util.spec_from_file_location("oracle_standin_sqlscript", SQLSCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("SELECT 1 FROM dual;", [(1, "SELECT 1 FROM dual")], id="semicolon"),
        pytest.param("SELECT 1\n\nFROM dual\n/\n", [(1, "SELECT 1\n\nFROM dual")], id="slash, empty line kept"),
        pytest.param("SELECT ';' FROM dual;", [(1, "SELECT ';' FROM dual")], id="in a string"),
        pytest.param("SELECT 'a''b;' FROM dual;", [(1, "SELECT 'a''b;' FROM dual")], id="doubled quote"),
        pytest.param("SELECT q'[it's; ok]' FROM dual;", [(1, "SELECT q'[it's; ok]' FROM dual")], id="q-quote"),
        pytest.param("SELECT nq'!a';b!' FROM dual;", [(1, "SELECT nq'!a';b!' FROM dual")], id="nq-quote"),
        pytest.param("SELECT seq'x' FROM dual;", [(1, "SELECT seq'x' FROM dual")], id="q at the end of a word"),
        pytest.param('SELECT 1 ";" FROM dual;', [(1, 'SELECT 1 ";" FROM dual')], id="quoted name"),
        pytest.param("SELECT 1 -- ;\nFROM dual;", [(1, "SELECT 1 -- ;\nFROM dual")], id="line comment"),
        pytest.param("SELECT 1 /* ;\n/\n*/ FROM dual;", [(1, "SELECT 1 /* ;\n/\n*/ FROM dual")], id="slash in comment"),
        pytest.param("SELECT 1 FROM a; SELECT 2 FROM b;", [(1, "SELECT 1 FROM a"), (1, "SELECT 2 FROM b")], id="two"),
        pytest.param("/* head\n*/\n-- x\nCOMMIT;", [(4, "COMMIT")], id="comments between"),
        pytest.param("BEGIN\n x;\nEND;\n/\nCOMMIT;", [(1, "BEGIN\n x;\nEND;"), (5, "COMMIT")], id="block"),
        pytest.param(
            "create or replace /* c */\n trigger t x;\n/",
            [(1, "create or replace /* c */\n trigger t x;")],
            id="trigger",
        ),
        pytest.param("COMMIT;\n/\n", [(1, "COMMIT"), (1, "COMMIT")], id="slash repeats"),
        pytest.param("SET TRANSACTION READ ONLY;", [(1, "SET TRANSACTION READ ONLY")], id="SQL's own SET"),
        pytest.param("\ufeffCOMMIT;\r\n", [(1, "COMMIT")], id="byte order mark and CRLF"),
        pytest.param("SET ECHO ON\nPRO it's; me\nrem don't\nCOMMIT;", [(4, "COMMIT")], id="commands"),
    ],
)
def test_statements_are_split_as_sqlplus_splits_them(sqlscript: ModuleType, text: str, expected: list[tuple[int, str]]) -> None:
    found = [item for item in sqlscript.read_script(text) if isinstance(item, sqlscript.Statement)]
    assert [(item.line, item.text) for item in found] == expected


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("COMMIT;\nSELECT 1\nFROM dual\n", 2, "never ended: ';' or '/'"),
        ("BEGIN\n x;\nEND;\n", 1, "never ended: '/'"),
        ("SELECT\n'abc\n;\n", 2, "string is never closed"),
        ("/* abc\n", 1, "comment is never closed"),
        ("/\n", 1, "no statement before"),
    ],
)
def test_what_is_never_ended_is_an_error_with_its_line(sqlscript: ModuleType, text: str, line: int, said: str) -> None:
    with pytest.raises(sqlscript.ScriptSyntaxError, match=said) as raised:
        list(sqlscript.read_script(text))
    assert raised.value.line == line


def test_a_statement_is_named_without_what_may_be_secret(sqlscript: ModuleType) -> None:
    (statement,) = sqlscript.read_script('CREATE USER scott IDENTIFIED BY "tiger";')
    assert statement.summary == "CREATE USER scott"
