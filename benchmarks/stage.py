"""What the benchmarks need around them, made for one run and taken away with it: a folder, a registry, a base image.

What is on the engine carries one label. The base image does, and what is built on an image inherits its labels, whoever
builds it; so it is found again by that label, also what a run that was killed has left. (BuildKit's cache keeps the few
megabytes of the build contexts until its own collection.)
"""

from __future__ import annotations

import http.client
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from benchmarks.measure import BenchmarkError
from pipeline.sessions import OWNER, PROJECT, current_owner, owner_is_gone

ROOT = Path(__file__).resolve().parent.parent
INVOKE = str(Path(sys.executable).with_name("invoke"))
LABEL = "pipeline.benchmark"  # its value: the process that made it
DEADLINE = 30.0  # seconds for the registry to answer
# What a CI server or a person may have set, and what would change what is measured.
_LEFT_OUT = ("PIPELINE_", "GIT_", "bamboo_", "BRANCH_NAME", "CHANGE_", "BUILD_TAG", "BUILDX_", "PYTHON")


class Stage:
    """Made on entering, removed on leaving."""

    def __init__(self) -> None:
        self.namespace = f"benchmark-{uuid.uuid4().hex[:8]}"
        self.base = f"{self.namespace}/base:local"
        # What invokew does, too: compiled modules are kept. Attestations would only slow the peer down.
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(_LEFT_OUT)},
            "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
        }
        self._label = f"{LABEL}={current_owner()}"
        self._folder = tempfile.TemporaryDirectory(prefix="pipeline-benchmark-")
        self.folder = Path(self._folder.name)
        self.registry = ""

    def __enter__(self) -> Stage:
        try:
            _sweep()
            self._import_base()
            self.registry = self._start_registry()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def own_image(self, name: str) -> str:
        """The content tag of an image of this repository, built first where that is needed."""
        output = _run_own([INVOKE, "build", "--only", name, "--pull", "--json"], ROOT)
        images = {image["name"]: image["references"][0] for image in json.loads(output)["images"]}
        return str(images[name])

    def start_container(self, image: str, port: int, *options: str, environment: Mapping[str, str] | None = None) -> tuple[str, int]:
        """Run a container that goes with this stage, its `port` published on 127.0.0.1; container id and published port."""
        command = ["run", "--detach", "--label", self._label, "--publish", f"127.0.0.1::{port}", *options, image]
        container = docker(*command, environment=environment).strip()
        return container, int(docker("port", container, str(port)).splitlines()[0].rpartition(":")[2])

    def _import_base(self) -> None:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            content = f"{self.namespace}\n".encode()
            file = tarfile.TarInfo("base")
            file.size = len(content)
            tar.addfile(file, io.BytesIO(content))
        name, _, value = self._label.partition("=")
        docker("import", "--change", f'LABEL {name}="{value}"', "-", self.base, given=archive.getvalue())

    def _start_registry(self) -> str:
        _, port = self.start_container(self.own_image("registry"), 5000)
        end = time.monotonic() + DEADLINE
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            try:
                connection.request("GET", "/v2/")
                if connection.getresponse().status == 200:
                    return f"127.0.0.1:{port}"
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() > end:
                    raise BenchmarkError(f"the registry does not answer on port {port}: {error}") from error
            finally:
                connection.close()
            time.sleep(0.05)

    def _remove(self) -> None:
        _remove(self._label)
        containers = docker("ps", "--all", "--quiet", "--filter", f"label={PROJECT}={self.namespace}").split()
        if containers:
            docker("rm", "--force", "--volumes", *containers)
        for depth in ("*", "*/*"):  # what is built on another base does not inherit the label
            tags = docker("images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", f"reference=*/{self.namespace}/{depth}").split()
            for first in range(0, len(tags), 500):
                docker("rmi", "--force", *tags[first : first + 500])
        self._folder.cleanup()


def docker(*arguments: str, given: bytes | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Run the docker command; its standard output."""
    result = subprocess.run(
        ["docker", *arguments], input=given, capture_output=True, check=False, env={**os.environ, **(environment or {})}
    )
    if result.returncode:
        raise BenchmarkError(f"docker {arguments[0]} failed: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout.decode()


def _run_own(command: list[str], folder: Path) -> str:
    """Run a command of this project; its standard output."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BenchmarkError(f"{' '.join(command)} failed: {result.stderr.strip()}")
    return result.stdout


def _sweep() -> None:
    """Remove what runs have left whose process is gone."""
    containers = docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}").split()
    images = docker("images", "--quiet", "--filter", f"label={LABEL}").split()
    template = '{{json (index .Config.Labels "' + LABEL + '")}}'
    owners = set(docker("inspect", "--format", template, *containers, *images).split()) if containers or images else set()
    for owner in map(json.loads, owners):
        if owner_is_gone({OWNER: owner}):
            _remove(f"{LABEL}={owner}")


def _remove(label: str) -> None:
    containers = docker("ps", "--all", "--quiet", "--filter", f"label={label}").split()
    if containers:
        docker("rm", "--force", "--volumes", *containers)
    images = sorted(set(docker("images", "--quiet", "--no-trunc", "--filter", f"label={label}").split()))
    if images:
        docker("rmi", "--force", *images)
