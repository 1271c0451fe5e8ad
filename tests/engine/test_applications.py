"""docs/how-to-applications.md: a Maven repository becomes an application of the pipeline, as shown, with the installed wheel alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import docker
import git

from pipeline.adapters.registry import Registry
from tests.bamboo_specs import read_specs, stage_jobs
from tests.engine.build_servers import Agent, bamboo_job, jenkins, of_bamboo, of_jenkins
from tests.engine.conftest import Project, RegistryContainer
from tests.engine.documents import DOCS
from tests.engine.maven import WAR_PLUGINS, Maven
from tests.engine.published import read_release
from tests.engine.toolkit import Toolkit
from tests.jenkinsfile import read_pipeline

DOCUMENT = "how-to-applications.md"
SHOWN = "tools/pipeline-0.1.0-py3-none-any.whl"
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
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
      {WAR_PLUGINS}
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
    toolkit: Toolkit,
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
    shutil.copy(toolkit.wheel, application.root / "tools")
    application.commit("a Maven repository")
    git.Repo(application.root).create_remote("origin", f"https://git.example.com/{application.namespace}.git")

    names = {
        "/tmp/toolkit/bin/python": str(toolkit.python),
        SHOWN: f"tools/{toolkit.wheel.name}",
        "base-images/tomcat": f"{base.namespace}/tomcat",
        "127.0.0.1:5000": registry.host,
    }
    identity = {f"GIT_{who}_{what}": "somebody@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**identity, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(toolkit.wheels)}  # as docs/how-to-networks.md says
    shell = Shell(application.root, environment, names)
    begin, commit, try_out, upgrade = steps_of(DOCUMENT)
    said = shell.run(begin.splitlines()[-1])  # the lines before it are what the fixture has done
    assert "note:" not in said
    shell.run(commit)
    said = shell.run(try_out)
    assert f"release of main at {git.Repo(application.root).head.commit.hexsha[:12]}" in said

    commit = application.commit("what the build servers find")
    venv = application.root / ".venv"
    jenkins_builds(application, commit, venv, tmp_path / "jenkins")
    application.write("src/main/webapp/index.html", "<p>changed</p>\n")
    bamboo_builds(application, application.commit("a change"), venv, tmp_path / "bamboo")
    assert shell.run(upgrade).count("nothing was written") == 2

    _shipped_registry(shell, application, engine)


def jenkins_builds(application: Project, commit: str, venv: Path, folder: Path) -> None:
    """The Jenkinsfile that `init` has written."""
    pipeline = read_pipeline((application.root / "Jenkinsfile").read_text(encoding="utf-8"))
    agent = check_out(application, folder, commit, of_jenkins(commit), venv)
    assert jenkins(pipeline, agent), agent.said
    assert agent.ran[1][0] == "mvn --batch-mode clean package && ./invokew build"
    assert agent.commands()[1:] == ["push", "start-oracle", "run-tests", "stop-oracle", "release.promote"]
    assert ".pipeline/release.json" in agent.archived(pipeline.artifacts)
    release = json.loads((folder / ".pipeline/release.json").read_text(encoding="utf-8"))
    assert list(release["images"]) == ["ledger"]  # and nothing of the toolkit's own
    assert promoted(application) == commit


def bamboo_builds(application: Project, commit: str, venv: Path, folder: Path) -> None:
    """The specs that `init` has written, each job in a clone of its own."""
    plan, jobs = read_specs((application.root / "bamboo-specs/bamboo.yaml").read_text(encoding="utf-8"))
    ran = []
    for name in [name for _, names in stage_jobs(plan) for name in names]:
        agent = check_out(application, folder / name, commit, of_bamboo(commit, jobs[name].key), venv)
        assert bamboo_job(agent, jobs[name]), agent.said
        ran += [command for command, _ in agent.ran if not command.startswith("rm ")]
    build = "mvn --batch-mode clean package && ./invokew build push --commit-only"
    assert ran == [build, "start-oracle", "run-tests", "stop-oracle", "release.promote"]
    assert promoted(application) == commit


def check_out(application: Project, folder: Path, commit: str, environment: Mapping[str, str], venv: Path) -> Agent:
    agent = Agent.check_out(application, folder, commit, environment)
    (folder / ".venv").symlink_to(venv)  # what the agent's invokew would make again in the same way
    return agent


def promoted(application: Project) -> str:
    """The commit whose release the branch names."""
    with closing(Registry(application.registry)) as registry:
        return str(read_release(registry, application.namespace, "main")["revision"]["commit"])


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
