"""Where a hierarchy begins: bases in a registry, pinned and remembered; another address to pull from; the bootstrap."""

from __future__ import annotations

import docker
import pytest

from pipeline.adapters.docker_images import DockerImages
from tests.engine.conftest import Project, RegistryContainer


@pytest.fixture
def upstream(project: Project, registry: RegistryContainer, engine: docker.DockerClient, ubuntu_image: str) -> str:
    """A base image in a registry, as another team would publish it; the engine does not have it under that name."""
    name = f"{registry.host}/{project.namespace}/upstream"
    publish_upstream(engine, name, ubuntu_image)
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
    project: Project, upstream: str, engine: docker.DockerClient, standin_image: str
) -> None:
    first = project.run("build")
    assert first.returncode == 0, first.stderr
    assert "not pinned" in first.stderr
    assert "not pinned" in (project.root / ".pipeline/bases.json").read_text()
    publish_upstream(engine, upstream, standin_image)  # upstream moves its tag
    second = project.run("build")
    assert second.returncode == 0
    assert "unchanged" in second.stderr
    assert "not pinned" not in second.stderr


def test_pins_update_pins_and_moves_exactly_the_descendants(
    project: Project, upstream: str, engine: docker.DockerClient, standin_image: str
) -> None:
    project.invoke("pins.update")
    lock = (project.root / "pipeline.lock").read_text()
    assert "sha256:" in lock
    project.commit("pin")
    assert project.actions("build") == {"base": "build", "leaf": "build"}
    publish_upstream(engine, upstream, standin_image)
    assert project.actions() == {"base": "none", "leaf": "none"}
    project.invoke("pins.update")
    assert (project.root / "pipeline.lock").read_text() != lock
    document = project.json("plan")
    assert {image["name"]: image["action"] for image in document["images"]} == {"base": "build", "leaf": "build"}
    assert document["images"][0]["reasons"] == [{"kind": "base", "what": f"{upstream}:1 changed"}]
    assert document["revision"]["dirty"] is True  # the lock is part of what the images are made of


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
        assert hierarchy.actions("build") == {"base": "pull", "middle": "pull", "leaf": "pull"}
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
