"""Where a hierarchy begins: bases in a registry, pinned and remembered; another address to pull from; the bootstrap."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from pipeline.adapters.docker_images import DockerImages
from pipeline.images.bases import read_pins
from tests.engine.conftest import Project, RegistryContainer, wait_for


@pytest.fixture
def upstream(project: Project, registry: RegistryContainer, engine: docker.DockerClient, tiny_image: str) -> str:
    """A base image in a registry, as another team would publish it; the engine does not have it under that name."""
    name = f"{registry.host}/{project.namespace}/upstream"
    publish_upstream(engine, name, tiny_image)
    project.image("base", f"from: {name}:1\n", "RUN true\n")
    project.image("leaf", "parent: base\n", "COPY Dockerfile /leaf\n")
    project.commit()
    return name


def publish_upstream(engine: docker.DockerClient, name: str, image: str) -> None:
    engine.images.get(image).tag(name, "1")
    for event in engine.images.push(name, "1", stream=True, decode=True):
        assert "error" not in event, event
    engine.images.remove(f"{name}:1")


def test_a_base_is_resolved_once_and_then_remembered(
    project: Project, upstream: str, engine: docker.DockerClient, other_image: str
) -> None:
    first = project.run("build")
    assert first.returncode == 0, first.stderr
    assert "not pinned" in first.stderr
    assert "not pinned" in (project.root / ".pipeline/bases.json").read_text()
    publish_upstream(engine, upstream, other_image)  # upstream moves its tag
    second = project.run("build")
    assert second.returncode == 0
    assert "unchanged" in second.stderr
    assert "not pinned" not in second.stderr


def test_pins_update_pins_and_moves_exactly_the_descendants(
    project: Project, upstream: str, engine: docker.DockerClient, other_image: str
) -> None:
    project.invoke("pins.update")
    lock = (project.root / "pipeline.lock").read_text()
    assert "sha256:" in lock
    project.commit("pin")
    assert project.actions("build") == {"base": "build", "leaf": "build"}
    publish_upstream(engine, upstream, other_image)
    assert project.actions() == {"base": "none", "leaf": "none"}
    project.invoke("pins.update")
    assert (project.root / "pipeline.lock").read_text() != lock
    document = project.json("plan")
    assert {image["name"]: image["action"] for image in document["images"]} == {"base": "build", "leaf": "build"}
    (reason,) = document["images"][0]["reasons"]
    assert reason["kind"] == "base"
    assert reason["what"].startswith(f"{upstream}:1 changed: digest sha256:")
    assert document["revision"]["dirty"] is True  # the lock is part of what the images are made of


Publish = Callable[[str, str], str]


@pytest.fixture
def publish(project: Project, registry: RegistryContainer, engine: docker.DockerClient, tiny_image: str) -> Publish:
    """Publish a state of a base image, as another team would: publish(NAME, STATE) → its reference."""

    def make(name: str, state: str) -> str:
        reference = f"{registry.host}/{project.namespace}/{name}"
        command = ["docker", "buildx", "build", "--quiet", "--provenance=false", "--load", "--tag", f"{reference}:made", "-"]
        subprocess.run(command, input=f"FROM {tiny_image}\nLABEL state={state}\n".encode(), capture_output=True, check=True)
        publish_upstream(engine, reference, f"{reference}:made")
        engine.images.remove(f"{reference}:made")
        return f"{reference}:1"

    return make


@pytest.fixture
def two_roots(project: Project, publish: Publish) -> tuple[str, str]:
    """one ← one-leaf, and two ← two-leaf, which also copies from the base of `one-user`; pinned, committed and built."""
    first, second = publish("first", "a"), publish("second", "a")
    for name, base in (("one", first), ("two", second)):
        project.image(name, f"from: {base}\n", "COPY Dockerfile /root-of-it\n")
        project.image(f"{name}-leaf", f"parent: {name}\n", "RUN cat /proc/sys/kernel/random/uuid > /installed\nCOPY Dockerfile /leaf\n")
    project.image("user", f"parent: two\nuses: [{first}]\n", f"COPY --from={first} /bin/sh /copied\n")
    project.invoke("pins.update")
    project.commit()
    project.invoke("build")
    return first, second


def entry(project: Project, reference: str) -> Any:
    return read_pins(project.root)[reference]


def test_moving_one_pin_rebuilds_exactly_its_descendants(project: Project, two_roots: tuple[str, str], publish: Publish) -> None:
    first, second = two_roots
    before = (project.root / "pipeline.lock").read_text()
    publish("first", "b")
    publish("second", "b")
    assert set(project.actions().values()) == {"none"}
    told = project.invoke("pins.update", "--only", second)
    assert told.startswith(f"{second}: sha256:") and "→" in told
    after = (project.root / "pipeline.lock").read_text()
    assert after.partition(second)[0] == before.partition(second)[0]  # the other entry stands as it stood
    project.commit("move one")
    built = {name for name, action in project.actions().items() if action == "build"}
    assert built == {"two", "two-leaf", "user"}
    project.invoke("build")
    project.invoke("pins.update", "--only", first)
    project.commit("move the other")
    assert {name for name, action in project.actions().items() if action == "build"} == {"one", "one-leaf", "user"}


def installed(project: Project, engine: docker.DockerClient) -> str:
    image = next(image for image in project.json("build")["images"] if image["name"] == "one-leaf")
    container = engine.containers.create(image["references"][0], ["/bin/sh"])
    try:
        stream, _ = container.get_archive("/installed")
        return b"".join(stream)[512:548].decode()  # the first file's content, after its header
    finally:
        container.remove()


def test_a_new_date_alone_installs_packages_anew(project: Project, two_roots: tuple[str, str], engine: docker.DockerClient) -> None:
    first, _ = two_roots
    before, pin = installed(project, engine), entry(project, first)

    def moved() -> bool:  # the date is one to the second
        project.invoke("pins.update", "--only", first)
        return bool(entry(project, first).date != pin.date)

    wait_for(moved, "the pin has a later date", interval=0.3)
    assert entry(project, first).value == pin.value  # upstream is where it was, and the root has no layer that could differ
    project.commit("refresh")
    refreshed = installed(project, engine)
    assert refreshed != before
    project.write("dockerfiles/one-leaf/other", "another context\n")
    dockerfile = project.root / "dockerfiles/one-leaf/Dockerfile"
    dockerfile.write_text(dockerfile.read_text() + "COPY other /other\n")
    assert installed(project, engine) == refreshed  # of one state of the pins, the cache serves as ever
    history = str(engine.images.get(project.json("plan")["images"][1]["references"][0]).history())
    assert "RUN" in history
    assert ".invalid" not in history


def test_check_says_what_moved_and_fails_nothing(project: Project, two_roots: tuple[str, str], publish: Publish) -> None:
    first, second = two_roots
    nowhere = f"127.0.0.1:1/{project.namespace}/nowhere:1"
    project.image("lost", f"from: {nowhere}\n", "RUN true\n")
    lock = project.root / "pipeline.lock"
    lock.write_text(lock.read_text() + f'  "{nowhere}":\n    kind: digest\n    value: sha256:{"1" * 64}\n    date: "2026-01-01"\n')
    publish("second", "b")
    before = tree(project.root)
    document = project.json("pins.update", "--check")
    assert {item["reference"]: item["state"] for item in document["pins"]} == {first: "current", second: "moved", nowhere: "unknown"}
    by_name = {item["reference"]: item for item in document["pins"]}
    assert by_name[second]["pinned"]["value"] != by_name[second]["upstream"]["value"]
    assert by_name[first]["images"] == ["one", "user"]
    assert "127.0.0.1:1" in by_name[nowhere]["problem"]
    assert f"{second}: moved, {by_name[second]['pinned']['value']} → " in project.invoke("pins.update", "--check")
    strict = project.run("pins.update", "--check", "--strict")
    assert (strict.returncode, f"out of date: {second}" in strict.stderr) == (10, True)
    assert tree(project.root) == before
    refused = project.run("pins.update")  # all or none, of those that are needed
    assert refused.returncode == 22
    assert tree(project.root) == before
    project.invoke("pins.update", "--only", second)
    assert project.run("pins.update", "--check", "--strict").returncode == 0


def test_only_names_what_there_is(project: Project, two_roots: tuple[str, str]) -> None:
    before = tree(project.root)
    for arguments in (["--only"], ["--only", two_roots[0] + "0"]):
        result = project.run("pins.update", *arguments)
        assert (result.returncode, "--only" in result.stderr) == (10, True)
    assert tree(project.root) == before


def test_an_old_pin_is_warned_about_until_it_is_moved(project: Project, two_roots: tuple[str, str]) -> None:
    first, second = two_roots
    lock = project.root / "pipeline.lock"
    lock.write_text(lock.read_text().replace(entry(project, first).date, "2020-01-01", 1))
    project.commit("a pin of long ago")
    warning = f"warning: one, user: {first} was pinned "
    for command in ("plan", "build"):
        said = project.run(command).stderr
        assert warning in said
        assert f"invoke pins.update --only {first}" in said
        assert f"{second} was" not in said
    pipeline = (project.root / "pipeline.yaml").read_text()
    project.write("pipeline.yaml", pipeline + "max_pin_age: 0\n")
    assert "warning: one" not in project.run("plan").stderr
    project.write("pipeline.yaml", pipeline)
    project.invoke("pins.update", "--only", first)
    assert "warning: one" not in project.run("plan").stderr


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its time and content, without Git's own and Python's compiled ones."""
    files = [path for path in root.rglob("*") if path.is_file() and not {".git", "__pycache__"} & set(path.relative_to(root).parts)]
    return {str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_plan_writes_nothing(project: Project, upstream: str, publish: Publish) -> None:
    commands = (["plan"], ["plan", "--json"], ["build", "--dry-run"], ["plan", "--explain"])

    def nothing_written() -> None:
        before = tree(project.root)
        for command in commands:
            project.invoke(*command)
            assert tree(project.root) == before, command

    nothing_written()  # never built, the base not known
    assert not (project.root / ".pipeline").exists()
    project.invoke("build")
    nothing_written()
    project.invoke("pins.update")
    assert not (project.root / ".pipeline/bases.json").exists()
    nothing_written()  # pinned, and all of it to be built


def test_images_are_pulled_from_the_other_address(hierarchy: Project, registry: RegistryContainer, engine: docker.DockerClient) -> None:
    virtual = registry.host.replace("127.0.0.1", "localhost")
    hierarchy.write("pipeline.yaml", f"registry: {registry.host}\npull_from: {virtual}\nnamespace: {hierarchy.namespace}\n")
    hierarchy.commit()
    built = hierarchy.json("build")
    hierarchy.invoke("push")
    for image in reversed(built["images"]):
        for reference in image["references"]:
            engine.images.remove(reference, force=True)
    try:
        assert hierarchy.actions("build", "--pull") == {"base": "pull", "middle": "pull", "leaf": "pull"}
        assert engine.images.list(filters={"reference": f"{virtual}/{hierarchy.namespace}/leaf"})
        assert hierarchy.actions() == {"base": "none", "middle": "none", "leaf": "none"}
    finally:
        for image in engine.images.list(filters={"reference": f"{virtual}/{hierarchy.namespace}/*"}):
            for tag in image.tags:
                engine.images.remove(tag, force=True)


def test_a_base_that_cannot_be_pulled_is_bootstrapped_and_says_so(project: Project, engine: docker.DockerClient) -> None:
    project.image(
        "system", "from: 127.0.0.1:1/library/ubuntu:24.04\nbootstrap: {debian: trixie, ubuntu: noble}\n", "RUN test -x /usr/bin/apt-get\n"
    )
    project.commit()
    built = project.json("build")["images"][0]
    label = engine.images.get(built["references"][0]).labels["pipeline.base"]
    assert "bootstrapped from distribution packages, in place of 127.0.0.1:1/library/ubuntu:24.04" in label
    assert '"kind": "bootstrap"' in (project.root / ".pipeline/bases.json").read_text()


def test_listing_and_finding_agree(hierarchy: Project, engine: docker.DockerClient) -> None:
    from pipeline.adapters.docker_context import engine_endpoint

    leaf = hierarchy.json("build")["images"][-1]
    images = DockerImages(engine_endpoint())
    try:
        listed = images.list_images([leaf["references"][0].rpartition(":")[0]])
        assert {image.id for image in listed.values()} == {leaf["image_id"]}
        assert set(listed) == set(leaf["references"])
        found = images.find_image(leaf["references"][0])
        assert found is not None
        assert found.id == leaf["image_id"]
        assert images.find_image("127.0.0.1:1/none:1") is None
    finally:
        images.close()
