"""What a person has to do or to know after `invoke init`, found in the files as they are now."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pipeline.config import CONFIG_FILE, read_config
from pipeline.scaffold.files import CI_FILES, Template
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
        yield (
            f"{' and '.join(CI_FILES)} are read at the top of a Git repository, and this is {facts.below}/ in it: they were not written. "
            f"Commands there: ./{facts.below}/invokew; files: {facts.below}/.pipeline/"
        )
    if (root / ".venv").is_dir() and not (root / ".venv/requirements.lock").is_file():
        yield ".venv belongs to ./invokew from now on, which makes it anew on its first run"
    if not facts.has_git:
        yield "this is no Git repository yet, and images are named after commits: git init"
