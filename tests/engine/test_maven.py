"""Maven calls the pipeline: the example's profiles, and the lines of docs/how-to-maven.md in a POM that was there before."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from pipeline.adapters.docker_engine import Container, DockerEngine
from pipeline.sessions import PROJECT
from tests.engine.conftest import INVOKE, ROOT, Project, RegistryContainer, own_image, wait_for
from tests.engine.documents import read_shown
from tests.engine.maven import WAR_PLUGINS, Maven

DOCUMENT = "how-to-maven.md"
INVOKEW = f'#!/bin/sh\nexec {INVOKE} "$@"\n'
BOTH = "-PbuildDockerImage,pushDockerImage"
NO_ENGINE = "unix:///nowhere/docker.sock"
EXISTING = """
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <parent><groupId>example</groupId><artifactId>parent</artifactId><version>1</version></parent>
  <artifactId>ledger</artifactId>
  <packaging>war</packaging>
  <properties>
    <maven.compiler.release>17</maven.compiler.release>
    {properties}
  </properties>
  <dependencies>
    <dependency><groupId>example</groupId><artifactId>library</artifactId><version>1</version></dependency>
    <dependency>
      <groupId>org.postgresql</groupId><artifactId>postgresql</artifactId><version>42.7.0</version><scope>test</scope>
    </dependency>
    <dependency><groupId>junit</groupId><artifactId>junit</artifactId><version>4.13.2</version><scope>test</scope></dependency>
  </dependencies>
  <build>
    <finalName>ledger</finalName>
    <plugins>
      <!-- declared before the plugin that makes the WAR: it must all the same come after it -->
      <plugin><groupId>org.codehaus.mojo</groupId><artifactId>exec-maven-plugin</artifactId><version>3.1.0</version></plugin>
{plugins}
    </plugins>
  </build>
  <profiles>
{profiles}
  </profiles>
</project>
"""
PARENT = """
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>example</groupId><artifactId>parent</artifactId><version>1</version><packaging>pom</packaging>
  <modules><module>library</module><module>web</module></modules>
</project>
"""
LIBRARY = """
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <parent><groupId>example</groupId><artifactId>parent</artifactId><version>1</version></parent>
  <artifactId>library</artifactId>
  <properties><project.build.outputTimestamp>2000-01-01T00:00:00Z</project.build.outputTimestamp></properties>
</project>
"""
TEST = """
import java.io.Reader;
import java.nio.file.*;
import java.sql.*;
import java.util.Properties;
import org.junit.Test;

public class LedgerIT {
    @Test
    public void thePreparedTableIsThere() throws Exception {
        %s
        try (connection; ResultSet row = connection.createStatement().executeQuery("SELECT amount FROM entry")) {
            row.next();
            Files.writeString(Path.of("target/seen.txt"), row.getString(1));
        }
        while (Files.exists(Path.of("hold"))) Thread.sleep(50);
        org.junit.Assert.assertFalse("told to fail", Boolean.getBoolean("fail"));
    }
}
"""


@pytest.fixture(scope="module")
def maven(tmp_path_factory: pytest.TempPathFactory) -> Maven:
    return Maven(tmp_path_factory.mktemp("maven") / "repository")


def file_of(engine: docker.DockerClient, image: str, path: str) -> bytes:
    container = engine.containers.create(image, ["none"])
    try:
        stream, _ = container.get_archive(path)
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
            member = archive.extractfile(archive.next() or "")
            assert member is not None
            return member.read()
    finally:
        container.remove()


def pushed_war(engine: docker.DockerClient, registry: RegistryContainer, project: Project, name: str, commit: str) -> bytes:
    """The WAR in the image of that commit, out of the registry."""
    path = f"{project.namespace}/{name}"
    image = f"{registry.host}/{path}@{registry.digest(f'{path}:main-{commit[:12]}')}"
    engine.images.pull(image)
    return file_of(engine, image, f"/opt/tomcat/webapps/{name}.war")


def served(container: Any, path: str) -> str:
    """What it answers by now; empty where it does not yet."""
    container.reload()
    port = container.ports["8080/tcp"][0]["HostPort"]
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return str(answer.read(), "utf-8")
    return ""


@pytest.fixture
def application(project: Project, tiny_image: str) -> Project:
    """examples/accounting as a repository of its own, on parents as small as can be."""
    shutil.copytree(
        ROOT / "examples/accounting",
        project.root,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("target", ".pytest_cache", "__pycache__"),
    )
    pom = (project.root / "pom.xml").read_text()
    assert "${project.basedir}/../..</pipeline.root>" in pom
    project.write("pom.xml", pom.replace("${project.basedir}/../..</pipeline.root>", "${project.basedir}</pipeline.root>"))
    project.write("pipeline.yaml", f"registry: {project.registry}\nnamespace: {project.namespace}\nimages: [image.yaml, images/*.yaml]\n")
    project.write(".gitignore", ".pipeline/\n/target/\n")
    project.write("invokew", INVOKEW, 0o755)
    for parent in ("tomcat", "jdk"):
        project.image(parent, f"from: {tiny_image}\n", "COPY etc /etc\n")
        project.write(f"dockerfiles/{parent}/etc/passwd", "root:x:0:0::/:/bin/sh\n")
        project.write(f"dockerfiles/{parent}/etc/group", "root:x:0:\n")
    return project


def test_the_image_has_the_very_war_that_maven_made(
    application: Project,
    maven: Maven,
    registry: RegistryContainer,
    engine: docker.DockerClient,
) -> None:
    commit = application.commit("begin")
    done = maven.run(application.root, "clean", "install", DOCKER_HOST=NO_ENGINE)
    assert done.returncode == 0, done.stdout
    assert "invoke" not in done.stdout
    assert not (application.root / ".pipeline").exists()
    plain = (application.root / "target/accounting.war").read_bytes()

    refused = maven.run(application.root, "package", "-PbuildDockerImage", DOCKER_HOST=NO_ENGINE)
    assert refused.returncode == 1
    assert "Exit value: 20" in refused.stdout, refused.stdout

    built = maven.run(application.root, "clean", "install", "-PbuildDockerImage")
    assert built.returncode == 0, built.stdout
    assert "accounting: build" in built.stdout
    assert ":exec (push-image)" not in built.stdout

    done = maven.run(application.root, "clean", "install", BOTH)
    assert done.returncode == 0, done.stdout
    assert "accounting: build" not in done.stdout  # the same bytes, and so the same image
    places = [done.stdout.index(what) for what in (":war (", ":exec (build-image)", ":install (", ":exec (push-image)")]
    assert places == sorted(places)
    war = (application.root / "target/accounting.war").read_bytes()
    assert pushed_war(engine, registry, application, "accounting", commit) == war == plain

    image = f"pipeline-test/maven:{application.namespace}"
    command = ["docker", "buildx", "build", "--quiet", "--tag", image, "--build-arg", f"BASE_IMAGE={own_image('tomcat')}"]
    command += ["--build-context", f"jdk=docker-image://{own_image('jdk')}", "."]
    built = subprocess.run(command, cwd=application.root, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    ports: Any = {"8080/tcp": ("127.0.0.1", None)}
    container = engine.containers.run(
        image, detach=True, environment={"APP_BRANCH": "feature/x"}, ports=ports, read_only=True, tmpfs={"/tmp": ""}
    )
    try:
        wait_for(lambda: "feature/x" in served(container, "/accounting/version"), "Tomcat serves the WAR as it is")
    finally:
        container.remove(force=True)
        engine.images.remove(image)


def databases(project: Project) -> list[Container]:
    return DockerEngine().list_containers({PROJECT: project.namespace})


@pytest.fixture
def existing(project: Project, tiny_image: str) -> Iterator[Project]:
    """A build of two modules that had nothing to do with images, and the lines of the how-to in the one that makes the WAR."""
    shown = read_shown(DOCUMENT)
    assert "${project.basedir}</pipeline.root>" in shown["pom.xml, in <properties>"]
    properties = shown["pom.xml, in <properties>"].replace("${project.basedir}</pipeline.root>", "${project.basedir}/..</pipeline.root>")
    profiles = shown["pom.xml, in <profiles>"] + shown["pom.xml, in <profiles>, for integration tests"]
    java = re.findall(r"^```java\n(.*?)^```$", (ROOT / "docs" / DOCUMENT).read_text(), re.DOTALL | re.MULTILINE)
    project.write("pom.xml", PARENT)
    project.write("library/pom.xml", LIBRARY)
    project.write("library/src/main/java/Library.java", "public class Library {}\n")
    project.write("web/pom.xml", EXISTING.format(properties=properties, plugins=WAR_PLUGINS, profiles=profiles))
    project.write("web/src/main/webapp/index.html", "hello\n")
    project.write("web/src/test/java/LedgerIT.java", TEST % "".join(java))
    project.write("web/image.yaml", f"name: ledger\nfrom: {tiny_image}\n")
    for name in ("Dockerfile", ".dockerignore"):
        project.write(f"web/{name}", shown[name])
    project.write("database/01.sql", "CREATE TABLE entry (amount INTEGER);\nINSERT INTO entry VALUES (42);\n")
    project.write(
        "pipeline.yaml",
        f"registry: {project.registry}\nnamespace: {project.namespace}\nimages: [web/image.yaml]\n"
        f"itest:\n  image: {own_image('postgres')}\n  engine: postgres\n  prepare: [{{sql: database}}]\n  run: ['true']\n",
    )
    project.write("invokew", INVOKEW, 0o755)
    project.write(".gitignore", ".pipeline/\ntarget/\n")
    yield project
    for container in databases(project):
        DockerEngine().remove_container(container.id)


def test_the_lines_of_the_how_to_in_a_build_of_several_modules(
    existing: Project,
    maven: Maven,
    registry: RegistryContainer,
    engine: docker.DockerClient,
) -> None:
    commit = existing.commit("begin")
    everything = "-PbuildDockerImage,pushDockerImage,integrationTest"
    failed = maven.run(existing.root, "clean", "install", everything, "-Dfail=true")
    assert failed.returncode == 1
    assert "told to fail" in failed.stdout, failed.stdout
    assert ":exec (stop-database)" not in failed.stdout
    wait_for(lambda: not databases(existing), "Maven's end stops the database")
    wait_for(lambda: not list((existing.root / ".pipeline").glob("database*")), "and its address is gone")
    assert "there is no release yet" in existing.run("release.list").stderr

    done = maven.run(existing.root, "clean", "install", everything)
    assert done.returncode == 0, done.stdout
    assert not databases(existing)
    steps = [
        ":war (",
        ":exec (build-image)",
        ":exec (start-database)",
        ":test (integration-tests)",
        ":exec (stop-database)",
        ":exec (push-image)",
    ]
    assert [done.stdout.count(step) for step in steps] == [1] * len(steps)
    assert [done.stdout.index(step) for step in steps] == sorted(done.stdout.index(step) for step in steps)
    assert (existing.root / "web/target/seen.txt").read_text() == "42"
    war = (existing.root / "web/target/ledger.war").read_bytes()
    assert pushed_war(engine, registry, existing, "ledger", commit) == war
    assert f"main-{commit[:12]}" in existing.invoke("release.show")


def test_a_killed_maven_leaves_no_database(existing: Project, maven: Maven) -> None:
    existing.write("web/hold", "")
    maven.provide(existing.root)
    process = subprocess.Popen(
        maven.command("install", "-PintegrationTest"), cwd=existing.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for((existing.root / "web/target/seen.txt").exists, "the test has seen its database", 60)
        assert len(databases(existing)) == 1
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        (existing.root / "web/hold").unlink()
    wait_for(lambda: not databases(existing), "the database is gone")
    done = maven.run(existing.root, "verify", "-PintegrationTest")
    assert done.returncode == 0, done.stdout
    assert ":exec (stop-database)" in done.stdout
    assert not databases(existing)
