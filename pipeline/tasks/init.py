"""invoke init: an application's repository gets what it needs, and later what a newer version of the toolkit brings."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.context import Context

from pipeline.tasks.command import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.scaffold.files import Template
    from pipeline.scaffold.plan import Step
    from pipeline.scaffold.repository import Facts


@command(
    help={
        "registry": "Where images are pushed: HOST[:PORT][/PREFIX]. Default: PIPELINE_REGISTRY, or the one that Docker has a login for.",
        "namespace": "The path of this repository's images and releases there. Default: PIPELINE_NAMESPACE, or from the remote `origin`.",
        "parent": "What the image is built on: NAMESPACE/IMAGE[@BRANCH] of another repository's release, or an image with its tag.",
        "toolkit": "What installs the toolkit: a wheel in this repository, a Git URL, or pipeline==VERSION. Default: what runs now.",
        "upgrade": "Take over what this version of the toolkit writes otherwise; what you edited is merged or left.",
        "yes": "Overwrite without asking; the differences are shown all the same.",
    }
)
def init(
    _context: Context,
    registry: str = "",
    namespace: str = "",
    parent: str = "",
    toolkit: str = "",
    upgrade: bool = False,
    yes: bool = False,
) -> None:
    """Write what an application's repository needs.

    Example: python -m pipeline init --parent base-images/tomcat
    """
    from pipeline.adapters.git_repository import merge_texts
    from pipeline.scaffold.files import make_files, replace_toolkit
    from pipeline.scaffold.notes import find_notes
    from pipeline.scaffold.plan import RECORD_FILE, plan_init, read_record, write_record
    from pipeline.scaffold.repository import REQUIREMENT_FILE, Asked, find_answers

    root = _find_root()
    record, written = read_record(root), 0
    facts = _read_facts(root, frozenset(record.files))
    answers = find_answers(facts, Asked(registry, namespace, parent, toolkit))
    templates = make_files(answers)
    if toolkit and (root / REQUIREMENT_FILE).is_file():
        text = replace_toolkit((root / REQUIREMENT_FILE).read_text(encoding="utf-8"), answers.requirement)
        templates = tuple(replace(made, text=text) if made.path == REQUIREMENT_FILE else made for made in templates)
    if not facts.configured:
        _check_files(root, templates)
    for step in plan_init(root, templates, record, merge_texts, upgrade, [REQUIREMENT_FILE] if toolkit else []):
        done = _do(root, step, yes)
        written += done
        if done or step.settled or (yes and step.shown):
            record = record.noting(step.template)
    write_record(root, record)
    print(f"{written} files written; {RECORD_FILE} says which" if written else "nothing was written")
    for note in find_notes(facts, templates):
        print(f"note: {note}")


def _check_files(root: Path, templates: Sequence[Template]) -> None:
    """Read what is about to be written as every command will: a mistake in an answer is told before there is any file."""
    from tempfile import TemporaryDirectory

    from pipeline.config import read_config
    from pipeline.errors import ConfigurationError
    from pipeline.images.hierarchy import read_hierarchy
    from pipeline.scaffold.repository import APPLICATION_FILE, DOCKERFILE

    with TemporaryDirectory() as folder:
        for template in (made for made in templates if Path(made.path).name != DOCKERFILE):
            path = Path(folder) / template.path
            path.parent.mkdir(parents=True, exist_ok=True)
            there = root / template.path
            path.write_bytes(there.read_bytes() if template.owned and there.is_file() else template.text.encode())
            if path.name == APPLICATION_FILE:  # what is wrong with a Dockerfile that was there is told in the end
                (path.parent / DOCKERFILE).write_text("ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n", encoding="utf-8")
        try:
            read_hierarchy(read_config(Path(folder)))
        except ConfigurationError as error:
            raise ConfigurationError(
                f"nothing was written, for it would be wrong: {error.message}", f"{error.hint} See: --registry, --namespace, --parent"
            ) from None


def _do(root: Path, step: Step, yes: bool) -> bool:
    """Carry a step out, after asking where it is to be asked; whether it was done."""
    from pipeline.scaffold.plan import carry_out

    path = step.template.path
    if step.action == "same":
        return False
    if step.action == "keep":
        print(f"kept      {path}: {step.note}")
        print(step.shown + ("noted, and not shown again\n" if step.shown and yes else ""), end="")
        return False
    if step.current is not None:
        print(step.diff, end="")
    if step.action == "ask" and not yes and not _confirm(f"{path}: {step.note}. Write it as shown?"):
        print(f"kept      {path}: {step.note}; --yes writes it as shown")
        return False
    carry_out(root, step)
    print(f"{'wrote' if step.current is None else 'changed':9} {path}" + (f": {step.note}" if step.note else ""))
    return True


def _confirm(question: str) -> bool:
    """Only a person at a terminal can say yes."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _find_root() -> Path:
    """The project around the current folder; where there is none yet, this folder becomes one."""
    from pipeline.config import find_root
    from pipeline.errors import ConfigurationError

    try:
        return find_root(Path.cwd())
    except ConfigurationError:
        return Path.cwd()


def _read_facts(root: Path, written: frozenset[str]) -> Facts:
    from pipeline.adapters.git_repository import find_top, source_url
    from pipeline.config import CONFIG_FILE, read_config
    from pipeline.scaffold.maven import read_maven
    from pipeline.scaffold.repository import Facts

    config = read_config(root) if (root / CONFIG_FILE).is_file() else None
    top = find_top(root)
    return Facts(
        root=root,
        maven=read_maven(root),
        remote=source_url(root) if top else "",
        below=root.relative_to(top).as_posix() if top and top != root else "",
        has_git=top is not None,
        registries=_registries(),
        environment=os.environ,
        requirement=running_toolkit(root),
        configured=(config.registry, config.namespace) if config else None,
        written=written,
    )


def _registries() -> tuple[str, ...]:
    """Those that Docker has a login for, without Docker Hub."""
    from pipeline.adapters.docker_context import read_docker_config

    config = read_docker_config()
    known = {*(config.get("auths") or {}), *(config.get("credHelpers") or {})}
    hosts = {name.partition("://")[2].partition("/")[0] if "://" in name else name.partition("/")[0] for name in known}
    return tuple(sorted(host for host in hosts if not host.endswith("docker.io")))


def running_toolkit(root: Path) -> str:
    """What installs the toolkit that runs now, as its installation says (PEP 610); empty for a path of this machine."""
    from importlib.metadata import distribution
    from urllib.parse import unquote

    found = distribution("pipeline")
    text = found.read_text("direct_url.json")
    if not text:
        return f"pipeline=={found.version}"
    origin = json.loads(text)
    url, commit = str(origin["url"]), origin.get("vcs_info", {}).get("commit_id", "")
    if url.startswith("file://"):
        path = Path(unquote(url.removeprefix("file://")))
        return str(path.relative_to(root)) if path.suffix == ".whl" and path.is_relative_to(root) else ""
    return f"pipeline @ git+{url}@{commit}" if commit else f"pipeline @ {url}"
