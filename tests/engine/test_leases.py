"""Nothing is left behind: containers end by themselves when nobody renews their lease, whatever else has died meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from pipeline.adapters.docker_context import Endpoint
from pipeline.adapters.docker_engine import DockerEngine
from pipeline.databases.contract import load_kind
from pipeline.errors import EngineError
from pipeline.integration.database import DatabaseHost, DatabaseSpec
from pipeline.integration.interruption import Interruption
from pipeline.integration.lease import FOLDER, LAUNCHER, STAY, lease_files, look, renewal
from pipeline.sessions import OWNER, PROJECT, Session, current_owner, sweep
from tests.engine.checkouts import WAITING, Checkout, kill_programs
from tests.engine.conftest import wait_for
from tests.engine.second_engine import SecondEngine, second_engine

LISTENING = 1  # the port that the little containers publish; nobody listens
SHIFTED_CLOCK = "import os, time\nreal = time.time\ntime.time = lambda: real() + float(os.environ['CLOCK_SHIFT'])\n"


@pytest.fixture
def volume_image(tiny_image: str, engine: docker.DockerClient) -> Iterator[str]:
    """A shell, with a volume, as a user who may write nowhere else."""
    name = f"pipeline-test/leased:{uuid.uuid4().hex[:8]}"
    dockerfile = f'FROM {tiny_image}\nVOLUME /data\nUSER 1234\nENTRYPOINT ["sh", "-c"]\nCMD ["echo begun; sleep 600"]\n'
    command = ["docker", "buildx", "build", "--quiet", "--provenance=false", "--load", "--tag", name, "-"]
    subprocess.run(command, input=dockerfile.encode(), capture_output=True, check=True)
    yield name
    engine.images.remove(name, force=True)


@pytest.fixture
def session() -> Iterator[Session]:
    """A session of its own on the engine under test, of which nothing is left afterwards."""
    made = Session(f"test-{uuid.uuid4().hex[:10]}", "leased", "/checkout", 60)
    yield made
    engine = DockerEngine()
    for container in engine.list_containers({PROJECT: made.project}):
        engine.remove_container(container.id)


def start(engine: DockerEngine, session: Session, image: str, seconds: float, owner: str = "") -> str:
    """A container under a lease."""
    container = engine.create_container(
        name=session.name_of("leased"),
        image=image,
        labels={**session.labels("leased"), **({OWNER: owner} if owner else {})},
        environment={},
        publish=LISTENING,
        launcher=LAUNCHER,
        auto_remove=True,
    )
    assert container
    engine.write_files(container, FOLDER, lease_files(seconds))
    engine.start_container(container)
    return container


def dead_owner() -> str:
    """A process that had the id of this one."""
    place, pid, begun = current_owner().split(":")
    return f"{place}:{pid}:{int(begun) - 1}"


def nothing_left(engine: DockerEngine, session: Session) -> bool:
    mark = {PROJECT: session.project}
    return not engine.list_containers(mark) and not engine.list_volumes(mark)


def test_a_container_ends_with_its_lease_and_its_volumes_with_it(volume_image: str, session: Session) -> None:
    engine = DockerEngine()
    begun = time.monotonic()
    container = start(engine, session, volume_image, 4)
    assert len(engine.list_volumes({PROJECT: session.project})) == 1
    engine.write_files(container, FOLDER, renewal(3))  # seen when the first one is over
    wait_for(lambda: nothing_left(engine, session), "the lease is over", deadline=60)
    assert time.monotonic() - begun > 3


def test_a_dead_program_is_noticed_with_its_exit_code_and_its_container_goes_with_the_lease(volume_image: str, session: Session) -> None:
    engine = DockerEngine()
    container = start(engine, session, volume_image, 60)
    wait_for(lambda: b"begun" in engine.read_log(container), "the program has begun")
    found = look(engine, container)
    assert found
    assert found.state == "running"
    begun = time.monotonic()
    kill_programs(container)
    while (found := look(engine, container)) and found.state == "running":
        assert time.monotonic() - begun < 10
    assert found
    assert (found.state, found.exit_code, found.out_of_memory) == ("exited", 137, False)
    assert time.monotonic() - begun < 1, "the promise is 0.3 s, on a machine that does nothing else"
    engine.write_files(container, FOLDER, renewal(1))
    subprocess.run(["docker", "kill", "--signal", "TERM", container], check=True, capture_output=True)
    wait_for(lambda: nothing_left(engine, session), "it ends when asked to")


def test_a_program_ended_in_order_can_still_be_looked_at(volume_image: str, session: Session) -> None:
    engine = DockerEngine()
    container = start(engine, session, volume_image, 60)
    wait_for(lambda: b"begun" in engine.read_log(container), "the program has begun")
    subprocess.run(["docker", "kill", "--signal", STAY, container], check=True, capture_output=True)
    found = wait_for(lambda: (at := look(engine, container)) and at.state == "exited" and at, "the program has ended")
    assert found.exit_code == 128 + 15
    subprocess.run(["docker", "stop", container], check=True, capture_output=True)
    wait_for(lambda: nothing_left(engine, session), "it is removed when it is stopped")


def test_an_image_s_own_health_check_and_exit_code_stay(tiny_image: str, session: Session) -> None:
    """`docker stop` as without a lease: the program's own answer to TERM."""
    engine = DockerEngine()
    name = f"pipeline-test/healthy:{uuid.uuid4().hex[:8]}"
    script = "trap 'echo bye; exit 7' TERM; echo begun; while :; do sleep 0.1; done"
    dockerfile = f'FROM {tiny_image}\nHEALTHCHECK --interval=1s CMD ["sh", "-c", "exit 0"]\nCMD ["sh", "-c", {json.dumps(script)}]\n'
    command = ["docker", "buildx", "build", "--quiet", "--provenance=false", "--load", "--tag", name, "-"]
    subprocess.run(command, input=dockerfile.encode(), capture_output=True, check=True)
    try:
        container = start(engine, session, name, 60)
        wait_for(lambda: b"begun" in engine.read_log(container), "the program has begun")
        with subprocess.Popen(["docker", "wait", container], stdout=subprocess.PIPE, text=True) as waiting:
            show = ["docker", "inspect", "--format", "{{.State.Health.Status}}", container]
            wait_for(lambda: subprocess.run(show, capture_output=True, text=True, check=True).stdout.strip() == "healthy", "it is healthy")
            subprocess.run(["docker", "stop", container], check=True, capture_output=True)
            assert waiting.communicate(timeout=30)[0].strip() == "7"
        wait_for(lambda: nothing_left(engine, session), "it is removed when it is stopped")
    finally:
        subprocess.run(["docker", "image", "rm", "--force", name], check=False, capture_output=True)


@pytest.mark.parametrize("ends", [SecondEngine.kill, SecondEngine.stop], ids=["killed", "stopped"])
def test_an_engine_that_ends_removes_what_ran_and_the_next_command_the_rest(
    volume_image: str, session: Session, ends: Callable[[SecondEngine], None]
) -> None:
    with second_engine(volume_image) as second:
        engine = DockerEngine(Endpoint(second.host))
        start(engine, session, volume_image, 3600, owner=dead_owner())
        labels = {**session.labels("created"), OWNER: dead_owner()}
        assert engine.create_container(name="created", image=volume_image, labels=labels, environment={}, publish=LISTENING)
        ends(second)
        second.start()
        engine = DockerEngine(Endpoint(second.host))
        (left,) = wait_for(lambda: len(found := engine.list_containers(session.mark)) == 1 and found, "the engine has tidied up")
        assert left.name == "created"  # it never ran, so that nothing in it could end it
        # An engine that was killed forgets, once it is back, the volume of a container that it removes.
        swept = sweep(engine, session.project)
        assert {thing.name for thing in swept if thing.kind == "container"} == {"created"}
        assert nothing_left(engine, session)


def test_a_full_disk_of_the_engine_is_an_error_and_nothing_is_left(tiny_image: str, session: Session) -> None:
    kind = load_kind("oracle", "", Path())
    spec = DatabaseSpec("oracle", tiny_image, "FREEPDB1", "app", "127.0.0.1", "64m", "8m", 64, 30)
    with second_engine(tiny_image, size="64m", settings={}) as second:
        engine = DockerEngine(Endpoint(second.host))
        full = second.docker("run", tiny_image, "sh", "-c", "dd if=/dev/zero of=/full bs=64k; dd if=/dev/zero of=/fuller bs=1", check=False)
        assert "No space left" in full.stderr
        with Interruption() as interruption:
            host = DatabaseHost(engine, kind, interruption, lambda _line: None)
            with pytest.raises(EngineError, match="no space left"):
                host.start(session, spec, [], lambda _database, _command: 0, lambda _log: None)
        assert nothing_left(engine, session)


# At the command line


@pytest.fixture
def short_lease(checkout: Checkout, standin_image: str) -> Checkout:
    """A project whose leases last eight seconds."""
    checkout.configure(standin_image, f"lease: {8 / 3600}")
    return checkout


def test_a_session_that_everybody_forgot_ends_by_itself(short_lease: Checkout) -> None:
    short_lease.start()
    wait_for(lambda: not short_lease.containers, "its lease is over", deadline=60)
    assert short_lease.engine.list_volumes({PROJECT: short_lease.project}) == {}
    assert short_lease.invoke("start-oracle", "--keep", "1").code == 43
    assert short_lease.invoke("stop-oracle").code == 0


def test_tests_and_keep_alive_renew_the_lease(short_lease: Checkout) -> None:
    def lease() -> bytes:
        return short_lease.engine.read_file(container.id, f"{FOLDER}/.lease") or b""

    short_lease.start()
    (container,) = short_lease.containers
    short_lease.write("tests.py", WAITING)
    process = short_lease.begin("run-tests")
    seen = {lease()}
    for _ in range(3):  # at the beginning, and again and again while they run
        seen.add(wait_for(lambda: (found := lease()) and found not in seen and found, "the tests renew the lease"))
    short_lease.write("go", "")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    kept = short_lease.invoke("start-oracle", "--keep", "1")
    assert kept.code == 0, kept.err
    assert "lives for 1 h from now on" in kept.err
    assert lease().split()[1] == b"3600"
    for wrong in ("-1", "0", "soon", "1000"):
        assert short_lease.invoke("start-oracle", f"--keep={wrong}").code == 10
    renewed = lease()
    short_lease.start()  # finds the session, and wants it for as long as a new one
    assert lease() != renewed
    assert [found.id for found in short_lease.containers] == [container.id]


def test_a_clock_that_jumps_ends_nobody(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock/sitecustomize.py").write_text(SHIFTED_CLOCK)
    ahead, behind = ({"PYTHONPATH": str(tmp_path / "clock"), "CLOCK_SHIFT": str(days * 86400)} for days in (30, -30))
    checkout.start()
    (living,) = checkout.containers
    for jumped in (ahead, behind):
        assert "lives" in checkout.invoke("clean", "--over", "--dry-run", **jumped).err
        assert checkout.invoke("clean", "--over", **jumped).code == 0
    checkout.start("--session", "other", **ahead)  # a start sweeps, too
    assert checkout.invoke("clean", "--over", **behind).code == 0
    assert len(checkout.containers) == 2
    assert checkout.invoke("stop-oracle", "--session", "other", **behind).code == 0
    assert [container.id for container in checkout.containers] == [living.id]
    assert checkout.invoke("run-tests", **ahead).code == 0


def test_reap_says_first_what_it_would_remove_and_then_only_that(checkout: Checkout, make_checkout: Callable[[], Checkout]) -> None:
    def leave(key: str, project: str, owner: str) -> str:
        session = Session(project, key, str(checkout.root), 3600)
        labels = {**session.labels("database"), OWNER: owner}
        image = json.loads(subprocess.run(["docker", "inspect", living.id], check=True, capture_output=True).stdout)[0]["Config"]["Image"]
        made = checkout.engine.create_container(name=session.name_of("x"), image=image, labels=labels, environment={}, publish=1521)
        assert made
        return made

    checkout.start()
    (living,) = checkout.containers
    foreign = make_checkout()
    leave("dead", checkout.project, dead_owner())
    kept = {living.id, leave("begun", checkout.project, current_owner())}
    other = leave("dead", foreign.project, dead_owner())
    said = checkout.invoke("clean", "--over", "--dry-run")
    assert said.err.count("would remove") == 1
    assert "(session dead): its process is gone" in said.err
    assert said.err.count(" lives") == 2
    assert len(checkout.containers) == 3
    ended = checkout.invoke("clean", "--over")
    assert (ended.code, ended.err.count("removed")) == (0, 1)
    assert {container.id for container in checkout.containers} == kept
    assert [container.id for container in foreign.containers] == [other]
    assert "nothing to remove" in checkout.invoke("clean", "--over").err


def test_stop_is_right_whatever_the_files_of_the_checkout_say(checkout: Checkout) -> None:
    checkout.start()
    for path in (checkout.root / ".pipeline").glob("database.*"):
        path.write_text("export DB_HOST=another.machine DB_PORT=1\n")  # a workspace that was copied from another machine
    checkout.start("--session", "other")
    os.truncate(checkout.root / ".pipeline/database-other.sh", 0)
    assert checkout.invoke("stop-oracle").code == 0
    (other,) = checkout.containers
    assert other.labels["pipeline.session"] == "other"
    assert checkout.invoke("stop-oracle", "--session", "other").code == 0
    checkout.assert_nothing_left()
