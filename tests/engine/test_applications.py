"""docs/how-to-applications.md: a Maven repository becomes an application of the pipeline, as shown, with the installed wheel alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import docker
import git

from tests.engine.conftest import Project, RegistryContainer
from tests.engine.documents import DOCS
from tests.engine.maven import Maven
from tests.engine.toolkit import toolkit, wheel  # noqa: F401 - fixtures

DOCUMENT = "how-to-applications.md"
SHOWN = "tools/pipeline-0.1.0-py3-none-any.whl"
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>example</groupId>
  <artifactId>ledger</artifactId>
  <version>1.0</version>
  <packaging>war</packaging>
  <properties><project.build.outputTimestamp>2000-01-01T00:00:00Z</project.build.outputTimestamp></properties>
  <dependencies>
    <dependency><groupId>org.postgresql</groupId><artifactId>postgresql</artifactId><version>42.5.5</version><scope>test</scope></dependency>
  </dependencies>
  <build>
    <plugins>
      <plugin><artifactId>maven-clean-plugin</artifactId><version>3.2.0</version></plugin>
      <plugin><artifactId>maven-resources-plugin</artifactId><version>3.3.0</version></plugin>
      <plugin><artifactId>maven-compiler-plugin</artifactId><version>3.10.1</version></plugin>
      <plugin><artifactId>maven-surefire-plugin</artifactId><version>2.22.3</version></plugin>
      <plugin>
        <artifactId>maven-war-plugin</artifactId><version>3.3.2</version>
        <configuration><failOnMissingWebXml>false</failOnMissingWebXml></configuration>
      </plugin>
    </plugins>
  </build>
</project>
"""


def steps_of(document: str) -> list[str]:
    """The commands of each console block."""
    blocks = re.findall(r"^```console\n(.*?)^```$", (DOCS / document).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return ["\n".join(line.removeprefix("$ ") for line in block.splitlines()) for block in blocks]


class Shell:
    """Runs lines of a document in a folder, as a person would."""

    def __init__(self, folder: Path, environment: dict[str, str], names: dict[str, str]) -> None:
        self.folder = folder
        self._environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
        self._names = names

    def run(self, script: str) -> str:
        for old, new in self._names.items():
            script = script.replace(old, new)
        command = ["bash", "-c", f"set -eux\n{script}"]
        done = subprocess.run(command, cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr


def test_from_nothing_to_a_green_build(
    make_project: Callable[[str], Project],
    engine: docker.DockerClient,
    registry: RegistryContainer,
    toolkit: Path,  # noqa: F811
    wheel: Path,  # noqa: F811
    tiny_image: str,
    tmp_path: Path,
) -> None:
    base, application = make_project("base-images"), make_project("ledger")
    base.image("tomcat", f"from: {tiny_image}\n", "COPY Dockerfile /opt/tomcat/\n")
    base.commit()
    base.invoke("build")
    base.invoke("push")

    for name in ("pipeline.yaml", "tasks.py", ".gitignore"):
        (application.root / name).unlink()  # a Maven repository, and nothing else
    application.write("pom.xml", POM)
    application.write("src/main/webapp/index.html", "<p>ledger</p>\n")
    application.write(".gitignore", "target/\n")
    maven = Maven(tmp_path / "maven")
    maven.provide(application.root)
    application.write(".mvn/maven.config", f"--offline\n-Dmaven.repo.local={tmp_path / 'maven'}\n")
    (application.root / "tools").mkdir()
    shutil.copy(wheel, application.root / "tools")
    application.commit("a Maven repository")
    git.Repo(application.root).create_remote("origin", f"https://git.example.com/{application.namespace}.git")

    names = {
        "/tmp/toolkit/bin/python": str(toolkit.with_name("python")),
        SHOWN: f"tools/{wheel.name}",
        "base-images/tomcat": f"{base.namespace}/tomcat",
        "127.0.0.1:5000": registry.host,
    }
    identity = {f"GIT_{who}_{what}": "somebody@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**identity, "PIP_CONSTRAINT": str(toolkit.parent.parent / "constraints.txt")}
    shell = Shell(application.root, environment, names)
    begin, commit, try_out, upgrade = steps_of(DOCUMENT)
    said = shell.run(begin.splitlines()[-1])  # the lines before it are what the fixture has done
    assert "note:" not in said
    shell.run(commit)
    said = shell.run(try_out)
    assert f"release of main at {git.Repo(application.root).head.commit.hexsha[:12]}" in said

    clone = tmp_path / "agent"
    git.Repo(application.root).clone(clone)
    (clone / ".venv").symlink_to(application.root / ".venv")  # what the agent's invokew would make again in the same way
    agent = Shell(clone, {**environment, "GIT_COMMIT": git.Repo(clone).head.commit.hexsha, "BRANCH_NAME": "main"}, {})
    jenkins = (clone / "Jenkinsfile").read_text(encoding="utf-8")
    commands = re.findall(r"^\s*sh '(.*)'$", jenkins, re.MULTILINE)
    assert any(command.startswith("mvn --batch-mode clean package && ./invokew build") for command in commands)
    for command in commands:
        agent.run(command)
    release = json.loads((clone / ".pipeline/release.json").read_text(encoding="utf-8"))
    assert list(release["images"]) == ["ledger"]  # and nothing of the toolkit's own
    assert shell.run(upgrade).count("nothing was written") == 2

    _shipped_registry(shell, application, engine)


def _shipped_registry(shell: Shell, application: Project, engine: docker.DockerClient) -> None:
    """An application that defines no registry has the toolkit's."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (application.root / "pipeline.yaml").open("a") as file:
        file.write(f"registry_server: {{port: {port}}}\n")
    try:
        assert f"registry 127.0.0.1:{port}: running" in shell.run("./invokew registry.start")
        image = engine.containers.get(f"pipeline-registry-{port}").image
        assert image is not None
        assert any(tag.startswith("pipeline.local/shipped/registry:content-") for tag in image.tags)
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", f"pipeline-registry-{port}"], check=False, capture_output=True)
        subprocess.run(["docker", "volume", "rm", "--force", f"pipeline-registry-{port}"], check=False, capture_output=True)
