"""The engine's adapter against the real engine, where the bracket's tests do not reach."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import docker
import pytest

from pipeline.adapters.docker_context import Endpoint
from pipeline.adapters.docker_engine import DockerEngine
from pipeline.adapters.docker_images import DockerImages
from pipeline.errors import EngineError, ImageUnavailableError, MissingRequirementError
from tests.engine.conftest import TEST_LABEL, RegistryContainer

# Stands for ssh: notes what it was asked for, and does on this machine what it would have done on the other one.
SSH = """#!/bin/sh
echo "$@" >> "$0.log"
[ "$1" != -G ] || exit 1
while [ "$1" != docker ]; do shift; done
unset DOCKER_HOST DOCKER_CONTEXT
exec "$@"
"""


@pytest.fixture
def pushed(engine: docker.DockerClient, registry: RegistryContainer, tmp_path: Path) -> Iterator[str]:
    """REGISTRY/PATH of an image in a registry under the tags `one` and `latest`, which the engine does not have."""
    name = f"{registry.host}/test-{uuid.uuid4().hex[:8]}/tiny"
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    engine.images.build(path=str(tmp_path), tag=f"{name}:one")
    engine.images.get(f"{name}:one").tag(name, "latest")
    for tag in ("one", "latest"):
        engine.images.push(name, tag)
        engine.images.remove(f"{name}:{tag}")
    yield name
    for image in engine.images.list(name):
        engine.images.remove(str(image.id), force=True)


def test_pulls_by_tag_by_digest_and_latest_only(pushed: str, registry: RegistryContainer) -> None:
    adapter = DockerEngine()
    adapter.pull_image(pushed)
    assert adapter.find_image(f"{pushed}:latest") is not None
    assert adapter.find_image(f"{pushed}:one") is None
    adapter.pull_image(f"{pushed}:one")
    found = adapter.find_image(f"{pushed}:one")
    assert found is not None
    digest = f"{pushed}@{registry.digest(pushed.removeprefix(registry.host + '/') + ':one')}"
    adapter.pull_image(digest)
    assert adapter.find_image(digest) == found


def test_what_a_launched_program_says_is_kept_whole_whatever_the_engines_defaults(
    engine: docker.DockerClient, tiny_image: str, standin_image: str
) -> None:
    adapter = DockerEngine()
    made = []
    for image, launcher in ((standin_image, ()), (tiny_image, ("/bin/sh",))):
        name = f"test-{uuid.uuid4().hex[:8]}"
        labels = {TEST_LABEL: "docker-engine"}
        made.append(adapter.create_container(name=name, image=image, labels=labels, environment={}, publish=1, launcher=launcher))
    try:
        plain, launched = (engine.containers.get(str(container)).attrs["HostConfig"]["LogConfig"] for container in made)
        assert launched["Type"] == "json-file"
        assert launched["Config"]["max-size"] == "1000000g"
        assert "max-size" not in plain["Config"]  # a server that runs for months may be limited
        adapter.start_container(str(made[1]))
    finally:
        for container in made:
            adapter.remove_container(str(container))


class SlowEngine(BaseHTTPRequestHandler):
    """An engine that takes longer over large things than over others, or that goes while it does."""

    dies = False

    def do_GET(self) -> None:
        self._answer(200, {"ApiVersion": "1.41"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.dies:
            self.close_connection = True
            return
        time.sleep(1.5)  # longer than the test lets an ordinary answer take
        self._answer(500, {"message": "it was slow, but it answered"})

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, document: dict[str, str]) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # whoever asked did not wait
            self.wfile.write(content)


@pytest.mark.parametrize(("dies", "said"), [(False, "it was slow, but it answered"), (True, "does not answer|closed connection")])
def test_a_large_thing_may_take_its_time_but_an_engine_that_goes_is_an_error(
    dies: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.adapters.docker_engine.REQUEST_TIMEOUT", 1)
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Slow", (SlowEngine,), {"dies": dies})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        adapter = DockerEngine(Endpoint(f"tcp://127.0.0.1:{server.server_address[1]}"))
        with pytest.raises(EngineError, match=said):
            adapter.commit_container("database", "original", "x:y", {})
        with pytest.raises((EngineError, ImageUnavailableError), match=said):
            adapter.pull_image("x:y")
        with pytest.raises(EngineError, match="does not answer"):
            adapter.start_container("small")
        server.shutdown()


@pytest.mark.parametrize("tag", [":two", "-other:one", f"@sha256:{'0' * 64}"])
def test_what_the_registry_does_not_have_is_unavailable(pushed: str, tag: str) -> None:
    with pytest.raises(ImageUnavailableError, match="cannot be pulled"):
        DockerEngine().pull_image(pushed + tag)


def test_an_engine_behind_ssh_is_reached_by_the_user_s_own_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    adapter = DockerEngine(Endpoint("ssh://me@build.example:2222"))
    assert adapter.find_image("no/such:image") is None
    assert (tmp_path / "ssh.log").read_text().splitlines()[0].endswith("-T -l me -p 2222 -- build.example docker system dial-stdio")
    assert (adapter.host, adapter.is_local) == ("build.example", False)
    with closing(DockerImages(Endpoint("ssh://me@build.example:2222"))) as images:
        assert images.find_image("no/such:image") is None
        assert images.info().version


def test_without_ssh_an_engine_behind_it_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingRequirementError, match="ssh is not installed"):
        DockerEngine(Endpoint("ssh://me@build.example")).find_image("no/such:image")


def test_an_address_that_ssh_would_take_for_an_option_is_none() -> None:
    with pytest.raises(EngineError):
        DockerEngine(Endpoint("ssh://build.example/var/run/docker.sock")).find_image("no/such:image")


@pytest.mark.parametrize(
    ("address", "host", "is_local"),
    [
        ("unix:///var/run/docker.sock", "127.0.0.1", True),
        ("tcp://127.0.0.1:2375", "127.0.0.1", True),
        ("tcp://localhost:2375", "localhost", True),
        ("tcp://10.9.8.7:2376", "10.9.8.7", False),
        ("tcp://docker:2375", "docker", False),
    ],
)
def test_where_its_published_ports_are(address: str, host: str, is_local: bool) -> None:
    adapter = DockerEngine(Endpoint(address))
    assert (adapter.host, adapter.is_local) == (host, is_local)
