"""Build servers as far as their files are concerned: who clones what, which commands run in which order, what is always run.

The servers themselves are not here; what they do is played by their documentation.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import git

from tests.bamboo_specs import Job, task_kind
from tests.engine.checkouts import NOISE_OF_CI
from tests.engine.conftest import Project
from tests.jenkinsfile import Pipeline

COOKIE = "JENKINS_NODE_COOKIE"
SERVERS_OWN = ("CI", "JENKINS_URL", "GIT_COMMIT", "GIT_BRANCH", "BRANCH_NAME", "CHANGE_FORK", "PIPELINE_FORK", "PIPELINE_BRANCH")


@dataclass
class Agent:
    """A workspace on a build agent: a clone at the commit, with a detached HEAD, as both servers make it; Bamboo's is shallow."""

    folder: Path
    environment: Mapping[str, str]
    ran: list[tuple[str, int]] = field(default_factory=list)
    said: str = ""

    @classmethod
    def check_out(cls, project: Project, folder: Path, commit: str, environment: Mapping[str, str]) -> Agent:
        depth = ["--depth", "1"] if "bamboo_buildKey" in environment else []
        repository = git.Repo.clone_from(f"file://{project.root}", folder, multi_options=depth)
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


def jenkins(pipeline: Pipeline, agent: Agent) -> bool:
    """A build of a Jenkinsfile in one workspace: stages in order until one fails; `post { always }` of each that began."""
    for stage in pipeline.stages:
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
