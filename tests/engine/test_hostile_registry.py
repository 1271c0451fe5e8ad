"""Publishing to a registry that falters, and to one that says no: through the real command line and the real engine."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import signal
import subprocess
import tarfile
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import docker
import git
import pytest

from pipeline.adapters.docker_context import engine_endpoint
from pipeline.adapters.docker_images import DockerImages
from pipeline.errors import RegistryRefusedError, TagImmutableError
from pipeline.reference import Reference
from tests.engine.conftest import RUN, Project, RegistryContainer, remove_images, wait_for
from tests.engine.hostile_registry import KINDS, HostileRegistry, Refusal, Rule, hostile_registry, no_overwriting, no_writing, says

UNDER_WAY = 0.1  # seconds in which a request may arrive that was sent before the answer to another one had come
AT_ONCE = 5  # publishes at the same time: they mostly wait
MakeProject = Callable[[str], Project]


def import_crumb(name: str) -> None:
    """An image of one small file, for which nobody has to wait; each of another content."""
    content = f"{name} {uuid.uuid4().hex}\n".encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("crumb")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    subprocess.run(["docker", "import", "-", name], input=archive.getvalue(), capture_output=True, check=True)


@pytest.fixture(scope="module")
def crumb(engine: docker.DockerClient) -> Iterator[str]:
    name = f"pipeline-test/crumb:{RUN}"
    import_crumb(name)
    yield name
    engine.images.remove(name)


@pytest.fixture
def make_project(tmp_path: Path, engine: docker.DockerClient, crumb: str) -> Iterator[MakeProject]:
    """Makes projects of two linked images, lower → upper, of content that no other one has, published to `host`."""
    made: list[tuple[str, str]] = []
    numbers = itertools.count()

    def make(host: str) -> Project:
        namespace = f"hostile-{uuid.uuid4().hex[:8]}"
        root = tmp_path / f"project-{next(numbers)}"
        made.append((host, namespace))
        repository = git.Repo.init(root, initial_branch="main")
        with repository.config_writer() as config:
            config.set_value("user", "name", "Test")
            config.set_value("user", "email", "test@example.com")
        repository.close()
        project = Project(root, host, namespace)
        project.write("pipeline.yaml", f"registry: {host}\nnamespace: {namespace}\n")
        project.write("tasks.py", "from pipeline.tasks import namespace\n")
        project.write(".gitignore", ".pipeline/\n__pycache__/\n")
        project.image("lower", f"from: {crumb}\n", "COPY lower.txt /lower.txt\n")
        project.write("dockerfiles/lower/lower.txt", f"{namespace}\n")
        project.image("upper", "parent: lower\n", "COPY upper.txt /upper.txt\n")
        project.write("dockerfiles/upper/upper.txt", f"{namespace}\n")
        project.commit("begin")
        return project

    yield make
    for host, namespace in made:
        remove_images(engine, f"{host}/{namespace}/*")


def prove_published(project: Project, registry: RegistryContainer, output: str) -> None:
    """In the registry itself, behind the proxy, every tag names what was said to be published."""
    images = json.loads(output)["images"]
    assert {image["name"] for image in images} == {"lower", "upper"}
    for image in images:
        assert image["digest"]
        for reference in image["references"]:
            assert registry.digest(reference.partition("/")[2]) == image["digest"], reference


def test_every_publish_succeeds_at_a_registry_that_falters(make_project: MakeProject, registry: RegistryContainer, long_run: bool) -> None:
    """One request in five is answered 429, 500 or 503, reset, done and not told, slow, cut, or wants a new token."""
    count = 100 if long_run else 4
    with hostile_registry(registry.host, seed=20, rate=0.2) as proxy:

        def publish(_: int) -> None:
            project = make_project(proxy.host)
            result = project.run("build", "push", "--json")
            assert result.returncode == 0, result.stderr
            prove_published(project, registry, result.stdout)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            outcomes = [pool.submit(publish, number) for number in range(count)]
            failures = [str(outcome.exception()) for outcome in outcomes if outcome.exception()]
        print(f"{count - len(failures)} of {count} publishes; {len(proxy.seen)} requests, of which met {dict(proxy.faults)}")
        assert not failures, "\n\n".join(failures)
        assert proxy.faults.total() > len(proxy.seen) / 10
        assert set(proxy.faults) == set(KINDS) or not long_run
        prove_patience(proxy)


def prove_patience(proxy: HostileRegistry) -> None:
    """By the proxy's clock: a process that was told when to come back did not come before. Whose requests they are shows in the path."""
    for told in proxy.seen:
        if told.wait and told.is_own and "/manifests/" in told.path:
            namespace = told.path.split("/")[2]
            after = [seen for seen in proxy.seen if seen.is_own and seen.time > told.time and f"/{namespace}/" in seen.path]
            # Requests that were under way already when the answer went out are no impatience: those of the same tag come after it.
            again = [seen for seen in after if seen.path == told.path]
            assert not again or again[0].time - told.time >= told.wait, f"{told} was not waited for: {again[0]}"


REFUSALS: dict[str, tuple[Rule, str]] = {
    "login": (no_writing(401, says("UNAUTHORIZED", "authentication required"), {"WWW-Authenticate": 'Basic realm="x"'}), "docker login"),
    "denied": (no_writing(403, says("DENIED", "requested access to the resource is denied")), "permission"),
    "read-only": (no_writing(405, says("UNSUPPORTED", "The operation is unsupported.")), "read-only"),
    "maintenance": (no_writing(403, says("DENIED", "The system is in read only mode. Any modification is prohibited.")), "read-only"),
    "quota": (
        no_writing(403, says("DENIED", "Quota exceeded when processing the request of adding 1 MiB of storage resource")),
        "free space",
    ),
    "full": (no_writing(507, "Insufficient Storage"), "free space"),
    "too large": (no_writing(413, "<html><h1>413 Request Entity Too Large</h1></html>", {"Content-Type": "text/html"}), "free space"),
    "no repository": (no_writing(404, says("NAME_UNKNOWN", "The repository with name 'x' does not exist in the registry")), "to be made"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_fails_at_once_and_says_what_to_do(make_project: MakeProject, registry: RegistryContainer, kind: str) -> None:
    rule, hint = REFUSALS[kind]
    with hostile_registry(registry.host, refuse=rule) as proxy:
        project = make_project(proxy.host)
        result = project.run("build", "push")
        assert result.returncode == 31, result.stderr
        assert hint in result.stderr
        assert proxy.host in result.stderr
        assert "Traceback" not in result.stderr
        assert proxy.faults == {"refused": 1}


IMMUTABLE = {
    "Harbor": (412, says("PRECONDITION", "Failed to process request due to 'upper:main' configured as immutable.")),
    "ECR": (400, says("TAG_INVALID", "The image tag 'main' already exists in the 'upper' repository and cannot be overwritten because the tag is immutable.")),
    "Nexus": (400, says("UNKNOWN", "Repository does not allow updating assets: docker")),
    "Artifactory": (403, says("DENIED", "Not enough permissions to overwrite artifact 'upper/main/manifest.json'")),
}  # fmt: skip


@pytest.mark.parametrize("product", IMMUTABLE)
def test_a_branch_tag_that_may_not_be_overwritten(make_project: MakeProject, registry: RegistryContainer, product: str) -> None:
    """The commit is published, the branch tag stays, and is said to."""
    with hostile_registry(registry.host, refuse=no_overwriting(*IMMUTABLE[product])) as proxy:
        project = make_project(proxy.host)
        project.invoke("build", "push")
        project.write("dockerfiles/upper/upper.txt", "changed\n")
        commit = project.commit()
        first = registry.digest(f"{project.namespace}/upper:main")
        result = project.run("build", "push")
        assert result.returncode == 31, result.stderr
        assert "overwrit" in result.stderr
        assert proxy.faults == {"refused": 1}
        assert registry.digest(f"{project.namespace}/upper:main") == first
        assert registry.digest(f"{project.namespace}/upper:main-{commit[:12]}") not in ("", first)


def test_retry_after_is_honoured(make_project: MakeProject, registry: RegistryContainer) -> None:
    """By the proxy's clock: nobody came before the time was over, whatever the image."""
    with hostile_registry(registry.host) as proxy:
        project = make_project(proxy.host)
        project.invoke("build", "push")
        proxy.seen.clear()
        proxy.rate, proxy.kinds = 1.0, ["429"]

        def end() -> None:
            wait_for(lambda: proxy.seen, "the first request comes", interval=0.01)
            proxy.rate = 0.0

        ending = threading.Thread(target=end)
        ending.start()
        project.invoke("push")
        ending.join()
        refused = [seen for seen in proxy.seen if seen.fault == "429"]
        others = [seen for seen in proxy.seen if seen.fault != "429"]
        assert refused and others
        for seen in others:
            told = [earlier for earlier in refused if seen.time - earlier.time > UNDER_WAY]
            assert all(seen.time - earlier.time >= earlier.wait for earlier in told), seen


@contextlib.contextmanager
def built(proxy: HostileRegistry) -> Iterator[tuple[DockerImages, Reference]]:
    """A small image under a name in the proxy's registry, on the engine."""
    reference = Reference(proxy.host, f"hostile-{uuid.uuid4().hex[:8]}/crumb", "one")
    import_crumb(str(reference))
    with closing(DockerImages(engine_endpoint())) as images:
        try:
            yield images, reference
        finally:
            images.remove_tag(str(reference))


@pytest.mark.both_stores
@pytest.mark.parametrize("product", IMMUTABLE)
def test_a_tag_that_the_engine_may_not_overwrite(registry: RegistryContainer, product: str) -> None:
    with hostile_registry(registry.host, refuse=no_overwriting(*IMMUTABLE[product])) as proxy, built(proxy) as (images, reference):
        first = images.push_image(reference)
        import_crumb(str(reference))
        with pytest.raises(TagImmutableError) as caught:
            images.push_image(reference)
        assert str(reference) in caught.value.message
        assert proxy.faults == {"refused": 1}
        assert registry.digest(f"{reference.repository}:{reference.tag}") == first


@pytest.mark.both_stores
@pytest.mark.parametrize("kind", ["denied", "read-only", "maintenance", "quota", "full", "too large"])
def test_a_manifest_that_the_engine_may_not_push(registry: RegistryContainer, kind: str) -> None:
    """One request of the engine is refused, and one of ours where the engine keeps the registry's words to itself."""
    rule, hint = REFUSALS[kind]

    def uploads_first(proxy: HostileRegistry, method: str, path: str, body: bytes) -> Refusal | None:
        return rule(proxy, method, path, body) if "/manifests/" in path or proxy.is_own_request() else None

    with hostile_registry(registry.host, refuse=uploads_first) as proxy, built(proxy) as (images, reference):
        with pytest.raises(RegistryRefusedError) as caught:
            images.push_image(reference)
        assert hint in caught.value.hint
        assert len(proxy.asked("PUT", "/manifests/")) == 1
        assert proxy.faults["refused"] <= 2


@pytest.mark.both_stores
def test_the_engine_pushes_and_pulls_through_every_kind_of_fault(registry: RegistryContainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """All kinds at the same time, each before a registry of its own: the engine waits long before it tries a layer again."""
    monkeypatch.setattr("pipeline.adapters.docker_images.STALLED_SENDING", 10.0)  # the layers are of a few bytes

    def push_and_pull(kind: str) -> None:
        with hostile_registry(registry.host, seed=3, rate=0.25, kinds=[kind]) as proxy, built(proxy) as (images, reference):
            digest = images.push_image(reference)
            assert registry.digest(f"{reference.repository}:{reference.tag}") == digest
            images.remove_tag(str(reference))
            images.pull_image(reference)
            assert images.find_image(str(reference))
            assert proxy.faults[kind]

    with ThreadPoolExecutor(len(KINDS)) as pool:
        outcomes = {kind: pool.submit(push_and_pull, kind) for kind in KINDS}
        failures = {kind: outcome.exception() for kind, outcome in outcomes.items() if outcome.exception()}
    assert not failures


@pytest.mark.both_stores
def test_an_interrupt_ends_what_the_engine_pushes(make_project: MakeProject, registry: RegistryContainer) -> None:
    """The layer that is under way it finishes (seen with 26.1), but it begins nothing more behind the back of who pressed Ctrl-C."""
    asked, go_on = threading.Event(), threading.Event()

    def hold(proxy: HostileRegistry, method: str, path: str, body: bytes) -> None:
        if method in ("PATCH", "PUT") and "/blobs/uploads/" in path and not proxy.is_own_request():
            asked.set()
            go_on.wait(60)

    with hostile_registry(registry.host) as proxy:
        project = make_project(proxy.host)
        project.invoke("build")
        proxy.refuse = hold
        environment = {**os.environ, **project.environment}
        process = subprocess.Popen(project.command("push"), cwd=project.root, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            assert asked.wait(30)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
            go_on.set()
        assert process.returncode == 130, said
        assert "Traceback" not in said
        wait_for(lambda: [seen for seen in proxy.asked("PUT", "/blobs/uploads/") if not seen.is_own], "the layer is finished")
        proxy.refuse = lambda *_: None
        project.invoke("build")  # the engine is given time for what it should not do
        assert not proxy.asked("PUT", "/manifests/")
        prove_published(project, registry, project.invoke("push", "--json"))
