"""The integration-test bracket on a real engine, with databases that work and databases that do not.

Each test is a person at a command line: its own checkout, its own project label, real processes. After each of them
nothing of that project is left on the engine.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipeline.databases import readiness
from pipeline.databases.engine import Account, Address, Answer, Password
from pipeline.databases.knock import knock
from pipeline.databases.readiness import HealthCheck, wait_until_ready
from pipeline.integration.lease import FOLDER as FILES
from pipeline.plugins import ORACLE
from pipeline.sessions import CHECKOUT, LEASE, PROJECT, SESSION, current_owner, own_session
from tests.engine.checkouts import PASSING, SCHEMA, WAITING, Checkout, kill_programs, wait_until
from tests.engine.engine_proxy import engine_proxy


@pytest.fixture
def faulty_image(standin_image: str) -> Iterator[Callable[..., str]]:
    """Makes an image that runs another command instead of the database."""
    made: list[str] = []

    def make(*command: str) -> str:
        made.append(f"pipeline-test/faulty:{uuid.uuid4().hex[:10]}")
        dockerfile = f"FROM {standin_image}\nHEALTHCHECK NONE\nENTRYPOINT {json.dumps(command)}\nCMD []\n"
        subprocess.run(["docker", "build", "--quiet", "--tag", made[-1], "-"], input=dockerfile.encode(), check=True, capture_output=True)
        return made[-1]

    yield make
    for image in made:
        subprocess.run(["docker", "image", "rm", "--force", image], check=False, capture_output=True)


# The bracket


def test_itest_starts_prepares_tests_and_leaves_only_results(checkout: Checkout, standin_image: str) -> None:
    ended = checkout.invoke("itest")
    assert ended.code == 0, ended.err
    assert ended.out == ""
    assert "1 passed, 0 failed" in ended.err
    assert "stand-in, not Oracle" in ended.err
    checkout.assert_nothing_left()
    junit = (checkout.results / "junit.xml").read_text()
    assert f'name="database.image" value="{standin_image}"' in junit
    assert 'name="database.standin" value="true"' in junit
    assert "DATABASE IS READY TO USE!" in (checkout.results / "database.log").read_text()
    assert "stand-in" in (checkout.results / "summary.md").read_text()


def test_its_own_overhead_is_below_a_second(checkout: Checkout) -> None:
    checkout.write("tests.py", "")
    overheads = []
    for _ in range(5):  # one quiet run is enough: whatever else this machine does only makes it slower
        begun = time.monotonic()
        ended = checkout.invoke("itest")
        seconds = time.monotonic() - begun
        assert ended.code == 0, ended.err
        summary = dict(line.strip("| ").split(" | ") for line in (checkout.results / "summary.md").read_text().splitlines()[4:])
        overheads.append(seconds - float(summary["ready after"].split()[0]) - float(summary["tests took"].split()[0]))
        if overheads[-1] <= 1.0:
            break
    assert min(overheads) <= 1.0, overheads


def test_failing_tests_have_an_exit_code_of_their_own(checkout: Checkout) -> None:
    checkout.write("tests.py", "raise SystemExit(3)")
    ended = checkout.invoke("itest")
    assert ended.code == 42
    assert "failed with exit code 3: no JUnit XML was written" in ended.err
    checkout.assert_nothing_left()


def test_a_killed_test_process_is_a_failure_that_says_so(checkout: Checkout) -> None:
    checkout.write("tests.py", "import os; os.kill(os.getpid(), 9)")
    ended = checkout.invoke("itest")
    assert ended.code == 42
    assert "killed by SIGKILL" in ended.err
    checkout.assert_nothing_left()


def test_a_database_that_dies_during_the_tests_is_named(checkout: Checkout) -> None:
    checkout.write("tests.py", WAITING + "raise SystemExit(1)")
    process = checkout.begin("itest")
    wait_until((checkout.root / "testing").exists, "the tests run")
    kill_programs(checkout.containers[0].id)
    checkout.write("go", "")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 42
    assert "meanwhile the database's container ended with exit code 137" in err
    checkout.assert_nothing_left()


def test_a_database_that_is_removed_during_the_tests_is_missed(checkout: Checkout) -> None:
    checkout.write(
        "tests.py", f"import os; os.system('docker kill $(docker ps -q --filter label={PROJECT}={checkout.project})'); raise SystemExit(1)"
    )
    ended = checkout.invoke("itest")
    assert ended.code == 42
    assert "meanwhile the database's container" in ended.err
    checkout.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["starting", "testing"])
def test_an_interrupted_itest_cleans_up(checkout: Checkout, number: signal.Signals, when: str) -> None:
    checkout.write("tests.py", "import pathlib, time; pathlib.Path('testing').touch(); time.sleep(60)")
    process = checkout.begin("itest")
    if when == "starting":
        wait_until(lambda: checkout.containers, "the container exists")
    else:
        wait_until((checkout.root / "testing").exists, "the tests run")
    process.send_signal(number)
    begun = time.monotonic()
    if number == signal.SIGINT:
        process.send_signal(number)  # a second Ctrl-C changes nothing
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number, err
    assert time.monotonic() - begun < 5
    checkout.assert_nothing_left()


def test_an_interrupted_start_leaves_nothing_but_a_running_session_stays(checkout: Checkout, faulty_image: Callable[..., str]) -> None:
    good, never_ready = _image(checkout), faulty_image("sleep", "600")
    checkout.configure(never_ready)
    process = checkout.begin("start-oracle")
    wait_until(lambda: checkout.containers, "the container exists")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    checkout.assert_nothing_left()
    checkout.configure(good, "prepare: [{sql: sql}]")
    checkout.write("tests.py", "import pathlib, time; pathlib.Path('testing').touch(); time.sleep(60)")
    checkout.start()
    process = checkout.begin("run-tests")
    wait_until((checkout.root / "testing").exists, "the tests run")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert [container.state for container in checkout.containers] == ["running"]
    assert "interrupted" in (checkout.results / "summary.md").read_text()


def test_interrupted_at_any_moment_of_the_start_nothing_is_left(checkout: Checkout) -> None:
    for moment in (0.25, 0.35, 0.45, 0.55, 0.65):  # seconds after the program began: before, while and after creating
        process = checkout.begin("itest")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        checkout.assert_nothing_left()


def test_a_second_itest_in_the_same_checkout_is_refused_before_anything_starts(checkout: Checkout) -> None:
    waiting = "\nimport time\nPath('testing').touch()\nwhile not Path('go').exists(): time.sleep(0.02)\n"
    checkout.write("tests.py", PASSING + waiting)
    process = checkout.begin("itest")
    wait_until((checkout.root / "testing").exists, "the tests run")
    for command in ("itest", "run-tests"):
        ended = checkout.invoke(command)
        assert ended.code == 44
        assert f"`invoke itest` (process {process.pid}) is running in this checkout" in ended.err
        assert "database:" not in ended.err
    started = checkout.invoke("start-oracle", "--image", "127.0.0.1:1/no/such:image")  # may run; the results are not its own
    assert started.code == 22
    checkout.write("go", "")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "1 passed" in err
    checkout.assert_nothing_left()


def test_two_checkouts_test_at_once(checkout: Checkout, make_checkout: Callable[[], Checkout]) -> None:
    other = make_checkout()
    other.configure(_image(checkout), "prepare: [{sql: sql}]")
    other.write("sql/01-schema.sql", SCHEMA)
    for here, there in ((checkout, other), (other, checkout)):
        meeting = f"\nimport time\nPath('testing').touch()\nwhile not Path({str(there.root)!r}, 'testing').exists(): time.sleep(0.02)\n"
        here.write("tests.py", PASSING + meeting)
    for process in [each.begin("itest") for each in (checkout, other)]:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err


# Three processes


def test_three_steps_from_three_processes(checkout: Checkout, standin_image: str) -> None:
    said = checkout.start()
    assert list(said) == ["session", "engine", "image", "baked", "standin", "host", "port", "service", "user", "dsn", "ready_seconds"]
    assert (said["image"], said["standin"], said["host"], said["service"], said["user"]) == (
        standin_image,
        True,
        "127.0.0.1",
        "FREEPDB1",
        "app",
    )
    assert said["dsn"] == f"127.0.0.1:{said['port']}/FREEPDB1"
    assert stat.S_IMODE((checkout.root / ".pipeline/database.properties").stat().st_mode) == 0o600
    assert checkout.invoke("run-tests").code == 0
    assert len(checkout.containers) == 1
    assert checkout.invoke("stop-oracle").code == 0
    checkout.assert_nothing_left()
    assert (checkout.results / "junit.xml").exists()
    assert checkout.invoke("stop-oracle").code == 0  # a second time
    assert checkout.invoke("run-tests").code == 43


def test_starting_twice_gives_the_same_session_prepared_once(checkout: Checkout) -> None:
    first, second = checkout.start(), checkout.start()
    assert {**first, "ready_seconds": 0} == {**second, "ready_seconds": 0}
    assert len(checkout.containers) == 1
    assert checkout.invoke("run-tests").code == 0  # a second preparation would have doubled the rows


def test_stdout_holds_one_document_whatever_a_preparing_program_prints(checkout: Checkout) -> None:
    checkout.configure(_image(checkout), "prepare: [{sql: sql}, {run: [echo, migrated]}]")
    ended = checkout.invoke("start-oracle", "--json")
    assert json.loads(ended.out)["image"] == _image(checkout), ended.out
    assert "\nmigrated\n" in ended.err


def test_results_of_an_earlier_run_are_not_those_of_one_that_fails(checkout: Checkout) -> None:
    def left_after(*arguments: str) -> str:
        assert checkout.invoke("itest").code == 0
        assert (checkout.results / "junit.xml").exists()
        assert checkout.invoke(*arguments, "--image", "127.0.0.1:1/no/such:image").code == 22
        assert not (checkout.results / "junit.xml").exists()
        assert not (checkout.results / "database.log").exists()
        return (checkout.results / "summary.md").read_text()

    assert "not started: 127.0.0.1:1/no/such:image cannot be pulled" in left_after("start-oracle")
    assert "not started: 127.0.0.1:1/no/such:image cannot be pulled" in left_after("itest")
    assert checkout.invoke("itest").code == 0
    assert checkout.invoke("run-tests").code == 43
    assert [path.name for path in checkout.results.iterdir()] == ["summary.md"]
    assert "not run: there is no session" in (checkout.results / "summary.md").read_text()


def test_a_second_start_leaves_the_results_of_the_tests_alone(checkout: Checkout) -> None:
    checkout.start()
    assert checkout.invoke("run-tests").code == 0
    checkout.start()
    assert checkout.invoke("start-oracle", "--image", "127.0.0.1:1/no/such:image").code == 22
    assert (checkout.results / "junit.xml").exists()
    assert "the tests passed" in (checkout.results / "summary.md").read_text()


def test_concurrent_starts_make_one_database(checkout: Checkout) -> None:
    with ThreadPoolExecutor(3) as pool:
        ports = {said["port"] for said in pool.map(lambda _: checkout.start(), range(3))}
    assert len(ports) == 1
    assert len(checkout.containers) == 1
    assert checkout.invoke("run-tests").code == 0


def test_the_state_on_disk_is_only_a_convenience(checkout: Checkout) -> None:
    checkout.start()
    for path in (checkout.root / ".pipeline").rglob("*"):
        if path.is_file():
            path.unlink()
    assert checkout.invoke("run-tests").code == 0
    (checkout.root / ".pipeline/database.sh").write_text("export DB_HOST=another.machine\n")
    assert checkout.invoke("stop-oracle").code == 0
    checkout.assert_nothing_left()


def test_a_dead_database_is_replaced(checkout: Checkout) -> None:
    first = checkout.start()
    kill_programs(checkout.containers[0].id)
    missing = checkout.invoke("run-tests")
    assert missing.code == 43
    assert "exit code 137" in missing.err
    assert "DATABASE IS READY TO USE!" in (checkout.results / "database.log").read_text()
    assert checkout.start()["session"] == first["session"]
    assert len(checkout.containers) == 1
    assert checkout.invoke("run-tests").code == 0


def test_a_database_that_dies_while_run_tests_looks_for_it_leaves_its_log(checkout: Checkout) -> None:
    port = checkout.start()["port"]
    subprocess.run(["docker", "pause", checkout.containers[0].id], check=True, capture_output=True)  # nobody can log in
    process = checkout.begin("run-tests")
    established = f":{port:04X} 01 "  # proc_net_tcp: remote address, state
    wait_until(lambda: established in Path("/proc/net/tcp").read_text(), "run-tests tries to log in")
    kill_programs(checkout.containers[0].id)  # which takes place once they run again
    subprocess.run(["docker", "unpause", checkout.containers[0].id], check=True, capture_output=True)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 40, err
    assert "Its whole log is in .pipeline/itest/database.log." in err
    assert "DATABASE IS READY TO USE!" in (checkout.results / "database.log").read_text()


@pytest.mark.parametrize("moment", ["created", "preparing"])
def test_a_start_that_was_killed_half_way_is_begun_again(checkout: Checkout, moment: str) -> None:
    if moment == "created":
        session = own_session(checkout.project, checkout.root, 60, {})
        labels = {**session.labels("database"), "pipeline.owner": _dead_process()}
        image = (checkout.root / "pipeline.yaml").read_text().split("image: ")[1].split()[0]
        assert checkout.engine.create_container(name=session.name_of("database"), image=image, labels=labels, environment={}, publish=1521)
    else:
        checkout.configure(_image(checkout), "prepare: [{sql: sql}, {run: [sh, slow.sh]}]")
        checkout.write("slow.sh", "touch preparing; for i in $(seq 400); do test -e resumed && exit 0; sleep 0.05; done; exit 1")
        with checkout.begin("start-oracle") as process:
            wait_until((checkout.root / "preparing").exists, "preparation has begun")
            process.kill()
        checkout.write("resumed", "")
    checkout.start()
    assert checkout.invoke("run-tests").code == 0
    assert len(checkout.containers) == 1


def test_sessions_do_not_see_each_other(checkout: Checkout) -> None:
    own, build, named = checkout.start(), checkout.start(BUILD_TAG="jenkins-1"), checkout.start("--session", "night run")
    assert len({said["port"] for said in (own, build, named)}) == 3
    assert checkout.invoke("itest").code == 0
    assert len(checkout.containers) == 3
    assert checkout.invoke("stop-oracle").code == 0
    assert {container.labels[SESSION] for container in checkout.containers} == {build["session"], "night run"}
    assert checkout.invoke("run-tests", "--session", build["session"]).code == 0
    assert checkout.invoke("run-tests").code == 43
    assert checkout.invoke("stop-oracle", "--session", "night run").code == 0
    assert checkout.invoke("stop-oracle", BUILD_TAG="jenkins-1").code == 0
    checkout.assert_nothing_left()


def test_a_running_session_is_not_silently_another_database(checkout: Checkout, faulty_image: Callable[..., str]) -> None:
    checkout.start()
    ended = checkout.invoke("start-oracle", "--image", faulty_image("true"))
    assert ended.code == 10
    assert "stop-oracle" in ended.err


# Secrets and labels


def test_passwords_are_nowhere_but_in_the_owner_s_files(checkout: Checkout) -> None:
    said = checkout.invoke("start-oracle", "--json")
    shell = (checkout.root / ".pipeline/database.sh").read_text()
    password = shell.split("DB_PASSWORD=")[1].split("\n")[0]
    assert len(password) >= 20
    container = checkout.containers[0].id
    shown = subprocess.run(["docker", "inspect", container], check=True, capture_output=True, text=True).stdout
    assert "ORACLE_PASSWORD_FILE=" in shown
    checkout.write("tests.py", "import os; print('the password is', os.environ['DB_PASSWORD'], file=open('out.xml', 'w'))")
    run = checkout.invoke("run-tests")
    stop = checkout.invoke("stop-oracle")
    archived = "".join(path.read_text() for path in checkout.results.rglob("*") if path.is_file())
    for text in (shown, said.out, said.err, run.out, run.err, stop.out, stop.err, archived):
        assert password not in text


def test_a_database_that_logs_its_password_is_masked(checkout: Checkout, faulty_image: Callable[..., str]) -> None:
    checkout.configure(faulty_image("sh", "-c", "echo secret: $(cat $APP_USER_PASSWORD_FILE); exit 1"))
    ended = checkout.invoke("itest")
    assert ended.code == 40
    assert "secret: ***" in ended.err
    assert "secret: ***" in (checkout.results / "database.log").read_text()


def test_everything_is_labelled_and_published_on_loopback_only(checkout: Checkout) -> None:
    said = checkout.start()
    found = json.loads(subprocess.run(["docker", "inspect", checkout.containers[0].id], check=True, capture_output=True).stdout)[0]
    assert found["NetworkSettings"]["Ports"]["1521/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": str(said["port"])}]
    labels = found["Config"]["Labels"]
    assert labels[PROJECT] == checkout.project
    assert labels[SESSION] == said["session"]
    assert labels["pipeline.checkout"] == str(checkout.root)
    assert int(labels[LEASE]) > time.time() + 3600


def test_a_volume_that_an_image_declares_is_labelled_and_goes_with_its_container(checkout: Checkout, standin_image: str) -> None:
    image = f"pipeline-test/volume:{checkout.project}"
    dockerfile = f"FROM {standin_image}\nVOLUME /opt/oracle/oradata\n".encode()
    subprocess.run(["docker", "build", "--quiet", "--tag", image, "-"], input=dockerfile, check=True, capture_output=True)
    try:
        checkout.start("--image", image)
        assert len(checkout.engine.list_volumes({PROJECT: checkout.project})) == 1
        assert checkout.invoke("stop-oracle").code == 0
        checkout.assert_nothing_left()
    finally:
        subprocess.run(["docker", "image", "rm", "--force", image], check=False, capture_output=True)


def test_a_start_sweeps_what_outlived_its_lease_and_not_the_living(checkout: Checkout, make_checkout: Callable[[], Checkout]) -> None:
    image, other = _image(checkout), make_checkout()

    def leave(session: str, lease: float, project: str = checkout.project) -> str:
        labels = {PROJECT: project, SESSION: session, LEASE: str(int(time.time() + lease)), CHECKOUT: str(checkout.root)}
        name = f"{project}-{session}"
        container = checkout.engine.create_container(name=name, image=image, labels=labels, environment={}, publish=1521)
        assert container
        return container

    leave("over", -10)
    files = {name: checkout.root / f".pipeline/database-{name}.sh" for name in ("over", "living")}
    for file in files.values():
        checkout.write(str(file.relative_to(checkout.root)), "export DB_PASSWORD=Geheim1\n")
    living, foreign = leave("living", 600), leave("over", -10, other.project)
    volume = f"{checkout.project}-volume"
    over = ["--label", f"{PROJECT}={checkout.project}", "--label", f"{SESSION}=over", "--label", f"{LEASE}=1"]
    subprocess.run(["docker", "volume", "create", *over, volume], check=True, capture_output=True)
    subprocess.run(["docker", "network", "create", *over, volume], check=True, capture_output=True)
    ended = checkout.invoke("itest")
    assert ended.code == 0, ended.err
    assert "swept session over" in ended.err
    assert (files["over"].exists(), files["living"].exists()) == (False, True)
    assert [container.id for container in checkout.containers] == [living]
    assert [container.id for container in other.containers] == [foreign]
    assert checkout.engine.list_volumes({PROJECT: checkout.project}) == {}
    assert checkout.engine.list_networks({PROJECT: checkout.project}) == {}


# Databases and commands that fail


def test_a_database_that_exits_is_noticed_at_once_with_its_last_words(checkout: Checkout, faulty_image: Callable[..., str]) -> None:
    checkout.configure(faulty_image("sh", "-c", "sleep 0.5; echo no space left on device >&2; exit 3"))
    begun = time.monotonic()
    ended = checkout.invoke("itest")
    assert time.monotonic() - begun < 5
    assert ended.code == 40
    assert "ended with exit code 3" in ended.err
    assert "no space left on device" in ended.err
    assert "no space left on device" in (checkout.results / "database.log").read_text()
    assert "not started" in (checkout.results / "summary.md").read_text()
    checkout.assert_nothing_left()


def test_a_database_out_of_memory_says_so(checkout: Checkout, faulty_image: Callable[..., str]) -> None:
    checkout.configure(faulty_image("python3", "-c", "a = []\nwhile True: a.append(bytearray(10_000_000))"), "memory: 64m")
    ended = checkout.invoke("itest")
    assert ended.code == 40
    assert "exit code 137, out of memory" in ended.err
    checkout.assert_nothing_left()


_LISTEN = "import socket, time; s = socket.create_server(('', 1521)); k = []\nwhile True: k.append(s.accept())"


@pytest.mark.parametrize(("command", "reason"), [(("sleep", "600"), "DPY-"), (("python3", "-c", _LISTEN), "stayed silent")])
def test_a_database_that_never_gets_ready_times_out_with_the_reason(
    checkout: Checkout, faulty_image: Callable[..., str], command: tuple[str, ...], reason: str
) -> None:
    checkout.configure(faulty_image(*command), "deadline: 3")
    begun = time.monotonic()
    ended = checkout.invoke("itest")
    assert time.monotonic() - begun < 8
    assert ended.code == 40
    assert "not ready after 3 s" in ended.err
    assert reason in ended.err
    report = ElementTree.parse(checkout.root / ".pipeline/itest/pipeline.xml").getroot()
    (case,) = report.iter("testcase")
    properties = {entry.get("name"): entry.get("value") for entry in report.iter("property")}
    assert case.get("name") == f"start of the database: {properties['failure.phase']}"
    assert "processes" in str(properties["database.limits"])
    checkout.assert_nothing_left()


LOCKED = """
import os, oracledb
def login():
    return oracledb.connect(user=os.environ["DB_USER"], password=os.environ["DB_PASSWORD"], dsn=os.environ["DB_DSN"])
first, second = login(), login()
first.cursor().execute("UPDATE customer SET name = 'one'")
second.cursor().execute("UPDATE customer SET name = 'two' /* waits */")
"""


def test_tests_that_hang_are_ended_and_what_the_database_was_doing_is_kept(checkout: Checkout) -> None:
    checkout.configure(_image(checkout), "prepare: [{sql: sql}]", "timeout: 3")
    checkout.write("tests.py", LOCKED)
    ended = checkout.invoke("itest")
    assert ended.code == 42
    assert "ended after 3 s (`itest.timeout`)" in ended.err
    activity = (checkout.root / ".pipeline/itest/activity.md").read_text()
    assert "## Sessions" in activity
    assert "## Locks" in activity
    assert "| limits | memory" in (checkout.root / ".pipeline/itest/summary.md").read_text()
    checkout.assert_nothing_left()


def test_a_failing_statement_names_file_line_and_reason(checkout: Checkout) -> None:
    checkout.write("sql/02-data.sql", "INSERT INTO customer VALUES ('x');\n\nINSERT INTO\n  customers VALUES ('y');\n")
    ended = checkout.invoke("itest")
    assert ended.code == 41
    assert "sql/02-data.sql:" in ended.err
    assert "statement 2" in ended.err
    assert "ORA-00942" in ended.err
    checkout.assert_nothing_left()


def test_the_administrator_may_prepare_what_the_application_may_not(checkout: Checkout) -> None:
    checkout.configure(_image(checkout), "prepare: [{sql: admin.sql, user: system}, {sql: sql}]")
    checkout.write("admin.sql", 'CREATE USER auditor IDENTIFIED BY "Audit0r1";\nGRANT CREATE SESSION TO auditor;\n')
    ended = checkout.invoke("itest")
    assert ended.code == 0, ended.err
    assert "admin.sql (2 statements, as system)" in ended.err


def test_programs_may_prepare_too_and_may_fail(checkout: Checkout) -> None:
    checkout.configure(_image(checkout), "prepare: [{sql: sql}, {run: [sh, -c, 'test -n \"$DB_JDBC_URL\" && exit 7']}]")
    ended = checkout.invoke("start-oracle")
    assert ended.code == 41
    assert "exit code 7" in ended.err
    checkout.assert_nothing_left()


@pytest.mark.parametrize("run", [("no-such-program",), ("./mvnw", "verify")])
def test_a_test_command_that_does_not_exist_is_known_before_a_database_starts(checkout: Checkout, run: tuple[str, ...]) -> None:
    checkout.configure(_image(checkout), run=run)
    ended = checkout.invoke("itest")
    assert ended.code == 10
    assert run[0] in ended.err
    assert "database:" not in ended.err
    checkout.assert_nothing_left()


def test_an_image_that_cannot_be_pulled_is_an_error_before_anything_starts(checkout: Checkout) -> None:
    ended = checkout.invoke("itest", "--image", "127.0.0.1:1/no/such:image")
    assert ended.code == 22
    assert "127.0.0.1:1/no/such:image" in ended.err
    assert "itest.image" in ended.err
    checkout.assert_nothing_left()


def test_an_engine_that_goes_away_in_the_middle_is_an_error_of_its_own(checkout: Checkout) -> None:
    checkout.write(
        "tests.py", "import pathlib, time; pathlib.Path('testing').touch()\nwhile not pathlib.Path('go').exists(): time.sleep(0.02)"
    )
    with engine_proxy() as proxy:
        process = checkout.begin("itest", DOCKER_HOST=proxy.address)
        wait_until((checkout.root / "testing").exists, "the tests run")
    checkout.write("go", "")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 20, err
    assert proxy.address in err
    (left,) = checkout.containers  # out of reach; the next start after its lease sweeps it
    assert left.labels[SESSION].startswith("itest-")


def test_an_engine_on_a_port_of_this_machine_is_as_good_as_a_socket(checkout: Checkout) -> None:
    with engine_proxy() as proxy:
        ended = checkout.invoke("itest", DOCKER_HOST=proxy.address)
    assert ended.code == 0, ended.err
    checkout.assert_nothing_left()


def test_an_engine_named_by_docker_s_context_is_used(checkout: Checkout, tmp_path: Path) -> None:
    with engine_proxy() as proxy:
        environment = {**os.environ, "DOCKER_CONFIG": str(tmp_path / "docker")}
        create = ["docker", "context", "create", "elsewhere", "--docker", f"host={proxy.address}"]
        subprocess.run(create, env=environment, check=True, capture_output=True)
        ended = checkout.invoke("itest", DOCKER_CONFIG=str(tmp_path / "docker"), DOCKER_CONTEXT="elsewhere")
        assert ended.code == 0, ended.err
        assert proxy.connections > 0


def test_an_engine_whose_ports_cannot_be_reached_says_why_before_anything_starts(checkout: Checkout) -> None:
    with engine_proxy("0.0.0.0") as proxy:
        elsewhere = proxy.address.replace("0.0.0.0", _address_on_a_network())
        ended = checkout.invoke("itest", DOCKER_HOST=elsewhere)
        assert ended.code == 20
        assert "itest.bind" in ended.err
        assert checkout.containers == []
        checkout.configure(_image(checkout), "prepare: [{sql: sql}]", "bind: 0.0.0.0")
        ended = checkout.invoke("itest", DOCKER_HOST=elsewhere)
        assert ended.code == 0, ended.err
    checkout.assert_nothing_left()


def test_a_user_who_comes_late_is_waited_for(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Early on a database may refuse a login that it accepts a moment later."""
    monkeypatch.setattr(readiness, "REFUSED_PAUSES", (0.2, 0.4, 0.8, 1.6))
    said = checkout.start()
    password = checkout.engine.read_file(checkout.containers[0].id, f"{FILES}/system")
    assert password
    address = Address(said["host"], said["port"], said["service"])
    system = ORACLE.connect(address, Account("system", Password(password.decode())))
    late = Account("late", Password("Late1234"))
    refusals: list[float] = []

    async def log_in(patience: float) -> Answer:
        answer = await ORACLE.log_in(address, late, patience)
        if answer.refused:
            refusals.append(time.monotonic())
            if len(refusals) == 2:
                assert system.execute('CREATE USER late IDENTIFIED BY "Late1234"') is None
                assert system.execute("GRANT CREATE SESSION TO late") is None
        return answer

    wait_until_ready(log_in, lambda: None, lambda: False, lambda: knock(address, ORACLE.knock), HealthCheck(deadline=30))
    assert len(refusals) == 2
    assert refusals[1] - refusals[0] >= 0.2
    system.close()


def test_an_engine_that_does_not_answer_has_an_exit_code_of_its_own(checkout: Checkout) -> None:
    ended = checkout.invoke("start-oracle", DOCKER_HOST="unix:///nonexistent/docker.sock")
    assert ended.code == 20
    reason = "does not answer (while trying to connect): No such file or directory\n"
    assert ended.err.startswith(f"error: the engine at unix:///nonexistent/docker.sock {reason}")
    assert ended.err.count("docker.sock") == 1
    assert "not started" in (checkout.results / "summary.md").read_text()


def _image(checkout: Checkout) -> str:
    return (checkout.root / "pipeline.yaml").read_text().split("image: ")[1].split()[0]


def _address_on_a_network() -> str:
    """An address of this machine that is not a loopback address: the engine's own bridge."""
    command = ["docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _dead_process() -> str:
    host, pid, start = current_owner().split(":")
    return f"{host}:{pid}:{int(start) - 1}"
