"""setup/engine.sh installs nothing where nobody asked for it. (That it installs where it may is seen on new machines.)"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH on which every tool that could change the machine only leaves a mark, and docker finds no engine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        "docker": 'case "$*" in "context show") echo ${DOCKER_CONTEXT:-default};; "buildx version") exit 0;; *) exit 1;; esac',
        **{name: f"echo {name} >> {tmp_path}/changed; exit 1" for name in ("apt-get", "dockerd", "systemctl", "sudo", "setsid")},
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


def run(tools: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "setup/engine.sh"), *arguments],
        env={"PATH": f"{tools}:/usr/bin:/bin", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_says_what_to_install_where_it_may_not(tools: Path, tmp_path: Path) -> None:
    result = run(tools, PIPELINE_INSTALL_ENGINE="0")
    assert result.returncode == 50
    assert "no Docker Engine answers" in result.stderr
    assert "docker-buildx" in result.stderr
    assert not (tmp_path / "changed").exists()


@pytest.mark.parametrize("environment", [{"DOCKER_HOST": "tcp://build-host:2376"}, {"DOCKER_CONTEXT": "build-host"}])
def test_installs_nothing_where_docker_means_another_machine(tools: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    result = run(tools, PIPELINE_INSTALL_ENGINE="1", **environment)
    assert result.returncode == 50
    assert "build-host" in result.stderr
    assert not (tmp_path / "changed").exists()


def test_does_nothing_where_an_engine_answers(tools: Path, tmp_path: Path) -> None:
    (tools / "docker").write_text("#!/bin/sh\nexit 0\n")
    assert run(tools).returncode == 0
    assert not (tmp_path / "changed").exists()


def test_what_the_tests_need_is_named_where_it_may_not_be_installed(tools: Path, tmp_path: Path) -> None:
    (tools / "docker").write_text("#!/bin/sh\nexit 0\n")
    (tools / "dpkg-query").write_text("#!/bin/sh\nexit 1\n")
    (tools / "dpkg-query").chmod(0o755)
    result = run(tools, "--for-tests", PIPELINE_INSTALL_ENGINE="0")
    assert result.returncode == 0
    assert "apt-get install maven " in result.stderr
    assert not (tmp_path / "changed").exists()
