"""Build secrets: they reach the RUN that mounts them, and nothing else that a build leaves or shows."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import docker
import pytest

from tests.engine.conftest import Project, RegistryContainer, remove_images, run_registry
from tests.engine.test_failures import watched_command_lines

pytestmark = pytest.mark.both_stores

# Random enough that nothing else holds them, and each of them known by its first part alone.
MAVEN = "maven-4f1c9d72e8"
TOKEN = "token-a83b6e05d1"
AUTHORITY = "authority-7d20c5f9ab"
MARKS = (MAVEN, TOKEN, AUTHORITY)
SETTINGS = f"<settings><servers><server><id>central</id><password>{MAVEN}</password></server></servers></settings>\n"
BUNDLE = f"-----BEGIN CERTIFICATE-----\n{AUTHORITY}\n-----END CERTIFICATE-----\n"

# Each secret is read, compared with its length (which is no secret), and left out of the layer.
DOCKERFILE = f"""\
RUN --mount=type=secret,id=maven,target=/root/.m2/settings.xml \\
    --mount=type=secret,id=token \\
    --mount=type=secret,id=ca,target=/tmp/ca.crt \\
    read_all() {{ while IFS= read -r line || [ -n "$line" ]; do total=$((total + ${{#line}} + 1)); done; }}; \\
    total=0; read_all < /root/.m2/settings.xml; maven=$total; \\
    total=0; read_all < /run/secrets/token; token=$total; \\
    total=0; read_all < /tmp/ca.crt; ca=$total; \\
    echo "$maven $token $ca" > /lengths; [ "$maven $token $ca" = "{len(SETTINGS)} {len(TOKEN) + 1} {len(BUNDLE)}" ] && sleep 0.3
"""
# A Dockerfile that nobody should write: one secret in a layer, one in the log, one as an argument.
GIVING_AWAY = """\
RUN --mount=type=secret,id=maven --mount=type=secret,id=token \\
    while read -r line; do echo "$line" >> /settings.xml; done < /run/secrets/maven; echo "the token is $(cat /run/secrets/token)"
"""


@pytest.fixture
def secretive(project: Project, tiny_image: str, tmp_path: Path) -> Project:
    """An image that is built with a file secret, an environment secret and the machine's CA bundle, and one built on it."""
    (tmp_path / "settings.xml").write_text(SETTINGS)
    (tmp_path / "company.crt").write_text(BUNDLE)
    secrets = f"secrets:\n  maven: {{file: {tmp_path}/settings.xml}}\n  token: {{env: TEST_TOKEN}}\n"
    project.write("pipeline.yaml", (project.root / "pipeline.yaml").read_text() + secrets)
    project.image("built", f"from: {tiny_image}\nsecrets: [maven, token, ca]\n", f"COPY once.txt /once.txt\n{DOCKERFILE}")
    project.write("dockerfiles/built/once.txt", f"{project.namespace}\n")  # BuildKit's cache knows no other test's
    project.image("child", "parent: built\n", "COPY Dockerfile /child\n")
    project.environment |= {"TEST_TOKEN": TOKEN, "SSL_CERT_FILE": str(tmp_path / "company.crt")}
    project.commit("begin")
    return project


@pytest.fixture
def recorded_docker(secretive: Project, tmp_path: Path) -> Path:
    """The arguments of every docker and buildx that is started: those found first write them down, and start the real ones."""
    plugins = ["docker", "info", "--format", "{{range .ClientInfo.Plugins}}{{.Name}}={{.Path}} {{end}}"]
    found = dict(pair.split("=") for pair in subprocess.run(plugins, capture_output=True, text=True, check=True).stdout.split())
    record, folder, config = tmp_path / "started", tmp_path / "bin", tmp_path / "docker"
    for path, real in ((folder / "docker", str(shutil.which("docker"))), (config / "cli-plugins/docker-buildx", found["buildx"])):
        path.parent.mkdir(parents=True)
        path.write_text(f'#!/bin/sh\nprintf \'%s\\n\' "$*" >> {record}\nexec {real} "$@"\n')
        path.chmod(0o755)
    secretive.environment |= {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "DOCKER_CONFIG": str(config)}
    return record


@pytest.fixture
def own_registry(machine: docker.DockerClient, engine: docker.DockerClient, secretive: Project) -> Iterator[RegistryContainer]:
    """A registry that holds nothing else, so that each of its bytes can be looked at."""
    server = run_registry(machine)
    secretive.environment["PIPELINE_REGISTRY"] = server.host
    yield server
    remove_images(engine, f"{server.host}/{secretive.namespace}/*")
    server.container.remove(force=True, v=True)


def test_secrets_reach_the_build_and_nothing_else(
    secretive: Project, engine: docker.DockerClient, own_registry: RegistryContainer, recorded_docker: Path
) -> None:
    with watched_command_lines(MAVEN) as one, watched_command_lines(TOKEN) as two, watched_command_lines(AUTHORITY) as three:
        result = secretive.run("build", "push", "--json")
    assert result.returncode == 0, result.stderr
    assert not one + two + three
    started = recorded_docker.read_text()
    assert "id=maven,src=" in started
    assert "id=token,env=TEST_TOKEN" in started
    lengths = f"{len(SETTINGS)} {len(TOKEN) + 1} {len(BUNDLE)}\n"
    assert engine.containers.run(references_of(secretive)["built"], ["cat", "/lengths"], remove=True).decode() == lengths
    plan = secretive.invoke("plan", "--json")
    shown = {"stdout": result.stdout, "stderr": result.stderr, "arguments": started, "plan": plan}
    assert find_marks(secretive, engine, own_registry, shown) == set()


def test_the_search_finds_what_a_dockerfile_gives_away(
    secretive: Project, engine: docker.DockerClient, own_registry: RegistryContainer
) -> None:
    secretive.write("dockerfiles/child/Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nARG GIVEN\n" + GIVING_AWAY)
    secretive.write("images/child.yaml", f"parent: built\nsecrets: [maven, token]\nargs: {{GIVEN: {AUTHORITY}}}\n")
    secretive.commit()
    secretive.invoke("build", "push")
    found = find_marks(secretive, engine, own_registry, {})
    assert {(MAVEN, "docker save"), (MAVEN, "registry"), (TOKEN, ".pipeline/logs/child.log"), (AUTHORITY, "docker history")} <= found


def references_of(project: Project) -> dict[str, str]:
    """Image → its content reference."""
    return {image["name"]: image["references"][0] for image in project.json("plan")["images"]}


def find_marks(project: Project, engine: docker.DockerClient, registry: RegistryContainer, shown: dict[str, str]) -> set[tuple[str, str]]:
    """(mark of a secret, place) for every one in what a build and a push left: images, history, state, registry and its log."""
    references = list(references_of(project).values())
    history = ["docker", "history", "--no-trunc"]
    places: list[tuple[str, bytes]] = [(place, text.encode()) for place, text in shown.items()]
    for reference in references:
        places.append(("docker history", subprocess.run([*history, reference], capture_output=True, check=True).stdout))
        places.append(("docker inspect", json.dumps(engine.images.get(reference).attrs).encode()))
    places += [
        (str(path.relative_to(project.root)), path.read_bytes()) for path in (project.root / ".pipeline").rglob("*") if path.is_file()
    ]
    places += [("registry's log", line.encode()) for line in registry.log()]
    with subprocess.Popen(["docker", "save", *references], stdout=subprocess.PIPE) as process:
        places += [("docker save", content) for content in contents(cast("IO[bytes]", process.stdout))]
    stream, _ = registry.container.get_archive("/var/lib/registry")  # blobs, and with them the release
    places += [("registry", content) for content in contents(io.BytesIO(b"".join(stream)))]
    assert {"docker save", "registry", "registry's log", ".pipeline/logs/built.log"} <= {place for place, _ in places}
    return {(mark, place) for place, content in places for mark in MARKS if mark.encode() in content}


def contents(stream: IO[bytes]) -> Iterator[bytes]:
    """Every entry's name and content in a tar archive; what is compressed both as it is and unpacked."""
    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        for entry in archive:
            yield f"{entry.name} {entry.linkname} {entry.pax_headers}".encode()
            content = archive.extractfile(entry).read() if entry.isfile() else b""  # type: ignore[union-attr]
            yield content  # a layer as it is, with whatever lies between its files
            if content.startswith(b"\x1f\x8b"):
                yield gzip.decompress(content)


def test_a_secrets_value_is_in_no_fingerprint(secretive: Project, tmp_path: Path) -> None:
    secretive.invoke("build")
    before = {image["name"]: image["fingerprint"] for image in secretive.json("plan")["images"]}
    (tmp_path / "settings.xml").write_text(SETTINGS.replace(MAVEN, "another"))
    (tmp_path / "company.crt").write_text("another")
    after = secretive.json("plan", TEST_TOKEN="another")["images"]
    assert {image["name"]: image["fingerprint"] for image in after} == before
    assert {image["name"]: image["action"] for image in after} == {"built": "none", "child": "none"}


def test_a_failing_run_does_not_show_its_secrets(secretive: Project) -> None:
    path = secretive.root / "dockerfiles/built/Dockerfile"
    path.write_text(re.sub(r"sleep 0.3", "exit 7", path.read_text()))
    secretive.commit()
    failed = secretive.run("build")
    assert failed.returncode == 21
    assert "exit code: 7" in failed.stderr
    left = [file.read_text(errors="replace") for file in (secretive.root / ".pipeline").rglob("*") if file.is_file()]
    assert not [mark for mark in MARKS for text in (failed.stdout, failed.stderr, *left) if mark in text]
