"""The build servers' files of this repository are run: each job's own commands, in a clean clone, in the server's environment."""

from __future__ import annotations

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import docker
import git
import pytest

from pipeline.adapters.registry import Registry
from pipeline.reference import Reference
from pipeline.scaffold.files import fit_ci
from pipeline.scaffold.repository import Answers
from pipeline.sessions import PROJECT
from tests.bamboo_specs import read_specs, stage_jobs
from tests.engine.build_servers import Agent, bamboo_job, jenkins, of_bamboo, of_jenkins
from tests.engine.checkouts import PASSING, SCHEMA, TASKS, WAITING
from tests.engine.conftest import INVOKE, ROOT, Project, RegistryContainer, wait_for
from tests.engine.second_engine import second_engine
from tests.jenkinsfile import read_pipeline

PIPELINE = read_pipeline((ROOT / "Jenkinsfile").read_text(encoding="utf-8"))
PLAN, JOBS = read_specs((ROOT / "bamboo-specs/bamboo.yaml").read_text(encoding="utf-8"))
FAILING = "raise SystemExit(3)\n"


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


def test_bamboo_finishes_an_older_commit_last(ledger: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shallow clones do not hold the history: the commits' times decide, and the branch stays where it is."""
    clones: list[tuple[str, Agent]] = []
    for number in (1, 2):
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"2026-03-0{number}T12:00:00Z")
        ledger.write("dockerfiles/ledger/ledger.txt", f"{number}\n")
        commit = ledger.commit()
        clones.append((commit, Agent.check_out(ledger, tmp_path / str(number), commit, of_bamboo(commit, "BUILD"))))
    for _, agent in reversed(clones):
        assert all(bamboo_job(agent, JOBS[name]) for name in ("Build and push", "Promote")), agent.said
    (_, late), (newest, _) = clones
    assert f"branch tag main: stays at main-{newest[:12]} (their ancestry is not in this clone" in late.said
    assert digest(ledger, "main") == digest(ledger, f"main-{newest[:12]}") != ""


def test_a_project_in_a_subfolder_of_another_ones_repository(ledger: Project, engine: docker.DockerClient, tmp_path: Path) -> None:
    """By the Jenkinsfile that `init` writes there; what is at the top has no part in it."""
    there = ledger.root / "services/ledger"
    there.mkdir(parents=True)
    for path in [path for path in ledger.root.iterdir() if path.name not in (".git", "services")]:
        path.rename(there / path.name)
    answers = Answers(ledger.registry, ledger.namespace, (), "", "", False, "", "services/ledger")
    ledger.write("services/ledger/Jenkinsfile", fit_ci("Jenkinsfile", answers))
    ledger.write("pipeline.yaml", f"registry: {ledger.registry}\nnamespace: {ledger.namespace}-top\n")
    ledger.write("tasks.py", TASKS)
    ledger.write(".gitignore", ".pipeline/\n")
    pipeline, commit = read_pipeline((there / "Jenkinsfile").read_text(encoding="utf-8")), ledger.commit()
    agent = Agent.check_out(ledger, tmp_path / "agent", commit, of_jenkins(commit))
    assert jenkins(pipeline, agent), agent.said
    assert digest(ledger, "main") == digest(ledger, f"main-{commit[:12]}") != ""
    assert left(ledger, engine) == []
    results = {"services/ledger/.pipeline/release.json", "services/ledger/.pipeline/itest/junit.xml"}
    assert results <= agent.archived([*pipeline.artifacts, *(pattern for stage in pipeline.stages for pattern in stage.results)])
    assert not (agent.folder / ".pipeline").exists()


def digest(project: Project, tag: str, image: str = "ledger") -> str:
    with closing(Registry(project.registry)) as registry:
        return registry.digest(Reference(project.registry, f"{project.namespace}/{image}", tag))


def left(project: Project, engine: docker.DockerClient) -> list[str]:
    return [container.name or "" for container in engine.containers.list(all=True, filters={"label": f"{PROJECT}={project.namespace}"})]


def test_jenkins_in_order(ledger: Project, engine: docker.DockerClient, tmp_path: Path) -> None:
    commit = ledger.commit()
    agent = Agent.check_out(ledger, tmp_path / "agent", commit, of_jenkins(commit))
    assert jenkins(PIPELINE, agent), agent.said
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
    assert not jenkins(PIPELINE, agent)
    assert agent.commands() == ["build", "push", "start-oracle", "run-tests", "stop-oracle"]
    assert digest(ledger, f"main-{commit[:12]}")
    assert not digest(ledger, "main")
    assert left(ledger, engine) == []
    assert ".pipeline/itest/database.log" in agent.archived(PIPELINE.artifacts)


def test_a_fork_is_built_and_tested_and_nothing_of_it_is_published(ledger: Project, engine: docker.DockerClient, tmp_path: Path) -> None:
    commit = ledger.commit()
    fork = of_jenkins(commit, "PR-25", CHANGE_ID="25", CHANGE_BRANCH="main", CHANGE_FORK="someone")
    agent = Agent.check_out(ledger, tmp_path / "agent", commit, fork)
    assert jenkins(PIPELINE, agent), agent.said
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
        built = pool.submit(jenkins, PIPELINE, agent)
        wait_for((agent.folder / "testing").exists, "the tests run", 60)
        agent.cancel(how)
        assert not built.result(timeout=90)
    assert agent.commands() == ["build", "push", "start-oracle", "run-tests", "stop-oracle"]
    assert agent.ran[-1] == ("stop-oracle", 0)
    assert left(ledger, engine) == []
    assert not digest(ledger, "main")


def test_a_job_of_bamboo_that_is_stopped_in_its_tests_leaves_nothing(ledger: Project, engine: docker.DockerClient, tmp_path: Path) -> None:
    ledger.write("tests.py", WAITING)
    commit = ledger.commit()
    agent = Agent.check_out(ledger, tmp_path / "agent", commit, of_bamboo(commit, "ITEST"))
    with ThreadPoolExecutor(1) as pool:
        built = pool.submit(bamboo_job, agent, JOBS["Test"])
        wait_for((agent.folder / "testing").exists, "the tests run", 60)
        assert left(ledger, engine) != []
        agent.cancel(signal.SIGKILL)
        assert not built.result(timeout=90)
    assert [command for command, _ in agent.ran[-2:]] == ["run-tests", "stop-oracle"]
    assert agent.ran[-1][1] == 0
    assert left(ledger, engine) == []


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
        assert list(pool.map(partial(jenkins, PIPELINE), agents)) == [True, False], "".join(agent.said for agent in agents)
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
