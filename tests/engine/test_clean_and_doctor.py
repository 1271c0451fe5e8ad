"""invoke clean takes away what this checkout made and nothing else; invoke doctor says whether the main job can run here."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.engine.conftest import RUN, TEST_LABEL, Project, RegistryContainer, remove_images


@pytest.fixture
def small(project: Project, tiny_image: str) -> Project:
    """Two small linked images: first → second."""
    project.image("first", f"from: {tiny_image}\n", "COPY first.txt /first.txt\n")
    project.write("dockerfiles/first/first.txt", f"{project.namespace}\n")
    project.image("second", "parent: first\n", "COPY Dockerfile /second\n")
    project.commit("begin")
    return project


@pytest.fixture
def things(small: Project, engine: docker.DockerClient, tiny_image: str) -> Iterator[dict[str, dict[str, Any]]]:
    """A container, a network and a volume of this checkout, and of four strangers: owner → kind → object."""
    checkout = str(small.root.resolve())
    owners = {
        "ours": {"pipeline.project": small.namespace, "pipeline.checkout": checkout},
        "another checkout": {"pipeline.project": small.namespace, "pipeline.checkout": checkout + "-2"},
        "another project": {"pipeline.project": small.namespace + "-2", "pipeline.checkout": checkout},
        "no checkout": {"pipeline.project": small.namespace},
        "nobody": {},
    }
    made: dict[str, dict[str, Any]] = {}
    for number, (owner, own_labels) in enumerate(owners.items()):
        name, labels = f"{small.namespace}-{number}", {**own_labels, TEST_LABEL: RUN}
        made[owner] = {
            "network": engine.networks.create(name, labels=labels, driver="bridge", internal=True),
            "volume": engine.volumes.create(name, labels=labels),
        }
        made[owner]["container"] = engine.containers.run(
            tiny_image, ["/bin/sleep", "600"], detach=True, name=name, labels=labels, network=name, volumes={name: {"bind": "/data"}}
        )
    yield made
    for thing in engine.containers.list(all=True, filters={"label": f"{TEST_LABEL}={RUN}", "name": small.namespace}):
        thing.remove(force=True, v=True)
    for network in engine.networks.list(names=[small.namespace]):
        network.remove()
    for volume in engine.volumes.list(filters={"name": small.namespace}):
        volume.remove(force=True)


def test_clean_takes_what_this_checkout_made_and_nothing_else(
    small: Project, engine: docker.DockerClient, things: dict[str, dict[str, Any]]
) -> None:
    small.invoke("build")
    result = small.run("clean")
    assert result.returncode == 0, result.stderr
    mine: dict[str, Any] = {"label": f"{TEST_LABEL}={RUN}", "name": small.namespace}
    strangers = set(things) - {"ours"}
    left = {container.name for container in engine.containers.list(filters=mine)}
    assert left == {things[owner]["container"].name for owner in strangers}
    assert {network.name for network in engine.networks.list(filters=mine)} == left
    assert {volume.name for volume in engine.volumes.list(filters={"name": small.namespace})} == left
    name = things["ours"]["container"].name
    assert f"removed the container {name}\n" in result.stderr
    assert f"removed the volume {name}\n" in result.stderr
    assert not (small.root / ".pipeline").exists()
    assert engine.images.list(filters={"reference": f"{small.registry}/{small.namespace}/*"}), "images stay unless asked for"
    again = small.run("clean")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_clean_images_takes_this_projects_images_and_nothing_else(small: Project, engine: docker.DockerClient, tiny_image: str) -> None:
    small.invoke("build")
    second = small.json("build")["images"][1]["references"][0]
    own = f"{small.namespace}-strangers"  # another program's image, made from ours, which therefore inherits our labels
    subprocess.run(
        ["docker", "buildx", "build", "--quiet", "--tag", f"{own}:child", "-"],
        input=f"FROM {second}\nENV CHILD=1\n".encode(),
        capture_output=True,
        check=True,
    )
    engine.images.get(second).tag(f"{own}:same")
    other = f"{small.namespace}-2"
    try:
        small.invoke("build", PIPELINE_NAMESPACE=other)
        small.invoke("clean", "--images")
        assert not engine.images.list(filters={"reference": f"{small.registry}/{small.namespace}/*"})
        assert {tag for image in engine.images.list(filters={"reference": own}) for tag in image.tags} == {f"{own}:child", f"{own}:same"}
        assert len(engine.images.list(filters={"reference": f"{small.registry}/{other}/*:content-*"})) == 2
        assert engine.images.get(tiny_image)
        assert set(small.actions("build").values()) == {"build"}
    finally:
        remove_images(engine, f"{small.registry}/{other}/*")
        remove_images(engine, own)


def test_clean_images_keeps_one_that_a_container_runs_in_and_says_so(small: Project, engine: docker.DockerClient) -> None:
    first, second = (image["references"] for image in small.json("build")["images"])
    container = engine.containers.run(first[0], ["/bin/sleep", "600"], detach=True, labels={TEST_LABEL: RUN})
    try:
        result = small.run("clean", "--images")
        assert result.returncode == 0, result.stderr
        assert "kept the image" in result.stderr
        left = {tag for image in engine.images.list(filters={"reference": f"{small.registry}/{small.namespace}/*"}) for tag in image.tags}
        assert len(left) == 1
        assert left < set(first)
        assert not left.intersection(second)
        assert not (small.root / ".pipeline").exists()
    finally:
        container.remove(force=True)


# doctor


def doctor(project: Project, **environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code and check by name; the standard output holds one document and nothing else."""
    result = project.run("doctor", "--json", **environment)
    document = json.loads(result.stdout)
    assert document["ok"] is (result.returncode == 0)
    return result.returncode, {check["name"]: check for check in document["checks"]}


def test_doctor_is_content_where_the_main_job_can_run(small: Project) -> None:
    code, checks = doctor(small)
    assert code == 0, checks
    assert {"configuration", "git", "images", "buildx", "engine", "registry", "disk", "memory", "CA bundle", "credentials"} <= set(checks)
    assert "ok       registry" in small.invoke("doctor")
    assert not (small.root / ".pipeline").exists()


@pytest.mark.parametrize(
    ("check", "environment", "found"),
    [
        ("engine", {"DOCKER_HOST": "unix:///nowhere.sock"}, "does not answer"),
        ("registry", {"PIPELINE_REGISTRY": "127.0.0.1:1"}, "does not answer"),
        ("buildx", {"PATH": "/nowhere"}, "not installed"),
        ("git", {"PATH": "/nowhere"}, "git"),
        ("configuration", {"PIPELINE_NAMESPACE": "Not/A/Name"}, "Not/A/Name"),
    ],
)
def test_doctor_names_what_is_missing(small: Project, check: str, environment: dict[str, str], found: str) -> None:
    code, checks = doctor(small, **environment)
    assert code == 50
    assert checks[check]["ok"] is False
    assert found in checks[check]["found"]
    assert checks[check]["fix"]
    told = small.run("doctor", **environment)
    assert told.returncode == 50
    assert f"MISSING  {check}" in told.stdout
    assert check in told.stderr


def test_doctor_finds_a_broken_definition(small: Project) -> None:
    small.write("images/second.yaml", "parent: frist\n")
    code, checks = doctor(small)
    assert code == 50
    assert "images/second.yaml" in checks["images"]["found"]
    assert "first" in checks["images"]["fix"]


def test_doctor_cancels_the_upload_by_which_it_finds_out_whether_it_may_write(small: Project, registry: RegistryContainer) -> None:
    before = len(registry.log())
    doctor(small)
    lines = [line for line in registry.log()[before:] if f"/{small.namespace}/doctor/" in line]
    assert [re.findall(r'"(\w+) .*" (\d+) ', line) for line in lines] == [[("POST", "202")], [("DELETE", "204")]]


def test_doctor_without_a_project(tmp_path: Path, small: Project) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/tasks.py").write_text("from pipeline.tasks import namespace\n")
    result = subprocess.run(
        small.command("doctor", "--json"), cwd=tmp_path / "empty", env={**os.environ}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 50
    assert json.loads(result.stdout)["checks"][0]["ok"] is False
