"""The shared images, as the people who build upon them and run them see them."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import socket
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from tests.engine import conftest
from tests.engine.conftest import ROOT, RUN, TEST_LABEL, Project, wait_for

PASSWORD = "a-password with $igns & 'quotes'"
Start = Callable[..., Any]
own_image = functools.cache(conftest.own_image)  # planned once: nobody changes an image while it is tested


@pytest.fixture
def start(engine: docker.DockerClient) -> Iterator[Start]:
    """Start a container that is removed afterwards; `files`: path → content put into it before it starts."""
    made = []

    def run(image: str, files: dict[str, str] | None = None, ports: tuple[int, ...] = (), **options: Any) -> Any:
        bindings: Any = {f"{port}/tcp": ("127.0.0.1", None) for port in ports}
        container = engine.containers.create(image, labels={TEST_LABEL: RUN}, ports=bindings, **options)
        made.append(container)
        if files:
            container.put_archive("/", archive(files))
        container.start()
        return container

    yield run
    for container in made:
        with contextlib.suppress(docker.errors.NotFound):  # a test has done it already
            container.remove(force=True, v=True)


def archive(files: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(content.encode()), 0o444
            tar.addfile(entry, io.BytesIO(content.encode()))
    return stream.getvalue()


def output(engine: docker.DockerClient, image: str, *command: str, **options: Any) -> str:
    container = engine.containers.create(own_image(image), list(command), labels={TEST_LABEL: RUN}, **options)
    try:
        container.start()
        assert container.wait()["StatusCode"] == 0, container.logs().decode()
        return container.logs(stderr=False).decode().strip()
    finally:
        container.remove(force=True, v=True)  # docker-py's own `remove` would leave the volumes the image declares


def port_of(container: Any, port: int) -> int:
    def published() -> int:
        container.reload()
        return int((container.ports.get(f"{port}/tcp") or [{"HostPort": 0}])[0]["HostPort"])

    return int(wait_for(published, f"the port {port} is published"))


def get(container: Any, path: str, port: int = 8080) -> tuple[int, str]:
    """Status and body of an HTTP answer; (0, why) where there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port_of(container, port)}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def healthy(container: Any) -> bool:
    container.reload()
    assert container.status == "running", container.logs().decode()
    return bool(container.attrs["State"]["Health"]["Status"] == "healthy")


def listening_ports(container: Any) -> set[int]:
    """The TCP ports that a container's processes listen on at any address but loopback, from the kernel's own table."""
    text = container.exec_run(["cat", "/proc/net/tcp", "/proc/net/tcp6"]).output.decode()
    rows = [line.split() for line in text.splitlines()]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if len(row) > 3 and row[3] == "0A" and not row[1].startswith("0100007F")}


# All of them


@pytest.mark.parametrize(("image", "user"), [("ubuntu", 0), ("jdk", 0), ("tomcat", 10001), ("activemq", 10002), ("registry", 10003)])
def test_who_it_runs_as_and_what_is_not_in_it(engine: docker.DockerClient, image: str, user: int) -> None:
    assert output(engine, image, "sh", "-c", "id -u; ls -A /var/lib/apt/lists | wc -l").split() == [str(user), "0"]


@pytest.mark.parametrize(
    ("image", "file"), [("tomcat", "/opt/tomcat/VERSION"), ("activemq", "/opt/activemq/VERSION"), ("registry", "/etc/registry/VERSION")]
)
def test_it_knows_its_release(engine: docker.DockerClient, image: str, file: str) -> None:
    assert re.fullmatch(r"\d+(\.\d+)+", output(engine, image, "cat", file))


@pytest.mark.parametrize(("image", "code"), [("tomcat", 143), ("activemq", 143), ("registry", 0)])
def test_term_ends_it_in_good_order(start: Start, image: str, code: int) -> None:
    account = {"ACTIVEMQ_USER": "app", "ACTIVEMQ_PASSWORD": "x"} if image == "activemq" else {}
    container = start(own_image(image), environment=account)
    wait_for(lambda: healthy(container), f"{image} is healthy", deadline=60)
    begin = time.monotonic()
    container.kill(signal="TERM")
    assert container.wait(timeout=10)["StatusCode"] == code
    assert time.monotonic() - begin < 5


# ubuntu, jdk


def test_ubuntu_has_a_utf8_locale_and_the_time_zones(engine: docker.DockerClient) -> None:
    assert output(engine, "ubuntu", "locale", "charmap") == "UTF-8"
    assert output(engine, "ubuntu", "date", "+%Z") == "UTC"
    assert output(engine, "ubuntu", "date", "-d", "@0", "+%H %Z", environment={"TZ": "Asia/Tokyo"}) == "09 JST"


def test_what_jdk_compiles_runs_on_tomcats_java(engine: docker.DockerClient, start: Start) -> None:
    source = 'public class Main { public static void main(String[] a) { System.out.println("grüß " + a[0]); } }'
    compiler = start(own_image("jdk"), {"/tmp/Main.java": source}, command=["javac", "-d", "/tmp", "/tmp/Main.java"])
    assert compiler.wait()["StatusCode"] == 0, compiler.logs().decode()
    stream, _ = compiler.get_archive("/tmp/Main.class")
    runner = engine.containers.create(own_image("tomcat"), ["/opt/java/bin/java", "-cp", "/tmp", "Main", "Welt"], labels={TEST_LABEL: RUN})
    try:
        runner.put_archive("/tmp", b"".join(stream))
        runner.start()
        assert runner.wait()["StatusCode"] == 0
        assert runner.logs().decode() == "grüß Welt\n"
    finally:
        runner.remove(force=True)


# tomcat


def test_tomcat_is_healthy_without_an_application(start: Start) -> None:
    container = start(own_image("tomcat"), ports=(8080,))
    wait_for(lambda: get(container, "/health")[0] == 200, "/health answers 200")
    status, page = get(container, "/nothing-here")
    assert status == 404
    version = container.exec_run(["cat", "/opt/tomcat/VERSION"]).output.decode().strip()
    assert version.startswith("10.1.")
    assert version not in page
    assert "Tomcat" not in page
    assert listening_ports(container) == {8080}
    assert container.exec_run(["sh", "-c", "touch /opt/tomcat/webapps/x /opt/tomcat/conf/x /opt/tomcat/x"]).exit_code != 0


def test_an_application_on_tomcat(project: Project, engine: docker.DockerClient, start: Start) -> None:
    name = f"{project.namespace}-tomcat:local"
    engine.images.get(own_image("tomcat")).tag(name)
    try:
        project.image("shop", f"from: {name}\n", "COPY ROOT /opt/tomcat/webapps/ROOT\nCOPY broken /opt/tomcat/webapps/broken\n")
        project.write("dockerfiles/shop/ROOT/index.jsp", "<%= 6 * 7 %> on <%= application.getMajorVersion() %>")
        project.write("dockerfiles/shop/broken/index.html", "not served")
        project.commit()
        image = project.json("build")["images"][0]["references"][0]
        for options in ({}, {"read_only": True, "tmpfs": {"/tmp": ""}}):
            container = start(image, ports=(8080,), **options)
            wait_for(lambda: get(container, "/health")[0] == 200, "/health answers 200")  # noqa: B023 - called at once
            assert get(container, "/") == (200, "42 on 6")
            assert container.exec_run(["id", "-u"]).output.strip() == b"10001"
            container.kill()
        # An application that cannot start is no reason to be silent: the server answers, and says that it is not well.
        project.write(
            "dockerfiles/shop/broken/WEB-INF/web.xml", "<web-app><listener><listener-class>no.Such</listener-class></listener></web-app>"
        )
        project.commit()
        ill = start(project.json("build")["images"][0]["references"][0], ports=(8080,))
        wait_for(lambda: get(ill, "/health")[0] == 503, "/health answers 503")
    finally:
        engine.images.remove(name, force=True)


# activemq


@pytest.mark.parametrize(
    "environment",
    [{}, {"ACTIVEMQ_USER": "app"}, {"ACTIVEMQ_PASSWORD": "x"}, {"ACTIVEMQ_USER": "app", "ACTIVEMQ_PASSWORD_FILE": "/nowhere"}],
    ids=["nothing", "no password", "no user", "no file"],
)
def test_activemq_has_no_default_account(start: Start, environment: dict[str, str]) -> None:
    container = start(own_image("activemq"), environment=environment)
    assert container.wait(timeout=20)["StatusCode"] == 64
    assert "activemq: " in container.logs().decode()


def test_activemq_lets_its_user_in_and_nobody_else(start: Start, engine: docker.DockerClient) -> None:
    container = start(
        own_image("activemq"),
        {"/run/broker-password": PASSWORD + "\n"},
        ports=(61613, 61616, 8161),
        environment={"ACTIVEMQ_USER": "app", "ACTIVEMQ_PASSWORD_FILE": "/run/broker-password"},
    )
    wait_for(lambda: healthy(container), "the broker is healthy", deadline=60)
    port = port_of(container, 61613)
    assert stomp_login(port, "app", PASSWORD) == "CONNECTED"
    assert stomp_login(port, "app", "wrong") in REFUSED
    assert stomp_login(port, "admin", "admin") in REFUSED
    assert stomp_login(port, "", PASSWORD) in REFUSED
    assert stomp_login(port) in REFUSED
    assert stomp_login(port, "app", PASSWORD) == "CONNECTED"
    assert listening_ports(container) == {61613, 61616}  # so there is no console
    processes = json.dumps(container.top(ps_args="aux"))
    assert "activemq.jar" in processes
    assert PASSWORD not in processes
    assert PASSWORD not in json.dumps(engine.api.inspect_container(container.id))
    assert PASSWORD not in container.logs().decode()


# The broker sends an ERROR and hangs up; on a busy machine it has at times hung up before the ERROR was on its way.
REFUSED = ("ERROR", "")


def stomp_login(port: int, *account: str) -> str:
    """The command of the broker's first frame (STOMP 1.2) after CONNECT; empty where it hangs up without one.

    Header values are escaped as the protocol wants.
    """
    escaped = [value.replace("\\", "\\\\").replace(":", "\\c") for value in account]
    login = "".join(f"{header}:{value}\n" for header, value in zip(("login", "passcode"), escaped, strict=False))
    frame = f"CONNECT\naccept-version:1.2\nhost:localhost\n{login}\n\0"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(frame.encode())
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while b"\n" not in answer and (data := connection.recv(4096)):
                answer += data
    return answer.decode().partition("\n")[0]


# registry


@pytest.mark.parametrize("environment", [{"HTPASSWD_USER": "app"}, {"HTPASSWD_PASSWORD_FILE": "/x"}])
def test_registry_wants_user_and_password_or_neither(start: Start, environment: dict[str, str]) -> None:
    container = start(own_image("registry"), environment=environment)
    assert container.wait(timeout=10)["StatusCode"] == 64


def test_registry_open_and_with_an_account(start: Start, engine: docker.DockerClient) -> None:
    unlocked = start(own_image("registry"), ports=(5000,))
    wait_for(lambda: get(unlocked, "/v2/", 5000)[0] == 200, "the registry answers")
    locked = start(
        own_image("registry"),
        {"/run/registry-password": PASSWORD + "\n"},
        ports=(5000,),
        environment={"HTPASSWD_USER": "builder", "HTPASSWD_PASSWORD_FILE": "/run/registry-password"},
    )
    wait_for(lambda: get(locked, "/v2/", 5000)[0] == 401, "the registry wants a login")
    url = f"http://127.0.0.1:{port_of(locked, 5000)}/v2/"
    for password, expected in ((PASSWORD, 200), ("wrong", 401), ("", 401)):
        manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
        manager.add_password(None, url, "builder", password, is_authenticated=True)
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
        try:
            with opener.open(url, timeout=5) as answer:
                status = answer.status
        except urllib.error.HTTPError as error:
            error.close()
            status = error.code
        assert status == expected
    wait_for(lambda: healthy(locked), "one that wants a login is healthy, too")
    everything = json.dumps([locked.top(), engine.api.inspect_container(locked.id)]) + locked.logs().decode()
    assert PASSWORD not in everything


# accounting


def test_accounting_says_which_revision_it_is_and_runs_without_a_database(start: Start) -> None:
    revision = {"APP_BRANCH": "feature/x", "APP_COMMIT": "1a2b3c"}
    container = start(own_image("accounting"), ports=(8080,), environment=revision, read_only=True, tmpfs={"/tmp": ""})
    wait_for(lambda: get(container, "/health")[0] == 200, "Tomcat is healthy")
    status, health = get(container, "/accounting/health")
    assert (status, json.loads(health)["status"]) == (200, "up")
    status, version = get(container, "/accounting/version")
    assert status == 200
    assert json.loads(version) == {"application": "accounting", "branch": "feature/x", "commit": "1a2b3c"}


def test_another_build_tools_war_takes_the_place_of_the_compiled_one(start: Start, engine: docker.DockerClient, tmp_path: Path) -> None:
    (tmp_path / "WEB-INF/classes").mkdir(parents=True)
    (tmp_path / "index.jsp").write_text("made elsewhere")
    tag = f"pipeline-test/war:{RUN}"
    command = ["docker", "buildx", "build", "--quiet", "--tag", tag, "--build-arg", f"BASE_IMAGE={own_image('tomcat')}"]
    command += ["--build-context", f"jdk=docker-image://{own_image('jdk')}", "--build-context", f"war={tmp_path}"]
    result = subprocess.run([*command, str(ROOT / "examples/accounting")], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    try:
        container = start(tag, ports=(8080,))
        wait_for(lambda: get(container, "/accounting/") == (200, "made elsewhere"), "the other WAR is served")
        container.remove(force=True, v=True)
    finally:
        engine.images.remove(tag, force=True)


# oracle-xe


def test_the_teams_oracle_scripts_stop_at_the_first_error() -> None:
    """The vendor's image runs them without that: a failed script would pass for a good one."""
    scripts = sorted((ROOT / "dockerfiles/oracle-xe").rglob("*.sql"))
    assert scripts
    for script in scripts:
        lines = [line.strip() for line in script.read_text().splitlines()]
        first = next(line for line in lines if line and not line.startswith("--"))
        assert first.upper().startswith("WHENEVER SQLERROR EXIT"), script
