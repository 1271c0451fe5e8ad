"""The build servers' files are run: each job's own commands, in a clean clone, in the server's environment.

What the servers themselves do is played here: who clones what, in which order jobs run, what is always run, what is archived.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import docker
import git
import pytest

from pipeline.adapters.registry import Registry
from pipeline.reference import Reference
from pipeline.sessions import PROJECT
from tests.bamboo_specs import Job, read_specs, stage_jobs, task_kind
from tests.engine.checkouts import NOISE_OF_CI, PASSING, SCHEMA, WAITING
from tests.engine.conftest import INVOKE, ROOT, Project, RegistryContainer, wait_for
from tests.engine.second_engine import second_engine
from tests.jenkinsfile import read_pipeline

PIPELINE = read_pipeline((ROOT / "Jenkinsfile").read_text(encoding="utf-8"))
PLAN, JOBS = read_specs((ROOT / "bamboo-specs/bamboo.yaml").read_text(encoding="utf-8"))
COOKIE = "JENKINS_NODE_COOKIE"
FAILING = "raise SystemExit(3)\n"
SERVERS_OWN = ("CI", "JENKINS_URL", "GIT_COMMIT", "GIT_BRANCH", "BRANCH_NAME", "CHANGE_FORK", "PIPELINE_FORK", "PIPELINE_BRANCH")


@dataclass
class Agent:
    """A workspace on a build agent: a clone at the commit, with a detached HEAD, as both servers make it."""

    folder: Path
    environment: Mapping[str, str]
    ran: list[tuple[str, int]] = field(default_factory=list)
    said: str = ""

    @classmethod
    def check_out(cls, project: Project, folder: Path, commit: str, environment: Mapping[str, str]) -> Agent:
        repository = git.Repo.clone_from(f"file://{project.root}", folder)
        repository.git.checkout("--quiet", "--detach", commit)
        repository.close()
        return cls(folder, environment)

    def run(self, command: str) -> bool:
        """One step; whether it succeeded. Both servers give it to a shell that stops at the first error."""
        clean = {name: value for name, value in os.environ.items() if name not in (*NOISE_OF_CI, *SERVERS_OWN)}
        with tempfile.TemporaryFile("w+") as said:  # no pipe, which whatever outlives the step would hold open
            environment = {**clean, **self.environment, COOKIE: str(self.folder)}
            step = subprocess.Popen(["sh", "-e", "-c", command], cwd=self.folder, env=environment, stdout=said, stderr=subprocess.STDOUT)
            step.wait(120)
            said.seek(0)
            self.said += said.read()
        self.ran.append((command.removeprefix("./invokew "), step.returncode))
        return step.returncode == 0

    def run_all(self, commands: Sequence[str]) -> bool:
        return all(self.run(command) for command in commands)

    def cancel(self, how: signal.Signals) -> None:
        """End every process of the build. Jenkins finds them by a variable in their environment, wherever they have gone."""
        mark = f"{COOKIE}={self.folder}\0".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes():
                    os.kill(int(process.name), how)

    def commands(self) -> list[str]:
        """What was run with `invokew`, without options."""
        return [command.partition(" ")[0] for command, _ in self.ran if not command.startswith("rm ")]

    def archived(self, patterns: Sequence[str]) -> set[str]:
        return {str(path.relative_to(self.folder)) for pattern in patterns for path in self.folder.glob(pattern) if path.is_file()} | {
            str(path.relative_to(self.folder)) for pattern in patterns for path in self.folder.glob(f"{pattern}/*") if path.is_file()
        }


def jenkins(agent: Agent) -> bool:
    """A build of the Jenkinsfile in one workspace: stages in order until one fails; `post { always }` of each that began."""
    for stage in PIPELINE.stages:
        if not stage.runs(agent.environment):
            continue
        good = agent.run_all(stage.commands)
        good = agent.run_all(stage.always) and good
        if not good:
            return False
    return True


def bamboo_job(agent: Agent, job: Job) -> bool:
    """A job: tasks until one fails, then all final tasks."""

    def scripts(tasks: Sequence[object]) -> list[str]:
        return [line for task in tasks for kind, lines in [task_kind(task)] if kind == "script" for line in lines]  # type: ignore[arg-type]

    good = agent.run_all(scripts(job.tasks))
    return agent.run_all(scripts(job.final_tasks)) and good


def of_jenkins(commit: str, branch: str = "main", build: int = 7, **more: str) -> dict[str, str]:
    known = {"JENKINS_URL": "https://jenkins.example.com/", "GIT_COMMIT": commit, "BRANCH_NAME": branch}
    return {**known, "BUILD_TAG": f"jenkins-ledger-{branch}-{build}", "EXECUTOR_NUMBER": "0", **more}


def of_bamboo(commit: str, job: str, branch: str = "main") -> dict[str, str]:
    known = {"bamboo_planRepository_branchName": branch, "bamboo_planRepository_revision": commit, "bamboo_agentId": "1"}
    return {**known, "bamboo_buildKey": f"PIPE-MAIN-{job}", "bamboo_buildResultKey": f"PIPE-MAIN-{job}-7"}


@pytest.fixture
def ledger(project: Project, tiny_image: str, standin_image: str) -> Project:
    """An application: one image, a schema, tests that pass, and an `invokew` that is this environment's invoke."""
    project.image("ledger", f"from: {tiny_image}\n", "COPY ledger.txt /ledger.txt\n")
    project.write("dockerfiles/ledger/ledger.txt", f"{project.namespace}\n")
    project.write("invokew", f'#!/bin/sh\nexec {INVOKE} "$@"\n', 0o755)
    itest = f"itest:\n  image: {standin_image}\n  prepare: [{{sql: sql}}]\n  run: ['{sys.executable}', tests.py]\n"
    project.write("pipeline.yaml", f"registry: {project.registry}\nnamespace: {project.namespace}\n{itest}")
    project.write("sql/01-schema.sql", SCHEMA)
    project.write("tests.py", PASSING)
    return project


def digest(project: Project, tag: str, image: str = "ledger") -> str:
    with closing(Registry(project.registry)) as registry:
        return registry.digest(Reference(project.registry, f"{project.namespace}/{image}", tag))


def left(project: Project, engine: docker.DockerClient) -> list[str]:
    return [container.name or "" for container in engine.containers.list(all=True, filters={"label": f"{PROJECT}={project.namespace}"})]


def test_jenkins_in_order(ledger: Project, engine: docker.DockerClient, tmp_path: Path) -> None:
    commit = ledger.commit()
    agent = Agent.check_out(ledger, tmp_path / "agent", commit, of_jenkins(commit))
    assert jenkins(agent), agent.said
    assert agent.commands() == ["build", "push", "start-oracle", "run-tests", "stop-oracle", "release.promote"]
    assert digest(ledger, "main") == digest(ledger, f"main-{commit[:12]}") != ""
    assert left(ledger, engine) == []
    archived = agent.archived(PIPELINE.artifacts)
    assert {".pipeline/release.json", ".pipeline/itest/junit.xml"} <= archived
    assert not [path for path in archived if "database.properties" in path or "database.sh" in path]
    assert "=== invoke start-oracle" in agent.said  # a heading for each command, and no live display
    assert "\x1b[" not in agent.said


def test_jenkins_stops_the_database_when_tests_fail_and_promotes_nothing(
    ledger: Project, engine: docker.DockerClient, tmp_path: Path
) -> None:
    ledger.write("tests.py", FAILING)
    commit = ledger.commit()
    agent = Agent.check_out(ledger, tmp_path / "agent", commit, of_jenkins(commit))
    assert not jenkins(agent)
    assert agent.commands() == ["build", "push", "start-oracle", "run-tests", "stop-oracle"]
    assert digest(ledger, f"main-{commit[:12]}")
    assert not digest(ledger, "main")
    assert left(ledger, engine) == []
    assert ".pipeline/itest/database.log" in agent.archived(PIPELINE.artifacts)


def test_a_fork_is_built_and_tested_and_nothing_of_it_is_published(ledger: Project, engine: docker.DockerClient, tmp_path: Path) -> None:
    commit = ledger.commit()
    fork = of_jenkins(commit, "PR-25", CHANGE_ID="25", CHANGE_BRANCH="main", CHANGE_FORK="someone")
    agent = Agent.check_out(ledger, tmp_path / "agent", commit, fork)
    assert jenkins(agent), agent.said
    assert agent.commands() == ["build", "start-oracle", "run-tests", "stop-oracle"]
    assert not agent.run("./invokew push")  # whatever a change of the Jenkinsfile calls
    assert agent.ran[-1][1] == 13
    with closing(Registry(ledger.registry)) as registry:
        assert [registry.tags(f"{ledger.namespace}/{name}") for name in ("ledger", "releases")] == [[], []]
    assert left(ledger, engine) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_build_that_is_cancelled_in_its_tests_leaves_nothing(
    ledger: Project, engine: docker.DockerClient, tmp_path: Path, how: signal.Signals
) -> None:
    """Both servers end the step's processes, and then run what is always run."""
    ledger.write("tests.py", WAITING)
    commit = ledger.commit()
    agent = Agent.check_out(ledger, tmp_path / "agent", commit, of_jenkins(commit))
    with ThreadPoolExecutor(1) as pool:
        built = pool.submit(jenkins, agent)
        wait_for((agent.folder / "testing").exists, "the tests run", 60)
        agent.cancel(how)
        assert not built.result(timeout=90)
    assert agent.commands() == ["build", "push", "start-oracle", "run-tests", "stop-oracle"]
    assert agent.ran[-1] == ("stop-oracle", 0)
    assert left(ledger, engine) == []
    assert not digest(ledger, "main")


def test_two_builds_at_the_same_time_on_one_agent(ledger: Project, engine: docker.DockerClient, tmp_path: Path) -> None:
    first = ledger.commit()
    ledger.write("dockerfiles/ledger/ledger.txt", "another change\n")
    ledger.write("tests.py", PASSING.replace("assert rows", "rows.reverse(); assert rows"))  # the other one's tests fail
    git.Repo(ledger.root).git.checkout("--quiet", "-b", "feature/x")
    second = ledger.commit()
    agents = [
        Agent.check_out(ledger, tmp_path / "one", first, of_jenkins(first, "main", 7)),
        Agent.check_out(ledger, tmp_path / "two", second, of_jenkins(second, "feature/x", 3, EXECUTOR_NUMBER="1")),
    ]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(jenkins, agents)) == [True, False], "".join(agent.said for agent in agents)
    assert digest(ledger, "main") == digest(ledger, f"main-{first[:12]}") != ""
    assert digest(ledger, f"feature__x-{second[:12]}")
    assert not digest(ledger, "feature__x")
    assert left(ledger, engine) == []


@pytest.mark.parametrize("passing", [True, False])
def test_bamboo_on_two_agents_with_an_engine_each(
    ledger: Project, registry: RegistryContainer, engine: docker.DockerClient, tiny_image: str, tmp_path: Path, passing: bool
) -> None:
    """Images are built on one agent; the tests run on another one, whose engine has never seen them; the branch is promoted by the first."""
    if not passing:
        ledger.write("tests.py", FAILING)
    commit = ledger.commit()
    archived: set[str] = set()
    with second_engine(reach=[int(registry.host.rpartition(":")[2])]) as other:
        other.load(tiny_image)
        good, agents = True, []
        for _, names in stage_jobs(PLAN):
            if not good:
                break  # a stage begins only when the one before it has succeeded
            for name in names:
                job = JOBS[name]
                place = {} if "./invokew start-oracle" in str(job.tasks) else {"DOCKER_HOST": other.host}
                agent = Agent.check_out(ledger, tmp_path / job.key, commit, {**of_bamboo(commit, job.key), **place})
                good = bamboo_job(agent, job) and good
                agents.append(agent)
                archived |= agent.archived([f"{artifact.location}/{artifact.pattern}" for artifact in job.artifacts])
    said = "".join(agent.said for agent in agents)
    assert good == passing, said
    tests = ["start-oracle", "run-tests", "stop-oracle"]
    assert [agent.commands() for agent in agents] == [["build"], tests, ["release.promote"]][: 3 if passing else 2]
    assert bool(digest(ledger, "main")) == passing
    assert digest(ledger, f"main-{commit[:12]}")
    assert left(ledger, engine) == []
    assert ".pipeline/release.json" in archived
    assert not [path for path in archived if "database.properties" in path or "database.sh" in path]
