"""What `invoke init` finds out about a repository, and what it has to be told."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.errors import ConfigurationError
from pipeline.reference import parse_reference
from pipeline.scaffold.maven import Maven, War

DOCKERFILE = "Dockerfile"
APPLICATION_FILE = "image.yaml"
PARENT_HINT = (
    "Name an image of another repository's release, NAMESPACE/IMAGE[@BRANCH], such as --parent base-images/tomcat; or any image "
    "with its tag, such as --parent docker.io/library/tomcat:10.1-jre21"
)


@dataclass(frozen=True)
class Asked:
    """What the command line says; empty where it says nothing."""

    registry: str = ""
    namespace: str = ""
    parent: str = ""
    toolkit: str = ""


@dataclass(frozen=True)
class Facts:
    """What the repository and its surroundings say."""

    root: Path
    maven: Maven | None
    remote: str  # where the repository comes from; empty where that is not known
    registries: tuple[str, ...]  # those that Docker has a login for, without Docker Hub
    environment: Mapping[str, str]
    requirement: str  # what installs the toolkit that runs; empty where no other machine could install that
    configured: tuple[str, str] | None  # registry and namespace, as an existing pipeline.yaml says
    has_git: bool
    below: str  # where in its Git repository it is; empty at the top
    written: frozenset[str] = frozenset()  # the files that an earlier init has written


@dataclass(frozen=True)
class Application:
    """One image: `folder` holds its image.yaml and Dockerfile. `war`: empty where the Dockerfile is there already."""

    folder: str
    name: str
    war: str
    parent: str  # as it is written in image.yaml; empty where that is there already


@dataclass(frozen=True)
class Answers:
    """Everything the files are made from."""

    registry: str
    namespace: str
    applications: tuple[Application, ...]
    engine: str
    maven: str  # the command that builds and tests; empty where there is no pom.xml
    makes_wars: bool  # with which it has to be called before the images are built
    requirement: str
    below: str = ""  # where in its Git repository all of this is; empty at the top


def find_answers(facts: Facts, asked: Asked) -> Answers:
    """What was found out. Raises ConfigurationError for what has to be told, with the option that tells it."""
    applications = tuple(_applications(facts, asked))
    maven = facts.maven
    registry, namespace = facts.configured or (_registry(facts, asked), _namespace(facts, asked, applications))
    return Answers(
        registry=registry,
        namespace=namespace,
        applications=applications,
        engine=maven.engine if maven else "",
        maven=("./mvnw" if (facts.root / "mvnw").is_file() else "mvn") if maven else "",
        makes_wars=bool(maven and maven.wars),
        requirement=_requirement(facts, asked),
        below=facts.below,
    )


def _applications(facts: Facts, asked: Asked) -> list[Application]:
    root = facts.root
    wars: tuple[War, ...] = facts.maven.wars if facts.maven else ()
    if not wars and not (root / DOCKERFILE).is_file():
        if facts.configured:
            return []  # a repository of shared images
        what = "no module of pom.xml has the packaging war" if facts.maven else "there is neither a pom.xml"
        raise ConfigurationError(
            f"{root}: {what}{', and no' if facts.maven else ' nor a'} {DOCKERFILE}",
            f"Go to the folder of the application's POM, or write its {DOCKERFILE} first.",
        )
    if not wars:
        wars = (War(".", facts.maven.artifact if facts.maven else root.name, ""),)
    found = []
    for war in wars:
        folder = root / war.folder
        definition = (Path(war.folder) / APPLICATION_FILE).as_posix()
        if definition in facts.written and not (root / definition).is_file():
            continue  # the team removed it: this module has no image
        parent = "" if (root / definition).is_file() else _parent(folder, asked)
        found.append(
            Application(war.folder, _plain(war.name) or "application", "" if (folder / DOCKERFILE).is_file() else war.file, parent)
        )
    return found


def _parent(folder: Path, asked: Asked) -> str:
    if not asked.parent:
        base = _written_base(folder / DOCKERFILE)
        if base:
            return f"from: {yaml_text(base)}"
        raise ConfigurationError(f"nothing says what the image of {folder} is built on", PARENT_HINT)
    place, _, track = asked.parent.partition("@")
    namespace, _, image = place.rpartition("/")
    if ":" in image or track.startswith("sha256:"):
        try:
            parse_reference(asked.parent)
        except ConfigurationError as error:
            raise ConfigurationError(f"--parent: {error.message}", PARENT_HINT) from None
        return f"from: {yaml_text(asked.parent)}"
    if not namespace:
        raise ConfigurationError(f"--parent: '{asked.parent}' names no namespace", PARENT_HINT)
    written = ", ".join(
        f"{key}: {yaml_text(value)}" for key, value in (("release", namespace), ("image", image), ("track", track or "main"))
    )
    return f"parent: {{{written}}}"


def _written_base(dockerfile: Path) -> str:
    """What the last stage of an existing Dockerfile begins with, through the stages below it; empty where only a build knows that."""
    if not dockerfile.is_file():
        return ""
    text = re.sub(r"[\\`][ \t]*\r?\n", " ", dockerfile.read_text(encoding="utf-8-sig", errors="replace"))
    defaults: dict[str, str] = {}
    stages: dict[str, str] = {}
    base = ""

    def value(found: re.Match[str]) -> str:
        return defaults.get(found[1] or found[3], found[2] or found[0])

    for line in text.splitlines():
        if not stages and not base and (argument := _ARG.match(line)):
            defaults[argument[1]] = argument[2].strip("\"'")
        elif begun := _FROM.match(line):
            named = _VARIABLE.sub(value, begun[1])
            base = stages.get(named.lower(), named)
            stages[(begun[2] or str(len(stages))).lower()] = base
    return "" if "$" in base else base


def _registry(facts: Facts, asked: Asked) -> str:
    said = asked.registry or facts.environment.get("PIPELINE_REGISTRY", "")
    if said or len(facts.registries) == 1:
        return said or facts.registries[0]
    logins = f" Docker has a login for {', '.join(facts.registries)}." if facts.registries else ""
    raise ConfigurationError(
        "nothing says where the images are pushed", f"Name the registry: --registry HOST[:PORT][/PREFIX], such as 127.0.0.1:5000.{logins}"
    )


def _namespace(facts: Facts, asked: Asked, applications: tuple[Application, ...]) -> str:
    """A repository's own: its releases are kept there. Where it comes from is the name that nobody else has."""
    said = asked.namespace or facts.environment.get("PIPELINE_NAMESPACE", "")
    if said:
        return said
    path = re.sub(r"^(\w+://[^/]*/|[^/:]*:|/.*/(?=[^/]*/?$))", "", facts.remote).strip("/").removesuffix(".git")
    parts = [plain for part in path.split("/") if (plain := _plain(part))]
    below = _plain(Path(facts.below).name)  # another project of the same repository has releases of its own
    return (
        "/".join([*parts[-2:], *filter(None, [below])])
        or (_plain(facts.maven.artifact) if facts.maven else "")
        or next((found.name for found in applications), "application")
    )


def _requirement(facts: Facts, asked: Asked) -> str:
    if (facts.root / REQUIREMENT_FILE).is_file() and not asked.toolkit:
        return ""
    said = asked.toolkit or facts.requirement
    if not said:
        raise ConfigurationError(
            "this toolkit was installed from a file or folder of this machine, where no other machine finds it",
            "Say what installs it: --toolkit REQUIREMENT, which is a wheel in this repository (tools/pipeline-1.0-py3-none-any.whl), "
            "a Git URL (pipeline @ git+https://…@v1.0), or a version that your own package index has (pipeline==1.0)",
        )
    wheel = Path(said)
    if wheel.suffix != ".whl" or "://" in said:
        return said
    inside = (facts.root / wheel).resolve()
    if not inside.is_file() or not inside.is_relative_to(facts.root.resolve()):
        raise ConfigurationError(f"--toolkit: there is no {said} in this repository", "Copy the wheel into it, and commit it.")
    return f"./{inside.relative_to(facts.root.resolve()).as_posix()}"


def _plain(name: str) -> str:
    """A component of a repository's path."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def yaml_text(text: str) -> str:
    """As a YAML value: quoted where it would be read as something else, within brackets, too."""
    try:
        return text if yaml.safe_load(f"[{text}]") == [text] else json.dumps(text)
    except yaml.YAMLError:
        return json.dumps(text)


REQUIREMENT_FILE = "requirements-pipeline.txt"
_ARG = re.compile(r"(?i)\s*ARG\s+(\w+)=(\S+)\s*$")
_FROM = re.compile(r"(?i)\s*FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?\s*$")
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::?-([^}]*))?\}|(\w+))")
