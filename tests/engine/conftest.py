"""The real engine, a real registry, and real Git repositories for the tests; all that they make is found by label and removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import git
import pytest

from pipeline.adapters.registry import Registry
from pipeline.config import read_config
from pipeline.errors import RegistryRefusedError, RegistryUnreachableError
from pipeline.reference import Reference
from pipeline.tasks.wiring import provide_image

ROOT = Path(__file__).resolve().parent.parent.parent
INVOKE = str(Path(sys.executable).with_name("invoke"))
TEST_LABEL = "pipeline.test"  # on every container a test makes by itself, with the run it belongs to
RUN = uuid.uuid4().hex[:8]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="seeded tests run their full number of rounds, not a sample")


@pytest.fixture(scope="session")
def long_run(request: pytest.FixtureRequest) -> bool:
    """Whether the tests that draw cases at random shall draw as many as the project's claims are made for."""
    return bool(request.config.getoption("--long"))


def wait_for(condition: Callable[[], Any], what: str, deadline: float = 30.0, interval: float = 0.05) -> Any:
    """Wait until `condition` is true and return it; the one way in which these tests wait."""
    end = time.monotonic() + deadline
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {deadline:.0f} s: {what}"
        time.sleep(interval)
    return found


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """The engine, through docker-py as any other program would use it."""
    client = docker.from_env()
    client.ping()
    yield client
    for container in client.containers.list(all=True, filters={"label": f"{TEST_LABEL}={RUN}"}):
        container.remove(force=True, v=True)
    client.close()


def own_image(name: str) -> str:
    """An image of this repository, built first where needed; its content tag."""
    return provide_image(read_config(ROOT), name, lambda line: print(line, file=sys.stderr))


@pytest.fixture(scope="session")
def ubuntu_image(engine: docker.DockerClient) -> Iterator[str]:
    """The shared base image under a name that only this engine knows."""
    name = f"pipeline-test/ubuntu:{uuid.uuid4().hex[:8]}"
    engine.images.get(own_image("ubuntu")).tag(name)
    yield name
    engine.images.remove(name)


@pytest.fixture(scope="session")
def tiny_image(engine: docker.DockerClient, ubuntu_image: str) -> Iterator[str]:
    """A shell and little else, 5 MB, so that an image can be carried to another engine or registry in no time."""
    name = f"pipeline-test/tiny:{RUN}"
    dockerfile = (
        f"FROM {ubuntu_image} AS full\n"
        "RUN for file in /bin/sh /bin/sleep /bin/cat /bin/dd; do \\\n"
        '      mkdir -p /out; cp --parents -L $file $(ldd $file | grep -o "/[^ ]*") /out; done\n'
        "FROM scratch\nCOPY --from=full /out /\n"
    )
    subprocess.run(["docker", "buildx", "build", "--quiet", "--tag", name, "-"], input=dockerfile.encode(), capture_output=True, check=True)
    yield name
    engine.images.remove(name)


@pytest.fixture(scope="session")
def standin_image(engine: docker.DockerClient) -> str:
    return own_image("oracle-standin")


@dataclass
class RegistryContainer:
    """A registry of the tests' own; `log` is its access log, from which is proven what was uploaded."""

    host: str
    container: Any

    def log(self) -> list[str]:
        return list(self.container.logs(stdout=True, stderr=False).decode(errors="replace").splitlines())

    def digest(self, reference: str) -> str:
        """The digest under PATH:TAG."""
        path, _, tag = reference.rpartition(":")
        with closing(Registry(self.host)) as registry:
            return registry.digest(Reference(self.host, path, tag))


def run_registry(engine: docker.DockerClient, **options: Any) -> RegistryContainer:
    """Start a registry container on a free port and wait until it answers."""
    options = {"environment": {}, **options}
    containers: Any = engine.containers  # its types know no free port on one address
    container = containers.run(
        own_image("registry"), detach=True, labels={TEST_LABEL: RUN}, ports={"5000/tcp": ("127.0.0.1", None)}, **options
    )

    def port() -> Any:
        container.reload()
        return (container.ports.get("5000/tcp") or [{}])[0].get("HostPort")

    host = f"127.0.0.1:{wait_for(port, 'the port of the registry is published')}"

    def answers() -> bool:
        try:
            with closing(Registry(host)) as registry:
                registry.ping()
        except RegistryUnreachableError:
            return False
        except RegistryRefusedError:
            pass  # it wants credentials, so it is up
        return True

    wait_for(answers, "the registry answers")
    return RegistryContainer(host, container)


@pytest.fixture(scope="session")
def registry(engine: docker.DockerClient) -> Iterator[RegistryContainer]:
    """One registry for all tests of a run; each project has a namespace of its own in it."""
    found = run_registry(engine)
    yield found
    found.container.remove(force=True, v=True)


@dataclass
class Project:
    """A Git repository with a pipeline.yaml, used through the real command line."""

    root: Path
    registry: str
    namespace: str
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, path: str, text: str, mode: int | None = None) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if mode is not None:
            file.chmod(mode)

    def image(self, name: str, definition: str, dockerfile: str) -> None:
        """An image definition with its Dockerfile; the two lines every Dockerfile begins with are added."""
        self.write(f"images/{name}.yaml", definition)
        self.write(f"dockerfiles/{name}/Dockerfile", f"ARG BASE_IMAGE\nFROM ${{BASE_IMAGE}}\n{dockerfile}")

    def commit(self, message: str = "change") -> str:
        repository = git.Repo(self.root)
        repository.git.add(all=True)
        repository.git.commit("--allow-empty", "-qm", message)
        return str(repository.head.commit.hexsha)

    def command(self, *arguments: str) -> list[str]:
        return [INVOKE, *arguments]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`invoke ARGUMENTS` in the repository, whatever its exit code."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env={**os.environ, **self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def invoke(self, *arguments: str, **environment: str) -> str:
        """The same, which must succeed; its standard output."""
        result = self.run(*arguments, **environment)
        assert result.returncode == 0, f"invoke {' '.join(arguments)} exited with {result.returncode}:\n{result.stdout}{result.stderr}"
        return result.stdout

    def json(self, *arguments: str, **environment: str) -> Any:
        return json.loads(self.invoke(*arguments, "--json", **environment))

    def actions(self, *arguments: str) -> dict[str, str]:
        """Image → action of a command's JSON document (`plan` unless another one is given)."""
        return {image["name"]: image["action"] for image in self.json(*(arguments or ("plan",)))["images"]}


@pytest.fixture
def project(tmp_path: Path, engine: docker.DockerClient, registry: RegistryContainer) -> Iterator[Project]:
    """An empty project in a new Git repository on branch main; its images are removed afterwards."""
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    root = tmp_path / "project"
    repository = git.Repo.init(root, initial_branch="main")
    with repository.config_writer() as config:
        config.set_value("user", "name", "Test")
        config.set_value("user", "email", "test@example.com")
    repository.close()
    made = Project(root, registry.host, namespace)
    made.write("pipeline.yaml", f"registry: {registry.host}\nnamespace: {namespace}\n")
    made.write("tasks.py", "from pipeline.tasks import namespace\n")
    made.write(".gitignore", ".pipeline/\n__pycache__/\n")
    yield made
    remove_images(engine, f"*/{namespace}/*")
    engine.images.prune(filters={"dangling": True, "label": f"pipeline.project={namespace}"})  # what --no-cache has replaced


def remove_images(engine: docker.DockerClient, pattern: str) -> None:
    for image in engine.images.list(filters={"reference": pattern}):
        for tag in image.tags:
            engine.images.remove(tag, force=True)


@pytest.fixture
def hierarchy(project: Project, ubuntu_image: str) -> Project:
    """Three linked images on a base that only the engine has: base → middle → leaf; committed."""
    project.image("base", f"from: {ubuntu_image}\n", "COPY base.txt /base.txt\n")
    project.write("dockerfiles/base/base.txt", "base\n")
    project.image("middle", "parent: base\n", "COPY middle.txt /middle.txt\n")
    project.write("dockerfiles/middle/middle.txt", "middle\n")
    project.image("leaf", "parent: middle\n", "COPY leaf.txt /leaf.txt\n")
    project.write("dockerfiles/leaf/leaf.txt", "leaf\n")
    project.commit("begin")
    return project
