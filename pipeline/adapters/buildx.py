"""BuildKit, through `docker buildx build`: one image from a context on standard input."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from pipeline.adapters.docker_context import Endpoint, docker_config_folder, read_docker_config
from pipeline.errors import BuildError, EngineError, PipelineError

SHOWN_LINES = 40  # of a failed build's log
READ_DEADLINE = 5.0  # seconds for the last of the output after the end of buildx, should a process of its hold on to the pipe
# Where Docker looks for its plugins last; the first one that is there counts (docker/cli, cli-plugins/manager).
PLUGIN_FOLDERS = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)
# What `--progress plain` says when it begins something: `#5 [2/3] COPY …`, `#6 [build 1/4] FROM …`, `#9 exporting to image`;
# a stage without a name is called stage-0 now and then.
_BEGUN = re.compile(rb"#\d+ (?:\[(?!internal\])(?:stage-\d+ )?([^\]]+\] .+)|(exporting to image))\n?")


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
    cache_mark: str = ""  # where not empty: only RUN layers built with the same mark are taken from the cache


def read_version() -> str:
    """What buildx calls itself; empty where the docker command or its buildx is not installed."""
    try:
        result = subprocess.run(["docker", "buildx", "version"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


@functools.cache
def buildx_command() -> tuple[str, ...]:
    """How buildx is started: its plugin itself where it is found, for the docker command before it costs 30 ms a build."""
    for folder in (*read_docker_config().get("cliPluginsExtraDirs", ()), docker_config_folder() / "cli-plugins", *PLUGIN_FOLDERS):
        plugin = os.path.join(folder, "docker-buildx")
        if os.access(plugin, os.X_OK):
            return (plugin,)
    return ("docker", "buildx")


def read_instruction(line: bytes) -> str:
    """The instruction of the Dockerfile that begins with this line of buildx's output; empty where none does."""
    found = _BEGUN.fullmatch(line)
    return (b"[" + found[1] if found[1] else found[2]).decode(errors="replace") if found else ""


# The containerd image store, of two builds that give one image its name at the same time.
_SAME_AT_ONCE = re.compile(r"^ERROR: failed to solve: image .* already exists$", re.MULTILINE)


class _SameAtOnceError(BuildError):
    pass


class Buildx:
    """Builds on the engine at `endpoint`; `cancel` ends whatever is being built. Safe to use from several threads."""

    def __init__(self, endpoint: Endpoint, log_folder: Path) -> None:
        self._endpoint = endpoint
        self._log_folder = log_folder
        self._running: set[subprocess.Popen[bytes]] = set()
        self._cancelled = False
        self._lock = threading.Lock()

    def build(
        self, request: BuildRequest, write_context: Callable[[IO[bytes]], None], report: Callable[[str], None] = lambda _: None
    ) -> str:
        """Build one image; return its id. `report` is told each instruction of the Dockerfile as it begins.

        Raises BuildError with the failing Dockerfile line and the end of its output.
        """
        self._log_folder.mkdir(parents=True, exist_ok=True)
        log_path = self._log_folder / f"{request.name}.log"
        try:
            return self._build(request, log_path, write_context, report)
        except _SameAtOnceError:  # by now the other build is through, and all of it is in the cache
            return self._build(request, log_path, write_context, report)

    def _build(
        self, request: BuildRequest, log_path: Path, write_context: Callable[[IO[bytes]], None], report: Callable[[str], None]
    ) -> str:
        with tempfile.TemporaryDirectory() as folder, log_path.open("wb", buffering=0) as log:
            # Not --iidfile: with the containerd image store that is the config's digest, which the engine does not know.
            metadata = Path(folder) / "metadata.json"
            process = self._start([*self._command(request), "--metadata-file", str(metadata), "-"], folder)
            # Read from the beginning: a buildx that nobody listens to would stop listening, too.
            reader = threading.Thread(target=_copy_lines, args=(process.stdout, log, report), daemon=True)
            reader.start()
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
                reader.join(READ_DEADLINE)
                with self._lock:
                    self._running.discard(process)
            if failure:
                raise failure
            if code:
                raise self._failed(request.name, log_path)
            return str(json.loads(metadata.read_bytes())["containerimage.digest"])

    def cancel(self) -> None:
        """End all builds now and start no more; layers that are finished stay in BuildKit's cache."""
        with self._lock:
            self._cancelled = True
            running = list(self._running)
        for process in running:
            self._end(process)

    def _start(self, command: list[str], folder: str) -> subprocess.Popen[bytes]:
        # A folder of its own for buildx's notes: in the user's it leaves a file for every build, for ever (seen: 5,000), and
        # builds wait for each other's lock. The builder of an engine's context needs none of them.
        environment = {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1", "BUILDX_CONFIG": folder}
        with self._lock:
            if self._cancelled:
                raise BuildError("the build was cancelled")
            try:
                # A session of its own: Ctrl-C reaches this process only, which then ends the builds in order.
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise EngineError(
                    "the docker command is not installed", "Install docker-cli and docker-buildx. See: invoke doctor"
                ) from None
            self._running.add(process)
        return process

    def _command(self, request: BuildRequest) -> list[str]:
        command = [*buildx_command(), "build", "--builder", self._endpoint.context, "--progress", "plain", "--provenance=false", "--load"]
        command += ["--platform", request.platform]
        if not request.use_cache:
            command.append("--no-cache")
        if request.cache_mark:
            # BuildKit knows a RUN by the names in its /etc/hosts, too (not by their addresses), and keeps that file out of the image.
            command += ["--add-host", f"{request.cache_mark}.invalid:127.0.0.1"]
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
        if _SAME_AT_ONCE.search(text):
            return _SameAtOnceError(
                f"{name} is being built by another process, too: {text.rstrip().splitlines()[-1]}", "Run the build again."
            )
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
        lines = _failed_step(text).rstrip().splitlines()
        hint = "Free disk space: docker system df" if "no space left on device" in text.lower() else f"The whole log: {log_path}"
        return BuildError(f"{name} could not be built:\n" + "\n".join(f"  {line}" for line in lines[-SHOWN_LINES:]), hint)


def _failed_step(text: str) -> str:
    """Of buildx's output, what the failed step said and what buildx says of it; all of it where no step failed.

    The step's lines come from the output itself: buildx's summary of them has been seen without the last, which say why.
    """
    summary = re.search(r"^------\n( > .+\n)(?:.*\n)*?------\n((?:.*\n?)*)\Z", text, re.MULTILINE)
    failed = re.search(r"^#(\d+) ERROR: ", text, re.MULTILINE)
    if not summary or not failed:
        return text
    said = re.findall(rf"^#{failed[1]} (\d+\.\d+ .*\n)", text, re.MULTILINE)
    return "".join([summary[1], *said, summary[2]])


def _copy_lines(stream: IO[bytes], log: IO[bytes], report: Callable[[str], None]) -> None:
    """Copy what buildx says to its log, line by line; to its end, whatever happens to the log."""
    with stream:
        for line in stream:
            with contextlib.suppress(OSError, ValueError):  # a full disk, or a log closed by now: nothing to stop the build for
                log.write(line)
            if instruction := read_instruction(line):
                report(instruction)
