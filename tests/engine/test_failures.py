"""What happens when the engine, the registry, the disk or the person at the keyboard goes away in the middle of it."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.engine.conftest import Project, RegistryContainer, remove_images, run_registry, wait_for
from tests.engine.second_engine import SecondEngine, second_engine

PAUSE = "RUN --mount=type=secret,id=pause echo begun; sleep $(cat /run/secrets/pause)\n"  # a secret is in no fingerprint
SECRETS = "secrets:\n  pause: {env: PAUSE, required: false}\n"


@pytest.fixture
def small(project: Project, tiny_image: str) -> Project:
    """Two small linked images: first → second. Building `first` takes PAUSE seconds."""
    project.write("pipeline.yaml", (project.root / "pipeline.yaml").read_text() + SECRETS)
    project.image("first", f"from: {tiny_image}\nsecrets: [pause]\n", "COPY first.txt /first.txt\n" + PAUSE)
    project.write("dockerfiles/first/first.txt", f"{project.namespace}\n")  # BuildKit's cache knows no other test's
    project.image("second", "parent: first\n", "COPY second.txt /second.txt\n")
    project.write("dockerfiles/second/second.txt", "second\n")
    project.environment["PAUSE"] = "0"
    project.commit("begin")
    return project


@pytest.fixture
def damaged(small: Project, tiny_image: str) -> Iterator[tuple[Project, SecondEngine]]:
    """The project on a second engine, which a test may kill."""
    with second_engine(tiny_image) as found:
        small.environment["DOCKER_HOST"] = found.host
        yield small, found


@contextlib.contextmanager
def begun(project: Project, *arguments: str, image: str = "first", **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`invoke ARGUMENTS` while an image is just being built; whatever still runs of it is ended."""
    log = project.root / f".pipeline/logs/{image}.log"
    log.unlink(missing_ok=True)
    process = subprocess.Popen(
        project.command(*arguments),
        cwd=project.root,
        env={**os.environ, **project.environment, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as a terminal would: Ctrl-C reaches the whole group
    )
    try:
        wait_for(lambda: process.poll() is not None or (log.exists() and " begun\n" in log.read_text()), f"{image} is being built")
        assert process.poll() is None, process.communicate()[1]
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def processes_with(word: str) -> list[str]:
    """The command lines of all processes that hold `word`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if word in line:
                found.append(line)
    return found


def files_of(project: Project) -> str:
    """What the files of the image `second` hold."""
    return "".join((project.root / f"dockerfiles/{name}/{name}.txt").read_text() for name in ("first", "second"))


def content_of(output: str) -> dict[str, str]:
    """Image → content reference of what `build --json` printed."""
    return {image["name"]: image["references"][0] for image in json.loads(output)["images"]}


# The engine


def test_an_engine_that_dies_in_the_middle_of_a_build(damaged: tuple[Project, SecondEngine]) -> None:
    project, engine = damaged
    with begun(project, "build", PAUSE="60") as process:
        engine.kill()
        _, said = process.communicate(timeout=30)
    assert process.returncode == 20
    assert "the Docker Engine went away while first was being built" in said
    assert not processes_with(project.namespace)
    assert project.run("build").returncode == 20
    engine.start()
    content = content_of(project.invoke("build", "--json"))
    assert engine.docker("run", "--rm", content["second"], "/bin/cat", "/first.txt", "/second.txt").stdout == files_of(project)
    assert project.actions() == {"first": "none", "second": "none"}


def test_what_was_finished_before_the_engine_died_is_not_built_again(damaged: tuple[Project, SecondEngine]) -> None:
    project, engine = damaged
    project.image("second", "parent: first\nsecrets: [pause]\n", PAUSE)
    project.commit()
    project.invoke("build", "--only", "first")
    with begun(project, "build", image="second", PAUSE="60") as process:
        engine.kill()
        process.communicate(timeout=30)
    engine.start()
    assert project.actions("build") == {"first": "none", "second": "build"}


@pytest.mark.parametrize("command", ["plan", "build", "push", "clean", "registry.start", "registry.stop"])
def test_no_engine_at_all(small: Project, tmp_path: Path, command: str) -> None:
    failed = small.run(command, DOCKER_HOST=f"unix://{tmp_path}/nowhere.sock")
    assert failed.returncode == 20, failed.stderr
    assert "does not answer" in failed.stderr
    assert "nowhere.sock" in failed.stderr


# The disk


@pytest.mark.parametrize(
    "dockerfile", ["RUN dd if=/dev/zero of=/large bs=1024k count=200\n", "COPY large /large\n"], ids=["a command", "the context"]
)
def test_a_full_disk_of_the_engine(small: Project, tiny_image: str, dockerfile: str) -> None:
    small.image("second", "parent: first\n", dockerfile)
    (small.root / "dockerfiles/second/large").write_bytes(os.urandom(100 << 20) if "COPY" in dockerfile else b"")
    small.commit()
    with second_engine(tiny_image, size="64m") as engine:
        small.environment["DOCKER_HOST"] = engine.host
        failed = small.run("build")
        assert failed.returncode == 21, failed.stderr
        assert "no space left on device" in failed.stderr.lower()
        assert "Free disk space: docker system df" in failed.stderr
        tags = engine.docker("images", "--format", "{{.Repository}}").stdout.split()
        assert f"{small.registry}/{small.namespace}/first" in tags
        assert f"{small.registry}/{small.namespace}/second" not in tags


# The person, or the CI server


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "TERM"])
def test_an_interrupted_build_ends_at_once_and_leaves_nothing_running(
    small: Project, engine: docker.DockerClient, number: signal.Signals, code: int
) -> None:
    pause = f"61.{os.getpid()}{number:02}"  # a number to know the sleeping process by
    with begun(small, "build", PAUSE=pause) as process:
        assert processes_with(small.namespace)
        assert processes_with(f"sleep {pause}")
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=10)
    assert process.returncode == code
    assert "Traceback" not in said
    assert not processes_with(small.namespace)
    wait_for(lambda: not processes_with(f"sleep {pause}"), "the engine ends the command of the build")
    content = content_of(small.invoke("build", "--json"))
    assert engine.containers.run(content["second"], ["/bin/cat", "/first.txt", "/second.txt"], remove=True).decode() == files_of(small)


def test_a_killed_build_does_not_spoil_the_next_one(small: Project, engine: docker.DockerClient) -> None:
    with begun(small, "build", PAUSE="3") as process:
        process.kill()
        process.communicate(timeout=10)
    assert process.returncode == -signal.SIGKILL
    content = content_of(small.invoke("build", "--json"))
    assert engine.containers.run(content["second"], ["/bin/cat", "/first.txt", "/second.txt"], remove=True).decode() == files_of(small)
    wait_for(lambda: not processes_with(small.namespace), "the killed build's client ends", deadline=15)
    assert small.actions() == {"first": "none", "second": "none"}


def test_a_file_that_changes_while_it_is_being_built(small: Project) -> None:
    with begun(small, "build", PAUSE="1") as process:
        small.write("dockerfiles/second/second.txt", "another\n")
        _, said = process.communicate(timeout=30)
    assert process.returncode == 21
    assert "second/second.txt changed while it was being built" in said
    assert small.actions() == {"first": "none", "second": "build"}
    small.commit()
    assert small.actions("build") == {"first": "tag", "second": "build"}


# The registry


@contextlib.contextmanager
def published_at(project: Project, engine: docker.DockerClient, host: str) -> Iterator[None]:
    """The project with another registry."""
    project.environment["PIPELINE_REGISTRY"] = host
    try:
        yield
    finally:
        remove_images(engine, f"{host}/{project.namespace}/*")


def test_a_registry_that_wants_a_login(small: Project, engine: docker.DockerClient, machine: docker.DockerClient, tmp_path: Path) -> None:
    secret = "kept-out-of-everything-4711"
    (tmp_path / "password").write_text(f"{secret}\n")
    (tmp_path / "password").chmod(0o644)  # in a folder that nobody else may enter; the registry's user reads it
    server = run_registry(
        machine,
        environment={"HTPASSWD_USER": "builder", "HTPASSWD_PASSWORD_FILE": "/run/pipeline/password"},
        volumes={str(tmp_path / "password"): {"bind": "/run/pipeline/password", "mode": "ro"}},
    )
    small.environment["DOCKER_CONFIG"] = str(tmp_path / "docker")

    def login(password: str) -> int:
        command = ["docker", "login", "--username", "builder", "--password-stdin", server.host]
        environment = {**os.environ, **small.environment}
        return subprocess.run(command, input=password.encode(), env=environment, capture_output=True, check=False).returncode

    try:
        with published_at(small, engine, server.host):
            for command in ("build", "push", "plan"):
                refused = small.run(command)
                assert refused.returncode == 31, refused.stderr
                assert f"docker login {server.host}" in refused.stderr
            assert login("wrong") != 0
            assert login(secret) == 0
            with watched_command_lines(secret) as seen:
                result = small.run("build", "push")
            assert result.returncode == 0, result.stderr
            assert not seen
            assert small.actions("push") == {"first": "none", "second": "none"}
            content = content_of(small.invoke("build", "--json")).values()
            written = [path.read_text(errors="replace") for path in (small.root / ".pipeline").rglob("*") if path.is_file()]
            inspected = [json.dumps([image.attrs, image.history()]) for image in map(engine.images.get, content)]
            everything = [result.stdout, result.stderr, *written, *inspected, json.dumps(server.container.attrs)]
            assert not [text for text in everything if secret in text]

            config = json.loads((tmp_path / "docker/config.json").read_text())
            config["auths"][server.host]["auth"] = "YnVpbGRlcjp3cm9uZw=="  # builder:wrong
            (tmp_path / "docker/config.json").write_text(json.dumps(config))
            assert small.run("push").returncode == 31
    finally:
        server.container.remove(force=True, v=True)


@contextlib.contextmanager
def watched_command_lines(word: str) -> Iterator[list[str]]:
    """Whatever command line holds `word` at any time meanwhile."""
    found: list[str] = []
    end = threading.Event()

    def watch() -> None:
        while not end.wait(0.02):
            found.extend(processes_with(word))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        end.set()
        thread.join()


def test_a_registry_that_is_read_only(small: Project, engine: docker.DockerClient, machine: docker.DockerClient) -> None:
    server = run_registry(machine, environment={"REGISTRY_STORAGE_MAINTENANCE_READONLY": '{"enabled": true}'})
    try:
        with published_at(small, engine, server.host):
            small.invoke("build")
            refused = small.run("push")
            assert refused.returncode == 31, refused.stderr
            assert f"the registry {server.host} refused to write to {small.namespace}/first" in refused.stderr
            assert "read-only" in refused.stderr
            assert not (small.root / ".pipeline/release.json").exists()
    finally:
        server.container.remove(force=True, v=True)


def test_a_registry_that_dies_in_the_middle_of_a_push(small: Project, engine: docker.DockerClient, machine: docker.DockerClient) -> None:
    server = run_registry(machine)

    def die() -> None:
        server.container.kill()
        proxy.stop()

    try:
        with registry_proxy(server) as proxy, published_at(small, engine, proxy.host):
            small.invoke("build")
            small.invoke("push", "--only", "first")  # else the engine tries its layers again for most of a minute
            proxy.faults = [Fault("PUT", "/second/manifests/", die)]
            failed = small.run("push")
            assert failed.returncode == 30, failed.stderr
            assert proxy.faults == []
            assert proxy.host in failed.stderr
            assert not (small.root / ".pipeline/release.json").exists()
            server.container.start()
            with registry_proxy(server, proxy.server_address[1]) as again:
                wait_for(again.reaches_registry, "the registry is there again")
                images = small.json("push")["images"]
                assert {image["name"]: image["action"] for image in images}["second"] == "push"
                assert small.actions("push") == {"first": "none", "second": "none"}
    finally:
        server.container.remove(force=True, v=True)


@pytest.mark.parametrize("path", ["/second/manifests/content-", "/second/manifests/main-"], ids=["by the engine", "by the pipeline"])
def test_an_interrupted_push_ends_soon_and_the_next_one_is_right(
    small: Project, engine: docker.DockerClient, registry: RegistryContainer, path: str
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        go_on.wait(60)

    with registry_proxy(registry) as proxy, published_at(small, engine, proxy.host):
        small.invoke("build")
        proxy.faults = [Fault("PUT", path, hold)]
        environment = {**os.environ, **small.environment}
        process = subprocess.Popen(small.command("push"), cwd=small.root, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            assert asked.wait(30)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=10)
        finally:
            process.kill()
            go_on.set()
        assert process.returncode == 130, said
        assert "Traceback" not in said
        assert not (small.root / ".pipeline/release.json").exists()
        small.invoke("push")
        assert small.actions("push") == {"first": "none", "second": "none"}


@pytest.mark.parametrize("kind", ["answers 503", "breaks the connection"])
def test_a_registry_that_falters_a_few_times(small: Project, engine: docker.DockerClient, registry: RegistryContainer, kind: str) -> None:
    """At every kind of request a push makes, whoever makes it: the pipeline itself or the engine."""
    fail = answer_503 if kind == "answers 503" else None
    with registry_proxy(registry) as proxy, published_at(small, engine, proxy.host):
        small.invoke("build")
        proxy.faults = [
            Fault(method, path, fail)
            for method, path in (
                ("HEAD", "/first/manifests/"),
                ("HEAD", "/second/manifests/content-"),
                ("PUT", "/first/manifests/content-"),
                ("PUT", "/second/manifests/main-"),
                ("PUT", "/second/manifests/main-"),
                ("GET", "/first/manifests/sha256:"),
                ("HEAD", "/second/blobs/"),
            )
        ]
        images = small.json("push")["images"]
        assert {image["action"] for image in images} == {"push"}
        assert proxy.faults == []
        for image in images:
            for reference in image["references"]:
                assert registry.digest(reference.partition("/")[2]) == image["digest"]


class Fault:
    """What the proxy does with the next request of `method` whose path holds `path`, once: `action`, else it hangs up."""

    def __init__(self, method: str, path: str, action: Callable[..., None] | None) -> None:
        self.method, self.path, self.action = method, path, action

    def __repr__(self) -> str:
        return f"{self.method} {self.path}"


class RegistryProxy(http.server.ThreadingHTTPServer):
    """An HTTP proxy before a registry, with faults."""

    daemon_threads = True

    def __init__(self, server: RegistryContainer, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self._server = server
        self.host = f"127.0.0.1:{self.server_address[1]}"
        self.faults: list[Fault] = []
        self.lock = threading.Lock()

    def target(self) -> str:
        """Where the registry is now: a started container gets another port."""
        self._server.container.reload()
        ports = self._server.container.ports.get("5000/tcp") or [{"HostPort": "1"}]
        return f"127.0.0.1:{ports[0]['HostPort']}"

    def stop(self) -> None:
        """Nobody listens there any more."""
        self.shutdown()
        self.server_close()

    def reaches_registry(self) -> bool:
        connection = http.client.HTTPConnection(self.target())
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            found = next((fault for fault in self.faults if fault.method == method and fault.path in path), None)
            if found:
                self.faults.remove(found)
            return found

    def handle_error(self, *_: Any) -> None:
        pass  # a client that hung up


class _Handler(http.server.BaseHTTPRequestHandler):
    server: RegistryProxy
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.1"  # so that a TLS handshake is answered with "HTTP/": engines try TLS first, and know it by that

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _forward(self) -> None:
        body = self._body()
        if fault := self.server.take_fault(self.command, self.path):
            if fault.action is answer_503:
                return answer_503(self)
            if fault.action:
                fault.action()
            return self._hang_up()
        connection = http.client.HTTPConnection(self.server.target())
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in ("transfer-encoding", "content-length")}
            if body or self.command in ("POST", "PUT", "PATCH"):
                headers["Content-Length"] = str(len(body))
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            return self._hang_up()  # the registry is not there
        finally:
            connection.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length") or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _forward

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _hang_up(self) -> None:
        """Reset the connection rather than close it."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def answer_503(handler: _Handler) -> None:
    handler.send_response(503)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@contextlib.contextmanager
def registry_proxy(server: RegistryContainer, port: int = 0) -> Iterator[RegistryProxy]:
    with RegistryProxy(server, port) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
