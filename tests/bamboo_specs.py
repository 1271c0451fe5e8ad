"""The structure of a Bamboo Specs file in YAML, as far as this project writes it, and its check.

Source: Atlassian, "Bamboo Specs Reference", YAML, version 10.0.2 (docs.atlassian.com/bamboo-specs-docs/10.0.2/specs.html?yaml):
its sections Plan, Stage, Job, Tasks, Conditional tasks, Requirements, Artifacts, Variables, Triggers, Plan branches. What Bamboo
knows beyond that is refused here, too: whoever uses it adds it, with its section.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta, Struct

Key = Annotated[str, Meta(pattern="^[A-Z][A-Z0-9]*$")]
Text = Annotated[str, Meta(min_length=1)]
Days = Annotated[int, Meta(ge=1)]


class _Strict(Struct, forbid_unknown_fields=True, rename="kebab"):
    """Nothing but the fields it has, whose names are written with hyphens."""


class Plan(_Strict):
    project_key: Key
    key: Key
    name: Text
    description: str = ""


class Stage(_Strict):
    jobs: Annotated[list[Text], Meta(min_length=1)]
    manual: bool = False
    final: bool = False


class Script(_Strict):
    scripts: Annotated[list[Text], Meta(min_length=1)]
    interpreter: str = "SHELL"
    argument: str = ""
    environment: str = ""
    working_dir: str = ""
    description: str = ""


class Checkout(_Strict):
    repository: str = ""
    path: str = ""
    force_clean_build: bool = False
    description: str = ""


class TestParser(_Strict):
    __test__ = False  # its name looks like a test class to pytest
    type: Literal["junit", "testng", "nunit", "mocha", "mstest"]
    test_results: str | list[str] = ""
    ignore_time: bool = False
    description: str = ""


class Artifact(_Strict):
    name: Text
    pattern: Text
    location: str = ""
    shared: bool = True
    required: bool = False


class Job(_Strict):
    tasks: Annotated[list[str | dict[str, Any]], Meta(min_length=1)]
    key: Key = "JOB1"
    description: str = ""
    final_tasks: list[str | dict[str, Any]] = []
    requirements: list[str | dict[str, str]] = []
    artifacts: list[Artifact] = []


class FromPullRequests(_Strict):
    accept_fork: bool


class Created(_Strict):
    for_new_branch: str = ""
    for_pull_request: FromPullRequests | None = None


class Deleted(_Strict):
    after_deleted_days: Days | Literal["never"] = 1
    after_inactive_days: Days | Literal["never"] = "never"


class Branches(_Strict):
    create: Literal["manually", "for-new-branch", "for-pull-request"] | Created = "for-new-branch"
    delete: Literal["never"] | Deleted = msgspec.field(default_factory=Deleted)
    link_to_jira: bool = True


class Root(Struct, rename="kebab", frozen=True):
    """Everything else at the root is a job, by its name."""

    version: Literal[2]
    plan: Plan
    stages: Annotated[list[dict[str, list[Text] | Stage]], Meta(min_length=1)]
    branches: Branches = msgspec.field(default_factory=Branches)
    variables: dict[str, str | int | bool] = {}
    triggers: list[str | dict[str, Any]] = []


TASKS: dict[str, Any] = {"script": str | list[Text] | Script, "checkout": str | Checkout, "test-parser": str | TestParser, "clean": None}


class InvalidSpecsError(Exception):
    """The file is none that Bamboo would take; why, and where in it."""


def read_specs(text: str) -> tuple[Root, dict[str, Job]]:
    """The plan of a specs file and its jobs by name. Raises InvalidSpecsError."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise InvalidSpecsError(f"no YAML: {error}") from error
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise InvalidSpecsError(f"{len(documents)} documents, where one plan was expected")
    document = documents[0]
    try:
        root = msgspec.convert(document, Root)
    except msgspec.ValidationError as error:
        raise InvalidSpecsError(str(error)) from error
    jobs = {str(name): _read_job(str(name), value) for name, value in document.items() if name not in _names(Root)}
    _check_stages(root, jobs)
    _check_variables(root)
    return root, jobs


def stage_jobs(root: Root) -> list[tuple[str, list[str]]]:
    """Each stage with the names of its jobs, in order."""
    return [
        (name, content.jobs if isinstance(content, Stage) else list(content)) for stage in root.stages for name, content in stage.items()
    ]


def task_kind(task: str | dict[str, Any]) -> tuple[str, Any]:
    """The kind of a task and its settings."""
    return (task, None) if isinstance(task, str) else next(iter(task.items()))


def _read_job(name: str, value: Any) -> Job:
    try:
        job = msgspec.convert(value, Job)
        for task in [*job.tasks, *job.final_tasks]:
            kind, settings = task_kind(task)
            if isinstance(task, dict) and len(task) != 1:
                raise InvalidSpecsError(f"job {name}: a task has one kind, and not {', '.join(task)}")
            if kind not in TASKS:
                raise InvalidSpecsError(f"job {name}: there is no task '{kind}'")
            if settings is not None:
                msgspec.convert(settings, TASKS[kind])
    except msgspec.ValidationError as error:
        raise InvalidSpecsError(f"job {name}: {error}") from error
    return job


def _check_stages(root: Root, jobs: dict[str, Job]) -> None:
    used = [job for _, names in stage_jobs(root) for job in names]
    for stage in root.stages:
        if len(stage) != 1:
            raise InvalidSpecsError(f"a stage has one name, and not {', '.join(stage)}")
    for name in used:
        if name not in jobs:
            raise InvalidSpecsError(f"a stage names the job '{name}', which is not defined")
    for name in jobs:
        if name not in used:
            raise InvalidSpecsError(f"'{name}' is neither a setting of a plan nor a job of a stage")
    keys = [job.key for job in jobs.values()]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise InvalidSpecsError(f"two jobs have the key {', '.join(twice)}")


def _check_variables(root: Root) -> None:
    for name, value in root.variables.items():
        if re.search("password|secret|passphrase", name, re.IGNORECASE) and not str(value).startswith("BAMSCRT@"):
            raise InvalidSpecsError(f"the variable '{name}' holds a password in the clear; Bamboo imports it encrypted only")


def _names(structure: type[Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(structure)}
