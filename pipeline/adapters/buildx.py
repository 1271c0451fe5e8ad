"""BuildKit, through `docker buildx build`: one image from a context on standard input."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from pipeline.adapters.docker_context import Endpoint
from pipeline.errors import BuildError, EngineError, PipelineError

SHOWN_LINES = 40  # of a failed build's log


@dataclass(frozen=True)
class BuildRequest:
    """What one build is to make. `secrets`: id → how buildx finds it (`src=PATH` or `env=NAME`), never the secret itself."""

    name: str
    tags: tuple[str, ...]
    platform: str
    arguments: Mapping[str, str]
    named_contexts: Mapping[str, str]
    labels: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict)
    use_cache: bool = True


def read_version() -> str:
    """What buildx calls itself; empty where the docker command or its buildx is not installed."""
    try:
        result = subprocess.run(["docker", "buildx", "version"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


class Buildx:
    """Builds on the engine at `endpoint`; `cancel` ends whatever is being built. Safe to use from several threads."""

    def __init__(self, endpoint: Endpoint, log_folder: Path) -> None:
        self._endpoint = endpoint
        self._log_folder = log_folder
        self._running: set[subprocess.Popen[bytes]] = set()
        self._cancelled = False
        self._lock = threading.Lock()

    def build(self, request: BuildRequest, write_context: Callable[[IO[bytes]], None]) -> str:
        """Build one image; return its id. Raises BuildError with the failing Dockerfile line and the end of its output."""
        self._log_folder.mkdir(parents=True, exist_ok=True)
        log_path = self._log_folder / f"{request.name}.log"
        with tempfile.TemporaryDirectory() as folder, log_path.open("wb") as log:
            id_file = Path(folder) / "id"
            process = self._start([*self._command(request), "--iidfile", str(id_file), "-"], log)
            failure: PipelineError | None = None
            try:
                stream = cast("IO[bytes]", process.stdin)
                with contextlib.suppress(BrokenPipeError), stream:  # buildx says itself why it reads no more
                    write_context(stream)
            except PipelineError as error:
                failure = error
                self._end(process)
            finally:
                code = process.wait()
                with self._lock:
                    self._running.discard(process)
            if failure:
                raise failure
            if code:
                raise self._failed(request.name, log_path)
            return id_file.read_text().strip()

    def cancel(self) -> None:
        """End all builds now and start no more; layers that are finished stay in BuildKit's cache."""
        with self._lock:
            self._cancelled = True
            running = list(self._running)
        for process in running:
            self._end(process)

    def _start(self, command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
        with self._lock:
            if self._cancelled:
                raise BuildError("the build was cancelled")
            try:
                # A session of its own: Ctrl-C reaches this process only, which then ends the builds in order.
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True)
            except FileNotFoundError:
                raise EngineError(
                    "the docker command is not installed", "Install docker-cli and docker-buildx. See: invoke doctor"
                ) from None
            self._running.add(process)
        return process

    def _command(self, request: BuildRequest) -> list[str]:
        command = ["docker", "buildx", "build", "--builder", self._endpoint.context, "--progress", "plain", "--provenance=false", "--load"]
        command += ["--platform", request.platform]
        if not request.use_cache:
            command.append("--no-cache")
        for tag in request.tags:
            command += ["--tag", tag]
        for name, value in request.arguments.items():
            command += ["--build-arg", f"{name}={value}"]
        for name, reference in request.named_contexts.items():
            command += ["--build-context", f"{name}=docker-image://{reference}"]
        for name, value in request.labels.items():
            command += ["--label", f"{name}={value}"]
        for name, source in request.secrets.items():
            command += ["--secret", f"id={name},{source}"]
        return command

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
                return

    def _failed(self, name: str, log_path: Path) -> PipelineError:
        text = log_path.read_text(encoding="utf-8", errors="replace")
        if self._cancelled:
            return BuildError(f"{name}: the build was cancelled")
        if "is not a docker command" in text or "unknown command: docker buildx" in text:
            return EngineError("docker has no buildx", "Install docker-buildx. See: invoke doctor")
        for sign in (
            "Cannot connect to the Docker daemon",
            "error during connect",
            "connection reset by peer",
            "code = Unavailable",
            "closing transport",
        ):
            if any(sign in line for line in text.splitlines() if line.startswith("ERROR:")):  # buildx's own, not a RUN's output
                return EngineError(
                    f"the Docker Engine went away while {name} was being built",
                    f"Start it and run the build again; finished images stay. Log: {log_path}",
                )
        where = text.rfind("\n------\n > ")
        lines = (text[where + 1 :] if where >= 0 else text).rstrip().splitlines()
        hint = "Free disk space: docker system df" if "no space left on device" in text.lower() else f"The whole log: {log_path}"
        return BuildError(f"{name} could not be built:\n" + "\n".join(f"  {line}" for line in lines[-SHOWN_LINES:]), hint)
