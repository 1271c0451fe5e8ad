"""What a person has to do or to know after `invoke init`, found in the files as they are now."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.config import CONFIG_FILE, read_config
from pipeline.scaffold.files import BAMBOO, JENKINS, Template, enter
from pipeline.scaffold.repository import APPLICATION_FILE, DOCKERFILE, Facts


def find_notes(facts: Facts, templates: Sequence[Template]) -> Iterator[str]:
    """One line each."""
    root = facts.root
    config = read_config(root)
    known = {path for pattern in config.images for path in root.glob(pattern)}
    for template in templates:
        folder = (root / template.path).parent
        if template.path.endswith(APPLICATION_FILE) and (root / template.path).is_file() and root / template.path not in known:
            yield f"{template.path} is none of the files that `images:` in {CONFIG_FILE} names: add it there"
        if template.path.endswith(APPLICATION_FILE) and (folder / DOCKERFILE).is_file():
            text = (folder / DOCKERFILE).read_text(encoding="utf-8", errors="replace")
            where = (folder / DOCKERFILE).relative_to(root)
            if not re.search(r"(?im)^\s*ARG\s+BASE_IMAGE\b", text):
                yield f"{where} has to take its base from image.yaml: `ARG BASE_IMAGE`, then `FROM ${{BASE_IMAGE}}` as its last FROM"
            ignored = folder / ".dockerignore"
            lines = ignored.read_text(encoding="utf-8", errors="replace").split() if ignored.is_file() else []
            if (
                "target/" in text
                and {"target", "target/", "**/target", "/target", "*"} & set(lines)
                and not any(line.startswith("!target") for line in lines)
            ):
                yield f"{ignored.relative_to(root)} leaves out target/, from where the Dockerfile takes the WAR: add a line such as !target/*.war"
    if facts.maven and facts.maven.wars and not facts.maven.fixed_times:
        yield (
            "without the property project.build.outputTimestamp in pom.xml every build of a commit makes another WAR, and so another image: "
            "<project.build.outputTimestamp>2000-01-01T00:00:00Z</project.build.outputTimestamp>"
        )
    if facts.below:
        yield from _of_servers(facts.root, facts.below)
    if (root / ".venv").is_dir() and not (root / ".venv/requirements.lock").is_file():
        yield ".venv belongs to ./invokew from now on, which makes it anew on its first run"
    if not facts.has_git:
        yield "this is no Git repository yet, and images are named after commits: git init"


def _of_servers(root: Path, below: str) -> Iterator[str]:
    """What their files need where the project is not at the top of its repository, as far as that can be seen to be missing."""
    if (root / JENKINS).is_file():
        yield f"this is {below}/ of its Git repository. Jenkins: its multibranch pipeline has the Script Path {below}/{JENKINS}"
    at_top = root.parents[len(Path(below).parts) - 1] / BAMBOO
    said = at_top.read_text(encoding="utf-8", errors="replace") if at_top.is_file() else ""
    if (root / BAMBOO).is_file() and f"{enter(below)} && " not in said:
        place = f"{'' if said else 'mkdir -p bamboo-specs && '}cat {shlex.quote(f'{below}/{BAMBOO}')} >>{BAMBOO}"
        yield f"Bamboo reads {BAMBOO} at the top of the repository only, where each plan is a document of its own. There: {place}"
