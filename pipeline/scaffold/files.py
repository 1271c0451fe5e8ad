"""The files that `invoke init` writes, as text. What this repository has itself is taken from there, with the names replaced."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field

from pipeline.scaffold.repository import APPLICATION_FILE, DOCKERFILE, REQUIREMENT_FILE, Answers, Application, yaml_text
from pipeline.scaffold.shipped import shipped_folder

TASKS = '"""The tasks of this repository."""\n\nfrom pipeline.tasks import namespace\n\n__all__ = ["namespace"]\n'
GIT_IGNORED = ("/.venv/", "/.venv.lock", ".pipeline/", "__pycache__/")
DOCKER_IGNORED = (".git", ".venv", ".pipeline", "**/__pycache__")
TEST_REPORTS = '["**/target/surefire-reports/*.xml", "**/target/failsafe-reports/*.xml"]'


@dataclass(frozen=True)
class Template:
    """One file. `owned`: it is the team's from the moment it is written, and no upgrade touches it.

    `lines`: instead of a whole file, lines that it must have.
    """

    path: str
    text: str = ""
    owned: bool = False
    executable: bool = False
    lines: tuple[str, ...] = field(default=())


def make_files(answers: Answers) -> tuple[Template, ...]:
    """All files of an application's repository."""
    ci = [Template(path, fit_ci(path, answers)) for path in CI_FILES]
    images = [template for application in answers.applications for template in _image(application)]
    return (
        Template("pipeline.yaml", _configuration(answers), owned=True),
        *images,
        Template(REQUIREMENT_FILE, _requirement(answers), owned=True),
        Template("tasks.py", TASKS),
        Template("invokew", read_shipped("invokew"), executable=True),
        *ci,
        Template(".gitignore", lines=GIT_IGNORED),
    )


JENKINS = "Jenkinsfile"
BAMBOO = "bamboo-specs/bamboo.yaml"
CI_FILES = (JENKINS, BAMBOO)


def read_shipped(path: str) -> str:
    return (shipped_folder() / path).read_text(encoding="utf-8")


def fit_ci(path: str, answers: Answers) -> str:
    """A build server's file of the toolkit, for another repository: with its names, and Maven before each build of the images."""
    text = read_shipped(path)
    if answers.makes_wars:
        text = re.sub(r"(?<=')\./invokew (?=build\b)", f"{answers.maven} --batch-mode clean package && ./invokew ", text)
    team, _, name = answers.namespace.rpartition("/")
    if name and path.endswith(".yaml"):
        for key, value in (("project-key", bamboo_key(team or name)), ("key", bamboo_key(name) if team else ""), ("name", yaml_text(name))):
            if value:
                text = re.sub(rf"(?m)^(  {key}: ).*$", rf"\g<1>{value}", text, count=1)
    return _move_below(path, text, answers.below) if answers.below else text


def _move_below(path: str, text: str, folder: str) -> str:
    """For a project in a folder of its repository: servers begin at the top, so each command goes there first, as do the results' paths."""
    text = re.sub(r"(?m)^(?!.*(?:\bsh '|script: \[')).*$", lambda line: re.sub(r"(?<![\w/])(?=\.pipeline\b)", f"{folder}/", line[0]), text)
    text = re.sub(r"(?<=\bsh ')|(?<=script: \[')", f"{enter(folder)} && ", text)
    if path == BAMBOO:
        head = f"# Of {folder}/. Bamboo reads {path} at the top of the repository only: there, this is one of its documents."
        return text.replace("---\n", f"---\n{head}\n", 1)
    return f"// Of {folder}/: the Script Path of its multibranch pipeline is {folder}/{path}.\n{text}"


def enter(folder: str) -> str:
    """The command that goes there, as it may stand between single quotes."""
    return f"cd {folder}" if re.fullmatch(r"[\w./+@%-]+", folder) else f'cd "{folder}"'


def bamboo_key(name: str) -> str:
    """Of a project or a plan: 2 to 10 capital letters and digits; of a longer name with a hash, so that two names stay two keys."""
    key = re.sub(r"[^A-Z0-9]", "", name.upper())
    key = key if key[:1].isalpha() else f"P{key}"
    if len(key) > KEY:
        key = key[: KEY - 4] + hashlib.sha256(name.encode()).hexdigest()[:4].upper()
    return key.ljust(2, "X")


KEY = 10


def replace_toolkit(requirements: str, requirement: str) -> str:
    """A team's requirements with another toolkit; what they name besides, such as a package of shared settings, stays."""
    lines = requirements.splitlines()
    old = [number for number, line in enumerate(lines) if _TOOLKIT.match(line)]
    lines[old[0] if old else len(lines) : (old[0] + 1) if old else len(lines)] = [requirement]
    return "\n".join(lines) + "\n"


_TOOLKIT = re.compile(r"pipeline\s*(?:$|[=<>!~@\[;])|\S*/pipeline-\d[^/]*\.whl|pipeline-\d[^/]*\.whl")


def _configuration(answers: Answers) -> str:
    files = [f"{'' if application.folder == '.' else application.folder + '/'}{APPLICATION_FILE}" for application in answers.applications]
    database = ["  engine: postgres", "  contract: postgres", "  image: postgres"] if answers.engine == "postgres" else []
    run = [answers.maven, "--batch-mode", "verify"] if answers.maven else ["./run-tests"]
    lines = [
        f"registry: {yaml_text(answers.registry)}",
        f"namespace: {yaml_text(answers.namespace)}",
        f"images: [{', '.join(map(yaml_text, files))}]",
        "itest:  # `prepare: [{sql: FOLDER}]` is what the tests expect in the fresh database",
        *database,
        f"  run: [{', '.join(run)}]",
        *([f"  junit: {TEST_REPORTS}"] if answers.maven else []),
    ]
    return "\n".join(lines) + "\n"


def _image(application: Application) -> list[Template]:
    folder = "" if application.folder == "." else f"{application.folder}/"
    definition = f"name: {yaml_text(application.name)}\n{application.parent}\n"
    place = "${CATALINA_HOME}" if application.parent.startswith("from:") else "/opt/tomcat"  # as Docker's own Tomcat has it, and as ours
    paths = [application.war, f"{place}/webapps/{application.name}.war"]
    copy = json.dumps(paths) if " " in application.war else " ".join(paths)
    dockerfile = f"ARG BASE_IMAGE\nFROM ${{BASE_IMAGE}}\nCOPY {copy}\n"
    return [
        Template(f"{folder}{APPLICATION_FILE}", definition, owned=True),
        *([Template(f"{folder}{DOCKERFILE}", dockerfile, owned=True)] if application.war else []),
        Template(f"{folder}.dockerignore", lines=DOCKER_IGNORED),
    ]


def _requirement(answers: Answers) -> str:
    return f"{answers.requirement}\n"
