"""Commands that the pages show and no other test needs, run as they stand there."""

from __future__ import annotations

import os
import pty
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import docker
import git
import pytest

from pipeline.sessions import PROJECT
from tests.engine.checkouts import Checkout
from tests.engine.conftest import INVOKE, Project, RegistryContainer, own_image, remove_images, run_registry, wait_for
from tests.engine.documents import read_block, read_commands
from tests.engine.maven import Maven
from tests.engine.test_applications import POM

PASSWORD = "builders-own"
JUNIT = "<dependency><groupId>junit</groupId><artifactId>junit</artifactId><version>4.13.2</version><scope>test</scope></dependency>"


def run(script: str, folder: Path, **environment: str) -> str:
    """Lines of a page in a shell that ends at the first error; what they said."""
    done = subprocess.run(
        ["bash", "-c", f"set -eux\n{script}"], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def outside(project: Project, registry: RegistryContainer, tiny_image: str, engine: docker.DockerClient) -> Iterator[str]:
    """A public registry with a base image, which this engine has never seen."""
    name = f"{registry.host}/{project.namespace}/public/ubuntu:24.04"
    engine.images.get(tiny_image).tag(name)
    run(f"docker push --quiet {name} && docker rmi {name}", project.root)
    yield name
    remove_images(engine, f"{registry.host}/{project.namespace}/*/ubuntu")


def test_a_base_image_crosses_the_gap_as_a_file(project: Project, registry: RegistryContainer, outside: str, tmp_path: Path) -> None:
    (script,) = read_commands("how-to-networks.md", "No way to the internet")
    inside = f"{registry.host}/{project.namespace}/mirror/ubuntu:24.04"
    first, *rest = [line.replace("REGISTRY/mirror/ubuntu:24.04", inside).replace(" ubuntu:24.04", f" {outside}") for line in script]
    run(first, tmp_path)
    run(f"docker rmi {outside}", tmp_path)
    run("\n".join(rest), tmp_path)

    project.image("base", f"from: {inside}\n", "COPY Dockerfile /from\n")
    project.invoke("pins.update")
    digest = registry.digest(inside.partition("/")[2])
    assert digest.startswith("sha256:")
    assert digest in (project.root / "pipeline.lock").read_text()
    project.commit("pinned")
    project.invoke("build", "push")


def test_a_build_gets_dockers_proxy_and_keeps_nothing_of_it(project: Project, engine: docker.DockerClient, tiny_image: str) -> None:
    look = 'RUN case "$HTTP_PROXY" in *:3128) ;; *) exit 1 ;; esac'
    project.image("base", f"from: {tiny_image}\n", f"{look} # {project.namespace}: built by no earlier run\n")
    project.write("docker/config.json", '{"proxies": {"default": {"httpProxy": "http://proxy.example.com:3128"}}}\n')
    project.commit()
    assert project.run("build").returncode != 0
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    project.invoke("build", "push", DOCKER_CONFIG=str(project.root / "docker"), NO_PROXY="", no_proxy="", **nowhere)
    assert project.actions() == {"base": "none"}
    image = engine.images.get(f"{project.registry}/{project.namespace}/base:main")
    assert "proxy.example.com" not in str([image.attrs, image.history()])


@pytest.fixture
def private(machine: docker.DockerClient, tmp_path: Path) -> Iterator[RegistryContainer]:
    """A registry that lets `builder` in, with a password."""
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    (tmp_path / "password").chmod(0o644)
    found = run_registry(
        machine,
        environment={"HTPASSWD_USER": "builder", "HTPASSWD_PASSWORD_FILE": "/run/pipeline/password"},
        volumes={str(tmp_path / "password"): {"bind": "/run/pipeline/password", "mode": "ro"}},
    )
    yield found
    found.container.remove(force=True, v=True)


def at_a_terminal(command: list[str], answers: dict[str, str], environment: dict[str, str]) -> str:
    """Run a command for a person who gives these answers to its questions; what the terminal showed."""
    end, terminal = pty.openpty()
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown, waiting, ends = "", dict(answers), time.monotonic() + 30
    try:
        while select.select([end], [], [], max(0.0, ends - time.monotonic()))[0]:
            try:
                shown += os.read(end, 4096).decode(errors="replace")
            except OSError:  # the other end is closed: it has ended
                break
            for question in [question for question in waiting if question in shown]:
                os.write(end, f"{waiting.pop(question)}\n".encode())
        assert process.wait(timeout=10) == 0, shown
    finally:
        process.kill()
        os.close(end)
    return shown


@pytest.mark.parametrize("document", ["how-to-bamboo.md", "how-to-jenkins.md"])
def test_the_login_of_an_agent(document: str, project: Project, private: RegistryContainer, tiny_image: str, tmp_path: Path) -> None:
    project.image("small", f"from: {tiny_image}\n", "COPY Dockerfile /from\n")
    project.environment.update(DOCKER_CONFIG=str(tmp_path / "docker"), PIPELINE_REGISTRY=private.host)
    project.commit()
    ((login, doctor),) = read_commands(document, "Setting a server up")
    assert project.run("doctor").returncode == 50
    words = shlex.split(login.replace("registry.example.com", private.host))
    shown = at_a_terminal(words, {"Username": "builder", "Password": PASSWORD}, project.environment)
    assert PASSWORD not in shown
    project.write("invokew", f'#!/bin/sh\nexec {INVOKE} "$@"\n', 0o755)
    assert "ok       registry" in run(doctor, project.root, **project.environment)
    run(f"docker logout {private.host}", project.root, **project.environment)


def test_a_database_ends_with_the_program_that_called_for_it(make_checkout: Callable[[], Checkout]) -> None:
    checkout = make_checkout()
    checkout.configure(own_image("postgres"), "engine: postgres", "contract: postgres")
    script = f"{INVOKE} start-oracle --with-caller\ndocker ps --quiet --filter label={PROJECT}={checkout.project}"
    assert run(script, checkout.root)
    wait_for(lambda: not checkout.containers, "the shell's end stops the database")
    wait_for(lambda: not list((checkout.root / ".pipeline").glob("database*")), "and its address is gone")
    checkout.assert_nothing_left()


def test_releases_by_name(hierarchy: Project, engine: docker.DockerClient, tmp_path: Path) -> None:
    first = str(git.Repo(hierarchy.root).head.commit.hexsha)
    hierarchy.invoke("build", "--keep-going")
    hierarchy.invoke("build", "push", "--commit-only")
    hierarchy.invoke("release.promote", "--release", f"main-{first[:12]}")
    hierarchy.write("dockerfiles/leaf/leaf.txt", "second\n")
    second = hierarchy.commit("second")
    hierarchy.invoke("build", "push")
    (newest,) = hierarchy.invoke("release.list", "--branch", "main", "--limit", "1").splitlines()
    assert second[:12] in newest
    assert first[:12] not in newest
    assert second[:12] in hierarchy.invoke("release.show", "--release", "main")
    assert "leaf" in hierarchy.invoke("release.show", "--against", f"main-{first[:12]}")

    clone = tmp_path / "shallow"
    run(f"git clone --quiet --depth=1 file://{hierarchy.root} {clone}", tmp_path)
    shallow = replace(hierarchy, root=clone)
    assert shallow.run("plan", "--against", "HEAD~1").returncode != 0
    run("git fetch --quiet --unshallow", clone)
    assert "leaf.txt" in shallow.invoke("plan", "--against", "HEAD~1")

    run(f"git checkout --quiet --detach {first}", clone)
    back = replace(shallow, environment={"PIPELINE_BRANCH": "main"})
    back.invoke("release.promote")
    assert hierarchy.json("release.show", "--release", "main")["revision"]["commit"] == second
    back.invoke("release.promote", "--force")
    assert hierarchy.json("release.show", "--release", "main")["revision"]["commit"] == first
    remove_images(engine, f"{hierarchy.registry}/{hierarchy.namespace}/*")
    hierarchy.invoke("build", "--pull")
    assert engine.images.get(f"{hierarchy.registry}/{hierarchy.namespace}/leaf:main-{second[:12]}")
    hierarchy.invoke("release.pull", "--release", "main")
    assert engine.images.get(f"{hierarchy.registry}/{hierarchy.namespace}/leaf:main-{first[:12]}")


def test_what_only_says_something(hierarchy: Project) -> None:
    assert hierarchy.invoke("plan", "--graph").startswith("flowchart")
    assert "--explain" in hierarchy.invoke("plan", "--help")
    hierarchy.invoke("hooks.install", "--itest", "--limit", "900")
    hook = hierarchy.root / ".git/hooks/pre-push"
    assert "--itest" in hook.read_text()
    assert "900" in hook.read_text()


@pytest.fixture
def ledger(make_project: Callable[[str], Project], tiny_image: str, tmp_path: Path) -> Project:
    """A Maven repository whose image takes the WAR; Git knows neither the WAR nor how it is made."""
    project = make_project("ledger")
    project.write("pom.xml", POM.replace("</dependencies>", f"{JUNIT}</dependencies>"))
    project.write("src/main/webapp/index.html", "<p>ledger</p>\n")
    project.write("image.yaml", f"name: ledger\nfrom: {tiny_image}\n")
    project.write("pipeline.yaml", f"registry: {project.registry}\nnamespace: {project.namespace}\nimages: [image.yaml]\n")
    project.write("Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY target/ledger-1.0.war /ledger.war\n")
    project.write(".dockerignore", "*\n!target/*.war\n")
    project.write(".gitignore", ".pipeline/\ntarget/\n")
    Maven(tmp_path / "maven").provide(project.root)
    project.write(".mvn/maven.config", f"-Dmaven.repo.local={tmp_path / 'maven'}\n-Dmaven.compiler.release=17\n")
    project.commit("a Maven repository")
    return project


def test_the_hook_has_the_war_made(ledger: Project, engine: docker.DockerClient, tmp_path: Path) -> None:
    run(f"git init -q --bare {tmp_path}/remote.git && git remote add origin {tmp_path}/remote.git", ledger.root)
    ledger.invoke("hooks.install", "--first", "mvn -q -o package")
    run("git push --quiet origin main", ledger.root)
    commit = git.Repo(ledger.root).head.commit.hexsha[:12]
    assert engine.images.get(f"{ledger.registry}/{ledger.namespace}/ledger:main-{commit}")
    assert not (ledger.root / "target").exists()


FORKED = """
import java.nio.file.*;
import java.sql.*;
import org.junit.Test;

public class {name} {{
    @Test
    public void hasAStateOfItsOwn() throws Exception {{
        {lines}
        try (connection; Statement statement = connection.createStatement()) {{
            statement.execute("INSERT INTO entry VALUES (1)");  // refused where another fork was before
        }}
        Files.writeString(Path.of("target/{name}.txt"), mine);
    }}
}}
"""


def test_forks_of_surefire_have_a_state_each(ledger: Project) -> None:
    plugin = read_block("testing.md", "xml")
    lines = read_block("testing.md", "java", "db.mine")
    old = "<plugin><artifactId>maven-surefire-plugin</artifactId><version>2.22.3</version></plugin>"
    pom = (ledger.root / "pom.xml").read_text()
    assert old in pom
    version = "<artifactId>maven-surefire-plugin</artifactId><version>2.22.3</version>"
    plugin = plugin.replace("<artifactId>maven-surefire-plugin</artifactId>", version)
    ledger.write("pom.xml", pom.replace(old, plugin))
    for name in ("FirstTest", "SecondTest"):
        ledger.write(f"src/test/java/{name}.java", FORKED.format(name=name, lines=lines))
    ledger.write("database/01.sql", "CREATE TABLE entry (id integer PRIMARY KEY);\n")
    ledger.write(
        "pipeline.yaml",
        f"registry: {ledger.registry}\nnamespace: {ledger.namespace}\nitest:\n  image: {own_image('postgres')}\n  engine: postgres\n"
        "  contract: postgres\n  prepare: [{sql: database}]\n  run: [mvn, --batch-mode, -o, test]\n",
    )
    ledger.invoke("itest", "--workers", "2")
    assert {path.read_text() for path in (ledger.root / "target").glob("*Test.txt")} == {"DB_1_", "DB_2_"}


def test_init_in_a_repository_of_images_and_beside_a_parent(hierarchy: Project, make_project: Callable[[str], Project]) -> None:
    """Both say already what installs the toolkit; here it is installed from a folder, which no other machine would find."""
    hierarchy.invoke("build", "push")
    child = make_project("child")
    (child.root / "pipeline.yaml").unlink()
    child.write("Dockerfile", "FROM company/tomcat:9\nCOPY index.html /srv/\n")
    for project in (hierarchy, child):
        project.write("requirements-pipeline.txt", "pipeline==0.1.0\n")
    run(f"{sys.executable} -m pipeline init", hierarchy.root)
    assert (hierarchy.root / "Jenkinsfile").exists()
    assert "nothing was written" in hierarchy.invoke("init")
    environment = {"PIPELINE_REGISTRY": child.registry, "PIPELINE_NAMESPACE": child.namespace}
    run(f"{sys.executable} -m pipeline init --parent {hierarchy.namespace}/leaf", child.root, **environment)
    assert f"release: {hierarchy.namespace}" in (child.root / "image.yaml").read_text()
