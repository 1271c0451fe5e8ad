"""Baked databases on a real engine and with a real registry: made, found, pulled, refused; and what must not be in them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker
import pytest

from pipeline.adapters import processes
from pipeline.adapters.docker_engine import DockerEngine
from pipeline.databases.bake import ACCOUNTS, FINGERPRINT, INPUTS, PROJECT, Baked
from pipeline.databases.engine import Account, Address, Answer, Password
from pipeline.databases.prepare import Program
from pipeline.errors import EngineError, RegistryUnreachableError
from pipeline.integration.baking import Bakery as Baking
from pipeline.integration.baking import find_half_made
from pipeline.integration.bracket import Bracket
from pipeline.plugins import ORACLE
from pipeline.sessions import ROLE, SESSION, end_session
from pipeline.tasks.testing import open_bench
from tests.engine.checkouts import PASSING, SCHEMA, TASKS, Checkout, wait_until
from tests.engine.conftest import TEST_LABEL, RegistryContainer, own_image, remove_images

KEEP_PASSWORD = """
import json, os, sys
with open("seen.json", "w") as file:
    json.dump({name: os.environ[name] for name in ("DB_USER", "DB_PASSWORD", "DB_ADMIN_PASSWORD")}, file)
"""
OTHER = 'CREATE USER other IDENTIFIED BY "Scripted1";\nGRANT CREATE SESSION TO other;\n'
IMAGES_OWN = 'CREATE USER pdbadmin IDENTIFIED BY "Image1";\nCREATE USER c##all IDENTIFIED BY "Image2";\n'


@dataclass
class Bakery:
    """A project whose database is baked and published."""

    root: Path
    registry: str
    namespace: str
    reference: str
    document: dict[str, Any]
    passwords: dict[str, str]  # those of the time of baking, as a program of the preparation saw them

    def configure(self, checkout: Checkout, image: str, *lines: str) -> None:
        """Let `checkout` have the same inputs."""
        configure(checkout.root, checkout.project, self.registry, self.namespace, image, *lines)
        (checkout.root / "seen.json").write_text("{}")


def configure(root: Path, project: str, registry: str, namespace: str, image: str, *lines: str) -> None:
    keep = json.dumps([sys.executable, "keep.py"])
    steps = f"prepare: [{{sql: sql/01.sql}}, {{sql: sql/02.sql, user: system}}, {{run: {keep}, reads: []}}]"
    text = [f"registry: {registry}", f"namespace: {namespace}", f"project: {project}", "itest:", f"  image: {image}", f"  {steps}"]
    text += [f"  run: {json.dumps([sys.executable, 'tests.py'])}", "  deadline: 60", *(f"  {line}" for line in lines)]
    (root / "pipeline.yaml").write_text("\n".join(text) + "\n")
    (root / "tasks.py").write_text(TASKS)
    (root / "sql").mkdir(exist_ok=True)
    (root / "sql/01.sql").write_text(SCHEMA)
    (root / "sql/02.sql").write_text(OTHER)
    (root / "keep.py").write_text(KEEP_PASSWORD)
    (root / "tests.py").write_text(PASSING)


@pytest.fixture(scope="module")
def standin_image(standin_image: str, engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The stand-in with accounts that the image itself makes, as a real one does."""
    folder, name = tmp_path_factory.mktemp("image"), f"pipeline-test/standin:{uuid.uuid4().hex[:10]}"
    (folder / "own.sql").write_text(IMAGES_OWN)
    (folder / "Dockerfile").write_text(f"FROM {standin_image}\nCOPY own.sql /container-entrypoint-initdb.d/own.sql\n")
    subprocess.run(["docker", "build", "--quiet", "--tag", name, folder], check=True, capture_output=True)
    yield name
    engine.images.remove(name, force=True)


@pytest.fixture(scope="module")
def bakery(
    tmp_path_factory: pytest.TempPathFactory, standin_image: str, registry: RegistryContainer, engine: docker.DockerClient
) -> Iterator[Bakery]:
    root = tmp_path_factory.mktemp("bakery")
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    checkout = Checkout(root, f"{namespace}-bake")
    configure(root, checkout.project, registry.host, namespace, standin_image)
    ended = checkout.invoke("db.bake", "--json")
    assert ended.code == 0, ended.err
    checkout.assert_nothing_left()
    document = json.loads(ended.out)
    yield Bakery(root, registry.host, namespace, document["reference"], document, json.loads((root / "seen.json").read_text()))
    remove_images(engine, f"{registry.host}/{namespace}/databases/*")


@pytest.fixture
def same(bakery: Bakery, make_checkout: Callable[[], Checkout], standin_image: str) -> Checkout:
    """Another checkout with the same inputs."""
    found = make_checkout()
    bakery.configure(found, standin_image)
    return found


def log_in(port: int, user: str, password: str) -> Answer:
    return asyncio.run(ORACLE.log_in(Address("127.0.0.1", port, "FREEPDB1"), Account(user, Password(password)), 20.0))


def test_it_is_the_original_image_with_a_database_in_it(bakery: Bakery, standin_image: str, engine: docker.DockerClient) -> None:
    baked, original = (engine.images.get(name).attrs for name in (bakery.reference, standin_image))
    labels = baked["Config"].pop("Labels")
    expected = original["Config"].pop("Labels") or {}
    assert baked["Config"] == original["Config"]
    assert baked["RootFS"]["Layers"][:-1] == original["RootFS"]["Layers"]
    ours = {PROJECT, FINGERPRINT, INPUTS, ACCOUNTS}
    assert {name: value for name, value in labels.items() if name not in ours} == {n: v for n, v in expected.items() if n not in ours}
    assert json.loads(labels[ACCOUNTS]) == ["C##ALL", "OTHER", "PDBADMIN"]
    assert SESSION not in labels
    assert ROLE not in labels


def test_nothing_of_the_session_that_made_it_is_in_it(bakery: Bakery, engine: docker.DockerClient) -> None:
    container = engine.containers.create(bakery.reference, labels={TEST_LABEL: "bake"})
    try:
        names = subprocess.run(
            f"docker export {container.id} | tar --list", shell=True, check=True, capture_output=True, text=True
        ).stdout.splitlines()
    finally:
        container.remove(force=True, v=True)
    assert "opt/oracle/oradata/" in names
    assert [name for name in names if name.startswith("run/pipeline") or "pipeline-passwords" in name] == []


def test_the_password_of_the_bake_opens_nothing(bakery: Bakery, same: Checkout, engine: docker.DockerClient) -> None:
    """Neither where the image is simply run, nor in a session, where every account has a new password."""
    user, password = bakery.passwords["DB_USER"], bakery.passwords["DB_PASSWORD"]
    plain = engine.containers.run(bakery.reference, detach=True, ports={"1521/tcp": ("127.0.0.1", 0)}, labels={TEST_LABEL: "bake"})
    try:
        wait_until(lambda: b"READY TO USE" in plain.logs(), "the database says that it is ready")
        plain.reload()
        answer = log_in(int((plain.ports["1521/tcp"] or [{}])[0]["HostPort"]), user, password)
        assert answer.refused, answer
    finally:
        plain.remove(force=True, v=True)
    started = same.start()
    container = same.containers[0].id
    new = {name: (same.engine.read_file(container, f"/run/pipeline/{name}") or b"").decode() for name in (user, "system")}
    assert log_in(started["port"], user, new[user]).ready
    assert log_in(started["port"], "system", new["system"]).ready
    assert log_in(started["port"], user, password).refused
    system = Account("system", Password(new["system"]))
    with closing(ORACLE.open(Address("127.0.0.1", started["port"], "FREEPDB1"), system)) as connection, connection.cursor() as cursor:
        there = {name for (name,) in cursor.execute("SELECT username FROM seerdb_auth.accounts")}
    administrators = dict.fromkeys(("SYS", "SYSTEM"), bakery.passwords["DB_ADMIN_PASSWORD"])
    known = {user.upper(): password, **administrators, "OTHER": "Scripted1", "PDBADMIN": "Image1", "C##ALL": "Image2"}
    assert there == set(known)
    assert [name for name in known if not log_in(started["port"], name, known[name]).refused] == []
    inspected = json.dumps(engine.containers.get(container).attrs)
    assert not any(value in inspected for value in new.values())


def test_a_start_with_a_hit_runs_no_preparation(bakery: Bakery, same: Checkout) -> None:
    ended = same.invoke("itest")
    assert ended.code == 0, ended.err
    assert "no preparation is run" in ended.err
    assert "OTHER" in ended.err  # whose password in the script no longer holds
    assert "prepare:" not in ended.err
    assert (same.root / "seen.json").read_text() == "{}"
    assert bakery.reference in (same.results / "summary.md").read_text()
    same.assert_nothing_left()


def test_baking_again_finds_it(bakery: Bakery, same: Checkout) -> None:
    ended = same.invoke("db.bake", "--json")
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    assert (document["reference"], document["made"]) == (bakery.reference, False)


def unreachable(*_: object) -> list[str]:
    raise RegistryUnreachableError("the registry does not answer", "Start it.")


@pytest.mark.parametrize("what", ["never", "another script"])
def test_without_a_hit_the_database_is_prepared(
    bakery: Bakery, same: Checkout, standin_image: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "never":
        bakery.configure(same, standin_image, "bake: never")
    else:
        same.write("sql/01.sql", f"{SCHEMA}CREATE TABLE another (id INTEGER);\n")
    monkeypatch.chdir(same.root)
    database = open_bench().prepare_run(tests=False).database
    assert database.baked is None
    assert bool(database.fingerprint) == (what == "another script")
    if what == "never":
        ended = same.invoke("start-oracle", "--reuse")
        assert ended.code == 10
        assert "'itest.bake': it is never" in ended.err


def test_a_published_one_is_taken_where_the_configuration_says_so(
    bakery: Bakery,
    same: Checkout,
    standin_image: str,
    tiny_image: str,
    engine: docker.DockerClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A small image stands for the baked one here, under its name and with its labels: what is pushed and pulled is any image."""
    namespace = f"{bakery.namespace}/small"
    configure(same.root, same.project, bakery.registry, namespace, standin_image, "bake: registry")
    monkeypatch.chdir(same.root)
    bench = open_bench()
    run = bench.prepare_run(tests=False)
    assert run.database.baked is None
    assert "none is published as" in capsys.readouterr().err
    recipe = bench.baked.recipe(run)
    assert not isinstance(recipe, str)
    name = str(recipe.reference)
    label = f'LABEL {FINGERPRINT}={recipe.fingerprint.value} {ACCOUNTS}=\'["A", "B C"]\''
    subprocess.run(
        ["docker", "build", "--quiet", "--tag", name, "-"], input=f"FROM {tiny_image}\n{label}\n".encode(), check=True, capture_output=True
    )
    for what in ("pushed: sha256:", "published already: sha256:"):
        ended = same.invoke("db.bake", "--push")
        assert ended.code == 0, ended.err
        assert f"bake: there already: {name}" in ended.err
        assert f"bake: {what}" in ended.err
    engine.images.remove(name, force=True)
    try:
        with monkeypatch.context() as broken:
            broken.setattr("pipeline.adapters.registry.Registry.digests", unreachable)
            with pytest.raises(RegistryUnreachableError) as caught:
                bench.prepare_run(tests=False)
        assert "`itest.bake` to local" in caught.value.hint
        assert bench.prepare_run(tests=False).database.baked == Baked(name, ("A", "B C"))
        assert engine.images.get(name)
        configure(same.root, same.project, bakery.registry, namespace, standin_image, "bake: local")
        engine.images.remove(name, force=True)
        assert open_bench().prepare_run(tests=False).database.baked is None
    finally:
        subprocess.run(["docker", "rmi", "--force", name], check=False, capture_output=True)


class Patient:
    """The programs as they are; only that of the preparation lasts until `until` returns."""

    def __init__(self, until: Callable[[], object]) -> None:
        self.until = until

    def __getattr__(self, name: str) -> Any:
        return getattr(processes, name)

    def run_program(self, *_: object, **__: object) -> int:
        self.until()
        return 0


@pytest.mark.parametrize("what", ["start", "bake"])
def test_the_lease_is_renewed_while_preparing(same: Checkout, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preparation that outlasts its lease: it ends once the lease has been renewed twice."""
    monkeypatch.chdir(same.root)
    bench = open_bench()
    run = bench.prepare_run(tests=False, baked=False)
    session = replace(bench.new_session(), lease=8)
    seen: list[bytes] = []

    def renewed_twice() -> bool:
        now = same.engine.read_file(session.name_of("database"), "/run/pipeline/.lease")
        assert now, "its lease was over"
        seen.extend([now] if now not in seen else [])
        return len(seen) > 2

    programs: Any = Patient(lambda: wait_until(renewed_twice, "the lease is renewed"))
    run = replace(run, steps=tuple(step for step in run.steps if isinstance(step, Program)))
    try:
        if what == "start":
            assert Bracket(same.engine, bench.kind, programs, lambda _line: None).start(run, session).made
            return
        recipe = bench.baked.recipe(run)
        assert not isinstance(recipe, str)
        recipe = replace(recipe, reference=recipe.reference.with_tag("renewed"))  # found by nobody, removed with the others
        assert Baking(same.engine, bench.kind, programs, lambda _line: None).bake(run, session, recipe).image
    finally:
        end_session(same.engine, session)


def test_an_unclean_stop_makes_no_image(bakery: Bakery, same: Checkout, standin_image: str, engine: docker.DockerClient) -> None:
    name = f"pipeline-test/unclean:{uuid.uuid4().hex[:10]}"
    command = "container-entrypoint.sh & trap 'kill -KILL $!; exit 3' TERM; wait"
    dockerfile = f"FROM {standin_image}\nENTRYPOINT {json.dumps(['/bin/bash', '-c', command])}\n"
    subprocess.run(["docker", "build", "--quiet", "--tag", name, "-"], input=dockerfile.encode(), check=True, capture_output=True)
    try:
        ended = same.invoke("db.bake", "--image", name)
        assert ended.code == 45
        assert "it was not shut down cleanly: it ended with exit code 3" in ended.err
        assert engine.images.list(name=f"{bakery.registry}/{bakery.namespace}/databases/unclean") == []
        same.assert_nothing_left()
        assert b"READY TO USE" in (same.root / ".pipeline/bake/database.log").read_bytes()
        assert ".pipeline/bake/database.log" in ended.err
        assert not (same.results / "database.log").exists()
    finally:
        subprocess.run(["docker", "rmi", "--force", name], check=False, capture_output=True)


def test_reuse_hands_over_a_clean_one_each_time_and_replaces_it_when_inputs_change(bakery: Bakery, same: Checkout) -> None:
    def rows() -> int:
        shell = subprocess.run(
            [sys.executable, "-m", "invoke", "db.shell"],
            cwd=same.root,
            input="SELECT name FROM customer;\nDELETE FROM customer;\n",
            capture_output=True,
            text=True,
            check=True,
        )
        return sum(line in ("a;b", "it's") for line in shell.stdout.splitlines())

    same.start("--reuse")
    assert rows() == 2
    spare = {container.id for container in same.containers}
    assert len(spare) == 2
    ended = same.invoke("start-oracle", "--reuse")
    assert ended.code == 0, ended.err
    assert "the one that was laid aside is handed over, clean" in ended.err
    assert rows() == 2
    assert len(same.containers) == 2
    assert len(spare & {container.id for container in same.containers}) == 1
    same.write("sql/01.sql", SCHEMA.replace("it''s", "other"))
    ended = same.invoke("start-oracle", "--reuse")
    assert ended.code == 0, ended.err
    assert "its inputs have changed" in ended.err
    assert "bake: made in" not in ended.err  # the line is db.bake's
    assert "prepare: sql/01.sql" in ended.err
    assert rows() == 1
    assert same.invoke("stop-oracle").code == 0
    same.assert_nothing_left()


def test_the_shell_speaks_sql_and_the_log_keeps_its_secrets(same: Checkout) -> None:
    same.start()
    shell = subprocess.run(
        [sys.executable, "-m", "invoke", "db.shell"],
        cwd=same.root,
        input="SELECT name FROM customer ORDER BY name;\nBEGIN\n  NULL;\nEND;\n/\nSELECT 1 FROM nowhere;\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert shell.stdout.splitlines()[:4] == ["NAME", "----", "a;b", "it's"]
    assert "ORA-00942" in shell.stdout
    assert shell.returncode == 1
    container = same.containers[0].id
    secret = (same.engine.read_file(container, "/run/pipeline/app") or b"").decode()
    code, _ = same.engine.run_inside(container, ["sh", "-c", "cat /run/pipeline/app > /proc/1/fd/1; echo . > /proc/1/fd/1"])
    assert code == 0
    follower = same.begin("db.logs", "--follow")
    said = iter(follower.stdout.readline, "") if follower.stdout else iter(())
    seen = []
    for line in said:
        seen.append(line)
        if "***" in line:
            break
    assert "***" in seen[-1]
    assert secret not in "".join(seen)
    assert same.invoke("stop-oracle").code == 0
    assert follower.wait(timeout=30) == 0
    follower.communicate()
    assert same.invoke("db.logs").code == 43


def test_postgresql_is_baked_in_the_same_way(make_checkout: Callable[[], Checkout], bakery: Bakery, engine: docker.DockerClient) -> None:
    checkout = make_checkout()
    image = own_image("postgres")
    text = [f"registry: {bakery.registry}", f"namespace: {bakery.namespace}", f"project: {checkout.project}", "itest:"]
    text += [f"  image: {image}", "  engine: postgres", "  contract: postgres", "  prepare: [{sql: schema.sql}]"]
    checkout.write("pipeline.yaml", "\n".join(text) + "\n")
    checkout.write("tasks.py", TASKS)
    checkout.write("schema.sql", "CREATE TABLE customer (name varchar(20));\nINSERT INTO customer VALUES ('a');\n")
    try:
        ended = checkout.invoke("db.bake")
        assert ended.code == 0, ended.err
        ended = checkout.invoke("start-oracle")
        assert ended.code == 0, ended.err
        assert "no preparation is run" in ended.err
        shell = subprocess.run(
            [sys.executable, "-m", "invoke", "db.shell"],
            cwd=checkout.root,
            input="SELECT name FROM customer;\n",
            capture_output=True,
            text=True,
            check=True,
        )
        assert shell.stdout.splitlines() == ["name", "----", "a", "(1 rows)"]
        assert checkout.invoke("stop-oracle").code == 0
        checkout.assert_nothing_left()
    finally:
        remove_images(engine, f"{bakery.registry}/{bakery.namespace}/databases/postgres")


@pytest.mark.both_stores
def test_what_a_killed_bake_left_is_found_and_taken_away(
    engine: docker.DockerClient, tiny_image: str, make_checkout: Callable[[], Checkout], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed after the commit: what it would have taken away itself stays."""
    checkout, docker_engine, name = make_checkout(), DockerEngine(), f"localhost:5000/test-{uuid.uuid4().hex[:8]}/databases/tiny:content-1"
    configure(checkout.root, checkout.project, "localhost:5000", name.split("/")[1], tiny_image)
    labels = {PROJECT: checkout.project, SESSION: "killed", TEST_LABEL: "bake"}
    container = engine.api.create_container(tiny_image, command=["none"], labels=labels)["Id"]
    try:
        monkeypatch.setattr(docker_engine._patient_api, "load_image", lambda _archive: iter([{"error": "killed"}]))
        monkeypatch.setattr(docker_engine._api, "remove_image", lambda _image, force=False: None)
        with pytest.raises(EngineError, match="killed"):
            docker_engine.commit_container(container, tiny_image, name, {PROJECT: checkout.project})
        monkeypatch.undo()
        (left,) = docker_engine.list_untagged([f"{PROJECT}={checkout.project}"])
        subprocess.run(
            ["docker", "build", "--quiet", "--tag", name, "-"],
            input=f"FROM {tiny_image}\nLABEL {PROJECT}={checkout.project}\n".encode(),
            check=True,
            capture_output=True,
        )
        assert find_half_made(docker_engine, checkout.project) == []  # its container is there: it may be baking
        docker_engine.remove_container(container)
        assert find_half_made(docker_engine, checkout.project) == [left]
        ended = checkout.invoke("clean", "--images")
        assert ended.code == 0, ended.err
        assert f"removed the image {left}, of a bake that was killed" in ended.err
        assert f"removed the image {name}" in ended.err
        assert docker_engine.find_image(left) is None
        assert docker_engine.find_image(name) is None
    finally:
        docker_engine.remove_container(container)
        for image in (name, *docker_engine.list_untagged([f"{PROJECT}={checkout.project}"])):
            subprocess.run(["docker", "rmi", "--force", image], check=False, capture_output=True)


@pytest.mark.both_stores
def test_a_committed_image_has_its_originals_configuration_and_the_containers_files(engine: docker.DockerClient, tiny_image: str) -> None:
    name = f"localhost:5000/test-{uuid.uuid4().hex[:8]}/databases/tiny:content-1"
    container = engine.api.create_container(tiny_image, command=["other"], labels={TEST_LABEL: "bake"}, environment={"SECRET": "1"})["Id"]
    docker_engine = DockerEngine()
    try:
        docker_engine.write_files(container, "/opt/made", {"file": b"made"})
        made = docker_engine.commit_container(container, tiny_image, name, {"made": "yes"})
        baked, original = engine.images.get(name).attrs, engine.images.get(tiny_image).attrs
        assert baked["Id"] == made
        assert baked["Config"].pop("Labels") == {**(original["Config"].pop("Labels") or {}), "made": "yes"}
        assert baked["Config"] == original["Config"]
        assert baked["RootFS"]["Layers"][:-1] == original["RootFS"]["Layers"]
        again = engine.api.create_container(name, command=["none"], labels={TEST_LABEL: "bake"})["Id"]
        try:
            assert docker_engine.read_file(again, "/opt/made/file") == b"made"
        finally:
            docker_engine.remove_container(again)
    finally:
        docker_engine.remove_container(container)
        subprocess.run(["docker", "rmi", "--force", name], check=False, capture_output=True)
