"""The real engine, a real registry, and real Git repositories for the tests; all that they make is found by label and removed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import docker
import git
import pytest

from pipeline.adapters.registry import Registry
from pipeline.config import read_config
from pipeline.errors import RegistryRefusedError, RegistryUnreachableError
from pipeline.reference import Reference
from pipeline.tasks.service_images import provide_image
from tests.engine.checkouts import checkout, make_checkout  # noqa: F401 - fixtures
from tests.engine.run_commands import pytest_sessionfinish, pytest_sessionstart, pytest_terminal_summary, pytest_testnodedown  # noqa: F401 - hooks
from tests.engine.second_engine import CONTAINERD_STORE, SecondEngine, second_engine
from tests.engine.toolkit import toolkit  # noqa: F401 - a fixture

ROOT = Path(__file__).resolve().parent.parent.parent
INVOKE = str(Path(sys.executable).with_name("invoke"))
TEST_LABEL = "pipeline.test"  # on every container a test makes by itself, with the run it belongs to
RUN = uuid.uuid4().hex[:8]
BOTH_STORES = (  # the files whose tests hold for an engine with either image store; single tests elsewhere carry the marker
    "test_bases.py",
    "test_build_and_push.py",
    "test_clean_and_doctor.py",
    "test_failures.py",
    "test_kills.py",
)
NOT_TWICE = (  # words in the names of those tests in them that never come to an image, or are long and would say nothing new
    "bootstrapped",
    "dies_in_the_middle_of_a_push",  # a second engine does not see a connection refused, but one that ends at once
    "doctor",
    "dry_run",
    "no_engine_at_all",
    "only_without_a_name",
    "wants_a_login",
)
LONG_FILES = (  # come first: where files are run side by side, none is left over at the end
    "test_hostile_registry.py",
    "test_itest.py",
    "test_maven.py",
    "test_applications.py",
    "test_bake.py",
    "test_failures.py",
)
_MACHINE = {name: os.environ[name] for name in ("DOCKER_HOST", "DOCKER_CONTEXT") if name in os.environ}  # its engine


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="seeded tests run their full number of rounds, not a sample")
    parser.addoption(
        "--store",
        choices=["machine", "containerd"],
        default="machine",
        help="containerd: run the tests about images, on a second engine that keeps them in the containerd image store",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "both_stores: holds for an engine with either image store, and is run with each (--store)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG_FILES.index(item.path.name) if item.path.name in LONG_FILES else len(LONG_FILES))
    if config.getoption("--store") == "machine":
        return
    in_files = [item for item in items if item.path.name in BOTH_STORES and not any(word in item.name for word in NOT_TWICE)]
    wanted = [item for item in items if item in in_files or item.get_closest_marker("both_stores")]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted


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


@contextlib.contextmanager
def machines_engine() -> Iterator[None]:
    """Programs and adapters talk to the machine's own engine meanwhile, whichever engine is tested."""
    tested = {name: os.environ.pop(name) for name in ("DOCKER_HOST", "DOCKER_CONTEXT") if name in os.environ}
    os.environ.update(_MACHINE)
    try:
        yield
    finally:
        for name in _MACHINE:
            os.environ.pop(name, None)
        os.environ.update(tested)


@pytest.fixture(scope="session")
def machine() -> Iterator[docker.DockerClient]:
    """The machine's own engine: registries run on it, and the images of this repository are built on it."""
    with machines_engine():
        client = docker.from_env()
    client.ping()
    yield client
    remove_containers(client)
    client.close()


@pytest.fixture(scope="session")
def tested(request: pytest.FixtureRequest) -> Iterator[SecondEngine | None]:
    """The engine under test, where it is not the machine's own."""
    if request.config.getoption("--store") == "machine":
        yield None
        return
    SecondEngine.default_settings = CONTAINERD_STORE
    with second_engine() as second:
        yield second


@pytest.fixture(scope="session", autouse=True)
def engine(machine: docker.DockerClient, tested: SecondEngine | None) -> Iterator[docker.DockerClient]:
    """The engine under test, through docker-py as any other program would use it; everything that a test starts talks to it."""
    if tested is None:
        yield machine
        return
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("DOCKER_CONTEXT", raising=False)
        environment.setenv("DOCKER_HOST", tested.host)
        client = docker.from_env()
        yield client
        client.close()


def remove_containers(engine: docker.DockerClient) -> None:
    for container in engine.containers.list(all=True, filters={"label": f"{TEST_LABEL}={RUN}"}):
        container.remove(force=True, v=True)


def own_image(name: str) -> str:
    """An image of this repository on the machine's own engine, built first where needed; its content tag."""
    lock = ROOT / ".pipeline" / "tests" / "images.lock"  # processes that run tests side by side would each build it
    lock.parent.mkdir(parents=True, exist_ok=True)
    with machines_engine(), lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        return provide_image(read_config(ROOT), name, lambda line: print(line, file=sys.stderr))


def lend(tested: SecondEngine | None, image: str) -> None:
    """Let the engine under test have an image of the machine's own."""
    if tested is not None:
        with machines_engine():
            tested.load(image)


@pytest.fixture(scope="session")
def ubuntu_image(machine: docker.DockerClient, tested: SecondEngine | None) -> Iterator[str]:
    """The shared base image (124 MB) under a name that only this engine knows. Where a shell is enough, take `tiny_image`."""
    name = f"pipeline-test/ubuntu:{RUN}"
    machine.images.get(own_image("ubuntu")).tag(name)
    lend(tested, name)
    yield name
    machine.images.remove(name)


@pytest.fixture(scope="session")
def tiny_image(machine: docker.DockerClient, tested: SecondEngine | None) -> Iterator[str]:
    """A shell and a few commands, 6 MB, so that an image can be carried to another engine or registry in no time."""
    name = f"pipeline-test/tiny:{RUN}"
    dockerfile = (
        f"FROM {own_image('ubuntu')} AS full\n"
        "RUN for file in sh sleep cat dd head od stat wc ls mkdir rm; do \\\n"
        '      mkdir -p /out; cp --parents -L /bin/$file $(ldd /bin/$file | grep -o "/[^ ]*") /out; done\n'
        "FROM scratch\nCOPY --from=full /out /\n"
    )
    with machines_engine():
        command = ["docker", "buildx", "build", "--quiet", "--provenance=false", "--load", "--tag", name, "-"]
        subprocess.run(command, input=dockerfile.encode(), capture_output=True, check=True)
    lend(tested, name)
    yield name
    machine.images.remove(name)


@pytest.fixture(scope="session")
def other_image(engine: docker.DockerClient, tiny_image: str) -> Iterator[str]:
    """`tiny_image` with one more file: what its publisher might bring out next."""
    name = f"pipeline-test/other:{RUN}"
    command = ["docker", "buildx", "build", "--quiet", "--provenance=false", "--load", "--tag", name, "-"]
    subprocess.run(command, input=f"FROM {tiny_image}\nRUN echo other > /other\n".encode(), capture_output=True, check=True)
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


def run_registry(machine: docker.DockerClient, **options: Any) -> RegistryContainer:
    """Start a registry container on a free port and wait until it answers."""
    options = {"environment": {}, **options}
    containers: Any = machine.containers  # its types know no free port on one address
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
def registry(machine: docker.DockerClient) -> Iterator[RegistryContainer]:
    """One registry for all tests of a run; each project has a namespace of its own in it."""
    found = run_registry(machine)
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
def make_project(tmp_path: Path, engine: docker.DockerClient, registry: RegistryContainer) -> Iterator[Callable[[str], Project]]:
    """Makes empty projects, each in a new Git repository on branch main in the folder named; their images are removed afterwards."""
    made: list[Project] = []

    def make(folder: str) -> Project:
        made.append(new_project(tmp_path / folder, registry.host))
        return made[-1]

    yield make
    for namespace in (one.namespace for one in made):
        remove_images(engine, f"*/{namespace}/*")
        engine.images.prune(filters={"dangling": True, "label": f"pipeline.project={namespace}"})  # what --no-cache has replaced


@pytest.fixture
def project(make_project: Callable[[str], Project]) -> Project:
    """An empty project."""
    return make_project("project")


def new_project(root: Path, registry: str) -> Project:
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    repository = git.Repo.init(root, initial_branch="main")
    with repository.config_writer() as config:
        config.set_value("user", "name", "Test")
        config.set_value("user", "email", "test@example.com")
    repository.close()
    made = Project(root, registry, namespace)
    made.write("pipeline.yaml", f"registry: {registry}\nnamespace: {namespace}\n")
    made.write("tasks.py", "from pipeline.tasks import namespace\n")
    made.write(".gitignore", ".pipeline/\n__pycache__/\n")
    return made


def remove_images(engine: docker.DockerClient, pattern: str) -> None:
    """Remove every tag of a repository that matches; an engine may list an image's other tags with them."""
    for image in engine.images.list(filters={"reference": pattern}):
        for tag in image.tags:
            if fnmatch(tag.rpartition(":")[0], pattern):
                engine.images.remove(tag, force=True)


@pytest.fixture
def hierarchy(project: Project, tiny_image: str) -> Project:
    """Three linked images on a base that only the engine has: base → middle → leaf; committed."""
    project.image("base", f"from: {tiny_image}\n", "COPY base.txt /base.txt\n")
    project.write("dockerfiles/base/base.txt", "base\n")
    project.image("middle", "parent: base\n", "COPY middle.txt /middle.txt\n")
    project.write("dockerfiles/middle/middle.txt", "middle\n")
    project.image("leaf", "parent: middle\n", "COPY leaf.txt /leaf.txt\n")
    project.write("dockerfiles/leaf/leaf.txt", "leaf\n")
    project.commit("begin")
    return project
