"""The build servers' files: their structure, what runs in which job, what a fork's build may do, and what is archived."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from tests.bamboo_specs import Created, FromPullRequests, InvalidSpecsError, read_specs, stage_jobs, task_kind
from tests.jenkinsfile import UnknownSyntaxError, read_pipeline

ROOT = Path(__file__).resolve().parent.parent.parent
JENKINSFILE = (ROOT / "Jenkinsfile").read_text(encoding="utf-8")
SPECS = (ROOT / "bamboo-specs/bamboo.yaml").read_text(encoding="utf-8")
FORK = {"CHANGE_ID": "25", "CHANGE_FORK": "someone"}
PUBLISHING = ("push", "release.promote")
SECRET = (  # what lies in .pipeline/ and is nobody's: the address with its password, also of a session with a key; a bug's traceback
    ".pipeline/database.sh",
    ".pipeline/database.properties",
    ".pipeline/database-key.properties",
    ".pipeline/itest.properties",
    ".pipeline/bug.log",
)


# Jenkins


def test_jenkins_stops_the_database_always_in_the_stage_that_starts_it() -> None:
    stages = read_pipeline(JENKINSFILE).stages
    (stage,) = [stage for stage in stages if "./invokew start-oracle" in stage.commands]
    assert stage.commands == ("./invokew start-oracle", "./invokew run-tests")
    assert stage.always == ("./invokew stop-oracle",)
    assert stage.results == (".pipeline/itest/**/*.xml",)


def test_jenkins_promotes_after_the_tests_what_it_pushed_before_them() -> None:
    commands = [command for stage in read_pipeline(JENKINSFILE).stages for command in stage.commands if "./invokew" in command]
    assert [command.removeprefix("./invokew ") for command in commands] == [
        "build", "push --commit-only", "start-oracle", "run-tests", "release.promote",
    ]  # fmt: skip


def test_jenkins_builds_and_tests_a_fork_on_its_own_agents_and_publishes_nothing_of_it() -> None:
    pipeline = read_pipeline(JENKINSFILE)
    ours = [command for stage in pipeline.stages if stage.runs({"CHANGE_ID": "24"}) for command in stage.commands]
    theirs = [command for stage in pipeline.stages if stage.runs(FORK) for command in stage.commands]
    assert (pipeline.agent({"CHANGE_ID": "24"}), pipeline.agent(FORK)) == ("docker", "docker-forks")
    assert [command for command in ours if command not in theirs] == ["./invokew push --commit-only", "./invokew release.promote"]
    assert not [command for command in theirs if any(word in command for word in PUBLISHING)]
    assert "./invokew build" in theirs
    assert "./invokew run-tests" in theirs


def test_jenkins_archives_results_logs_and_the_release_and_no_secret() -> None:
    patterns = read_pipeline(JENKINSFILE).artifacts
    assert patterns == (".pipeline/release.json", ".pipeline/itest/**", ".pipeline/logs/**")
    assert not [path for path in SECRET if any(fnmatch(path, pattern) for pattern in patterns)]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("when { expression { env.CHANGE_FORK == null } }", "when { branch 'main' }", "'branch' in 'when' is unknown"),
        ("env.CHANGE_FORK == null", "params.PUSH == true", "env.NAME == null"),
        ("always {", "success {", "'success' in 'post' is unknown"),
        ("sh './invokew stop-oracle'", "bat 'stop'", "there is no step 'bat'"),
        ("allowEmptyResults: true", "keepLong: true", "has no argument 'keepLong'"),
        ("    stages {", "    stages {{", "a name was expected"),
        ("agent { label", "agent { docker", "'docker' in 'agent' is unknown"),
        ("            steps {\n                sh './invokew build'", "            steps {", "a brace too"),
        ("sh './invokew run-tests'", "sh \"./invokew run-tests'", "run-tests"),
    ],
)
def test_the_reader_of_jenkinsfiles_refuses_what_it_does_not_know(old: str, new: str, why: str) -> None:
    text = JENKINSFILE.replace("                sh 'rm -rf .pipeline/itest .pipeline/logs .pipeline/release.json'\n", "")
    broken = text.replace(old, new, 1) if "brace" not in why else text.rstrip().rstrip("}")
    assert broken != text
    with pytest.raises(UnknownSyntaxError, match=why):
        read_pipeline(broken)


# Bamboo


def test_bamboo_stops_the_database_in_the_final_tasks_of_the_job_that_starts_it() -> None:
    _, jobs = read_specs(SPECS)
    (name,) = [name for name, job in jobs.items() if {"script": ["./invokew start-oracle"]} in job.tasks]
    assert [task for task in jobs[name].tasks if "script" in task][-2:] == [
        {"script": ["./invokew start-oracle"]},
        {"script": ["./invokew run-tests"]},
    ]
    assert jobs[name].final_tasks[0] == {"script": ["./invokew stop-oracle"]}


def test_bamboo_pushes_tests_and_promotes_in_stages_of_their_own() -> None:
    """A stage begins only when the one before it has succeeded; its jobs may run at the same time, on any agents."""
    root, jobs = read_specs(SPECS)
    order = []
    for _, (name,) in stage_jobs(root):
        order.append([line for task in jobs[name].tasks for line in task_kind(task)[1] if "./invokew" in line])
    assert order == [
        ["./invokew build push --commit-only"],
        ["./invokew start-oracle", "./invokew run-tests"],
        ["./invokew release.promote"],
    ]


def test_a_script_of_bamboo_is_one_command() -> None:
    """The lines of a script are one shell script, whose result is that of its last line."""
    _, jobs = read_specs(SPECS)
    for job in jobs.values():
        for kind, settings in map(task_kind, [*job.tasks, *job.final_tasks]):
            assert kind != "script" or len(settings) == 1


def test_bamboo_builds_no_fork() -> None:
    assert read_specs(SPECS)[0].branches.create == "for-new-branch"


def test_what_the_page_about_bamboo_shows_for_pull_requests_is_taken() -> None:
    page = (ROOT / "docs/how-to-bamboo.md").read_text(encoding="utf-8")
    shown = page.partition("```yaml\n")[2].partition("```")[0]
    branches = read_specs(SPECS.partition("# Branches of this")[0] + shown)[0].branches
    assert isinstance(branches.create, Created)
    assert branches.create.for_pull_request == FromPullRequests(accept_fork=False)


def test_bamboo_archives_results_logs_and_the_release_and_no_secret() -> None:
    artifacts = [f"{artifact.location}/{artifact.pattern}" for job in read_specs(SPECS)[1].values() for artifact in job.artifacts]
    assert artifacts == [".pipeline/release.json", ".pipeline/logs/**", ".pipeline/itest/**"]
    assert not [path for path in SECRET if any(fnmatch(path, pattern) for pattern in artifacts)]


def test_the_specs_have_few_places_to_change_for_another_repository() -> None:
    """`invoke init` replaces the project's key and the plan's name."""
    document = yaml.safe_load(SPECS)
    assert (document["plan"]["project-key"], document["plan"]["name"]) == ("PIPE", "Images and integration tests")
    assert SPECS.count("PIPE\n") == SPECS.count("  name: ") == 1


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("jobs: [Test]", "jobs: [Tests]", "a stage names the job 'Tests', which is not defined"),
        ("final-tasks:", "finally:", "job Test: Object contains unknown field `finally`"),
        ("version: 2", "version: 1", "Invalid enum value 1 - at `\\$.version`"),
        ("key: ITEST", "key: BUILD", "two jobs have the key BUILD"),
        ("project-key: PIPE", "project-key: pipe", "matching regex .* at `\\$.plan.project-key`"),
        ("type: junit", "type: xunit", "job Test: Invalid enum value 'xunit'"),
        ("- script: ['./invokew stop-oracle']", "- shell: ['./invokew stop-oracle']", "job Test: there is no task 'shell'"),
        ("  tasks:\n", "  steps:\n", "job Build and push: Object contains unknown field `steps`"),
        ("create: for-new-branch", "create: for-every-branch", "at `\\$.branches.create`"),
        ("after-deleted-days: 7", "after-deleted-days: 0", "at `\\$.branches.delete"),
        ("branches:\n", "branch:\n", "job branch: Object contains unknown field"),
        ("pattern: release.json, ", "", "missing required field `pattern`"),
        ("stages:\n", "variables: {registry_password: hunter2}\nstages:\n", "holds a password in the clear"),
        ("requirements: [", "requirements: [[", "no YAML"),
        ("\nbranches:", "\n---\nbranches:", "2 documents"),
    ],
)
def test_broken_specs_are_refused_with_why(old: str, new: str, why: str) -> None:
    assert old in SPECS
    with pytest.raises(InvalidSpecsError, match=why):
        read_specs(SPECS.replace(old, new, 1))
