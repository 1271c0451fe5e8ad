"""An engine on another machine, over the ssh and the Docker context of the user; and an agent in a container beside the engine's own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import Project, own_image, wait_for
from tests.engine.maven import MISSING

SSHD = "/usr/sbin/sshd"
TESTS = (
    "import os, psycopg\npsycopg.connect(os.environ['DB_DSN'], user=os.environ['DB_USER'], password=os.environ['DB_PASSWORD']).close()\n"
)
SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/user.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
"""
CLIENT = """
Host engine far
  Port {port}
  IdentityFile {folder}/user
  UserKnownHostsFile {folder}/known
  StrictHostKeyChecking accept-new
  IdentitiesOnly yes
  LogLevel ERROR
  ControlMaster auto
  ControlPath {control}/%C
  ControlPersist 60
Host engine
  HostName 127.0.0.1
Host far
  HostName engine.example
  ProxyCommand {ssh} -F {folder}/config -W 127.0.0.1:{port} engine
"""


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An sshd with keys of its own, and ssh's and Docker's configuration of somebody who has two contexts that lead to it.

    For ssh, `engine` is 127.0.0.1, and `far` is another machine, which happens to be this one.
    """
    ssh = shutil.which("ssh")
    assert ssh and Path(SSHD).exists(), f"there is no {SSHD}. {MISSING}"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    (tmp_path / "sshd_config").write_text(SERVER.format(port=port, folder=tmp_path))
    control = tempfile.mkdtemp(prefix="ssh-")  # the path of a socket must be short
    (tmp_path / "config").write_text(CLIENT.format(port=port, folder=tmp_path, ssh=ssh, control=control))
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "ssh").write_text(f'#!/bin/sh\nexec {ssh} -F {tmp_path}/config "$@"\n')
    (bin_folder / "ssh").chmod(0o755)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # without a service manager nobody has made it
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(tmp_path / "sshd_config")], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: _listens(port), "sshd listens")
        monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
        monkeypatch.delenv("DOCKER_HOST", raising=False)
        for name in ("engine", "far"):
            made = ["docker", "context", "create", name, "--docker", f"host=ssh://{name}"]
            subprocess.run(made, check=True, capture_output=True)
        yield
    finally:
        server.terminate()
        server.wait()
        for name in ("engine", "far"):
            subprocess.run([ssh, "-F", str(tmp_path / "config"), "-O", "exit", name], capture_output=True, check=False)
        shutil.rmtree(control, ignore_errors=True)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def tested_project(project: Project, tiny_image: str) -> Project:
    """One small image, and tests that log in to a database."""
    project.image("small", f"from: {tiny_image}\n", "COPY Dockerfile /from\n")
    project.write("tests.py", TESTS)
    configure(project)
    project.commit()
    return project


def configure(project: Project, more: str = "") -> None:
    project.write(
        "pipeline.yaml",
        f"registry: {project.registry}\nnamespace: {project.namespace}\n"
        f"itest:\n  image: {own_image('postgres')}\n  engine: postgres\n  run: [python, tests.py]\n{more}",
    )


def test_build_push_and_itest_on_an_engine_behind_ssh(tested_project: Project, remote: None) -> None:
    subprocess.run(["docker", "context", "use", "engine"], check=True, capture_output=True)
    tested_project.invoke("build", "push")
    assert tested_project.actions("push") == {"small": "none"}
    assert tested_project.run("itest").returncode == 0  # for ssh, `engine` is 127.0.0.1, and so it is for the tests
    assert "ssh://engine" in tested_project.run("doctor").stdout

    tested_project.environment["DOCKER_CONTEXT"] = "far"
    refused = tested_project.run("itest")
    assert refused.returncode == 20
    assert "the engine is on engine.example: a database published there on 127.0.0.1 cannot be reached from here" in refused.stderr
    assert "itest.bind" in refused.stderr


HOST_SIDE, AGENT_SIDE = "198.51.100.1", "198.51.100.2"  # of a link that only this machine has (TEST-NET-2)


@pytest.fixture
def beside() -> Iterator[list[str]]:
    """What runs a program where an agent in a container runs: with the engine's socket, and a network of its own.

    There, 127.0.0.1 is not the engine's host's; that is reached at HOST_SIDE, as containers reach it at their gateway.
    """
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    name = f"agent{os.getpid()}"
    inside = ["ip", "netns", "exec", name]

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    run("ip", "netns", "add", name)
    try:
        run("ip", "link", "add", f"v{os.getpid()}", "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "address", "add", f"{HOST_SIDE}/30", "dev", f"v{os.getpid()}")
        run("ip", "link", "set", f"v{os.getpid()}", "up")
        run(*inside, "ip", "address", "add", f"{AGENT_SIDE}/30", "dev", "eth0")
        run(*inside, "ip", "link", "set", "eth0", "up")
        run(*inside, "ip", "link", "set", "lo", "up")
        yield inside
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False)  # and the link with it


def test_an_agent_in_a_container_beside_the_databases(tested_project: Project, beside: list[str]) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*beside, *tested_project.command(*arguments)]
        return subprocess.run(command, cwd=tested_project.root, capture_output=True, text=True, check=False)

    assert run("build").returncode == 0
    configure(tested_project, "  deadline: 6\n")
    refused = run("itest")
    assert refused.returncode == 40, refused.stderr
    assert "itest.bind" in refused.stderr
    configure(tested_project, f"  bind: {HOST_SIDE}\n")
    done = run("itest")
    assert done.returncode == 0, done.stderr
    assert f"postgresql://{HOST_SIDE}:" in done.stderr
