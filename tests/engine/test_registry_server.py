"""A registry of one's own: invoke registry.start, registry.stop, and what invoke doctor says of it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import docker.errors
import pytest

from tests.engine.conftest import Project, own_image, remove_images

SECRET = "the-registrys-own-password"


@pytest.fixture
def server(project: Project, engine: docker.DockerClient, tiny_image: str) -> Iterator[Project]:
    """A project that publishes one small image in a registry of its own, on a free port; nothing of it stays."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configure(project, port)
    project.image("small", f"from: {tiny_image}\n", "COPY Dockerfile /from\n")
    project.commit()
    yield project
    name = f"pipeline-registry-{port}"
    for container in engine.containers.list(all=True, filters={"name": f"^/{name}$"}):
        container.remove(force=True, v=True)
    for volume in engine.volumes.list(filters={"name": name}):
        volume.remove(force=True)
    remove_images(engine, f"{project.registry}/{project.namespace}/*")


def configure(project: Project, port: int, more: str = "") -> None:
    project.registry = f"127.0.0.1:{port}"
    project.write(
        "pipeline.yaml",
        f"registry: {project.registry}\nnamespace: {project.namespace}\n"
        f"registry_server:\n  image: {own_image('registry')}\n  port: {port}\n{more}",
    )


def port_of(project: Project) -> int:
    return int(project.registry.rpartition(":")[2])


def status_of(project: Project) -> str:
    checks = json.loads(project.run("doctor", "--json").stdout)["checks"]
    return next(str(check["found"]).partition(": ")[2] for check in checks if check["name"] == "own registry")


def container_of(project: Project, engine: docker.DockerClient) -> str:
    """The id of the registry's container; empty where there is none."""
    try:
        return str(engine.containers.get(f"pipeline-registry-{port_of(project)}").id)
    except docker.errors.NotFound:
        return ""


def volumes_of(project: Project, engine: docker.DockerClient) -> list[str]:
    return [volume.name for volume in engine.volumes.list(filters={"label": f"pipeline.project={project.namespace}"})]


def test_it_starts_once_and_answers(server: Project, engine: docker.DockerClient) -> None:
    assert status_of(server) == "absent"
    assert server.invoke("registry.stop") == f"registry {server.registry}: was not running\n"
    said = server.invoke("registry.start")
    assert said == f"registry {server.registry}: running (data in the volume pipeline-registry-{port_of(server)})\n"
    first = container_of(server, engine)
    assert first
    assert server.invoke("registry.start") == said
    assert container_of(server, engine) == first
    assert status_of(server) == "running"
    bindings = engine.containers.get(first).attrs["HostConfig"]["PortBindings"]
    assert bindings == {"5000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port_of(server))}]}


def test_two_starts_at_the_same_time(server: Project, engine: docker.DockerClient) -> None:
    both = [subprocess.Popen(server.command("registry.start"), cwd=server.root, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert container_of(server, engine)


def test_its_data_outlive_it(server: Project, engine: docker.DockerClient) -> None:
    server.invoke("registry.start")
    server.invoke("build", "push")
    server.invoke("registry.stop")
    assert not container_of(server, engine)
    assert server.run("push").returncode == 30
    server.invoke("registry.start")
    assert server.actions("push") == {"small": "none"}


def test_one_that_was_stopped_by_hand_is_started_again(server: Project, engine: docker.DockerClient) -> None:
    server.invoke("registry.start")
    first = container_of(server, engine)
    engine.containers.get(first).kill()
    assert status_of(server) == "stopped"
    server.invoke("registry.start")
    assert container_of(server, engine) == first
    assert status_of(server) == "running"


def test_with_a_password_only_its_user_may_pull_and_push(server: Project, engine: docker.DockerClient, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{SECRET}\n")
    (tmp_path / "password").chmod(0o600)
    server.environment["DOCKER_CONFIG"] = str(tmp_path / "docker")
    configure(server, port_of(server), f"  user: builder\n  password_file: {tmp_path}/password\n")
    server.invoke("registry.start")
    refused = server.run("build")
    assert refused.returncode == 31
    assert f"docker login {server.registry}" in refused.stderr
    subprocess.run(
        ["docker", "login", "--username", "builder", "--password-stdin", server.registry],
        input=SECRET.encode(),
        env={**os.environ, **server.environment},
        capture_output=True,
        check=True,
    )
    server.invoke("build", "push")
    assert server.actions("push") == {"small": "none"}
    container = engine.containers.get(container_of(server, engine))
    assert SECRET not in str(container.attrs) + str(container.top()) + container.logs().decode()
    container.restart()  # as an engine does when it starts: the password is still there
    server.invoke("registry.start")
    assert server.actions("push") == {"small": "none"}


@pytest.mark.parametrize("content", [None, b"", b"\n"], ids=["no file", "an empty file", "an empty line"])
def test_a_password_file_that_holds_none(server: Project, engine: docker.DockerClient, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "password").write_bytes(content)
    configure(server, port_of(server), f"  user: builder\n  password_file: {tmp_path}/password\n")
    failed = server.run("registry.start")
    assert failed.returncode == 10, failed.stderr
    assert "registry_server.password_file" in failed.stderr
    assert f"{tmp_path}/password" in failed.stderr
    assert not container_of(server, engine)
    assert not volumes_of(server, engine)


def test_a_port_that_is_taken(server: Project, engine: docker.DockerClient) -> None:
    with socket.create_server(("127.0.0.1", port_of(server))):
        failed = server.run("registry.start")
    assert failed.returncode == 20, failed.stderr
    assert str(port_of(server)) in failed.stderr
    assert "registry_server.port" in failed.stderr
    assert not container_of(server, engine)
    assert not volumes_of(server, engine)
    server.invoke("registry.start")


def test_one_that_ends_again_says_why(server: Project, engine: docker.DockerClient, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("x" * 73)  # more than bcrypt reads: the image refuses it
    configure(server, port_of(server), f"  user: builder\n  password_file: {tmp_path}/password\n")
    failed = server.run("registry.start")
    assert failed.returncode == 30, failed.stderr
    assert "longer than 72 bytes" in failed.stderr
    (tmp_path / "password").write_text(SECRET)
    server.invoke("registry.start")  # and the next start is not stuck with the broken one


def test_clean_takes_it_away_with_its_data_and_nothing_else(server: Project, engine: docker.DockerClient) -> None:
    server.invoke("registry.start")
    labels = engine.containers.get(container_of(server, engine)).labels
    neighbour = engine.volumes.create(f"{server.namespace}-neighbour", labels={**labels, "pipeline.checkout": "/another/checkout"})
    try:
        server.invoke("clean")
        assert not container_of(server, engine)
        assert volumes_of(server, engine) == [neighbour.name]
    finally:
        neighbour.remove()


def test_other_settings_are_not_silently_ignored(server: Project) -> None:
    server.invoke("registry.start")
    (server.root / "password").write_text(SECRET)
    configure(server, port_of(server), "  user: builder\n  password_file: password\n")
    refused = server.run("registry.start")
    assert refused.returncode == 10
    assert "invoke registry.stop" in refused.stderr


def test_a_registry_of_another_checkout_is_not_stopped(server: Project, tmp_path: Path) -> None:
    server.invoke("registry.start")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(server.root, elsewhere)
    refused = Project(elsewhere, server.registry, server.namespace).run("registry.stop")
    assert refused.returncode == 10
    assert str(server.root) in refused.stderr
    assert status_of(server) == "running"
