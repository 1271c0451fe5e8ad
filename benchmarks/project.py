"""A Git repository of linked images to measure on, the same in each run, with a bake file for the same build contexts."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILES = 20  # in each build context, unless another number is given
FILE_SIZE = 4096  # bytes, of each
BRANCHES = 3  # images that are built on one image, in a hierarchy that is no chain
TASKS = "from pipeline.tasks import namespace\n"
BAKE_FILE = "docker-bake.hcl"


@dataclass(frozen=True)
class Project:
    """A committed repository. `images`: name → parent, "" for the root."""

    root: Path
    images: Mapping[str, str]


def make_chain(count: int) -> dict[str, str]:
    """Each image on the one before."""
    return {_name(number): _name(number - 1) if number else "" for number in range(count)}


def make_tree(count: int) -> dict[str, str]:
    """Three images on each image."""
    return {_name(number): _name((number - 1) // BRANCHES) if number else "" for number in range(count)}


def make_project(root: Path, images: Mapping[str, str], base: str, registry: str, namespace: str, files: int = FILES) -> Project:
    """Write and commit everything. The files' content is random, but the same each time."""
    _write(root / "pipeline.yaml", f"registry: {registry}\nnamespace: {namespace}\n")
    _write(root / "tasks.py", TASKS)
    _write(root / ".gitignore", ".pipeline/\n__pycache__/\n")
    for name, parent in images.items():
        _write(root / "images" / f"{name}.yaml", f"parent: {parent}\n" if parent else f"from: {base}\n")
        _write_context(root / "dockerfiles" / name, name, files)
    _write(root / BAKE_FILE, _bake_file(images, base, f"{registry}/{namespace}-bake"))
    commit(root)
    return Project(root, images)


def commit(root: Path) -> None:
    identity = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@example.com"]
    for arguments in (["init", "-q", "-b", "main"], ["add", "--all"], [*identity, "commit", "-q", "-m", "begin"]):
        subprocess.run(["git", *arguments], cwd=root, check=True)


def _name(number: int) -> str:
    return f"image-{number:02}"


def _write_context(folder: Path, name: str, files: int) -> None:
    source = random.Random(name)
    _write(folder / "Dockerfile", f"ARG BASE_IMAGE\nFROM ${{BASE_IMAGE}}\nCOPY files /{name}\n")
    for number in range(files):
        path = folder / "files" / f"folder-{number % 4}" / f"file-{number:02}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.randbytes(FILE_SIZE))


def _bake_file(images: Mapping[str, str], base: str, prefix: str) -> str:
    """Linked the documented way: the parent is a named context `target:PARENT` (docs.docker.com, Bake, "Using a target as a
    build context")."""
    quoted = ", ".join(f'"{name}"' for name in images)
    lines = [f'group "default" {{\n  targets = [{quoted}]\n}}']
    for name, parent in images.items():
        body = [f'context = "dockerfiles/{name}"', f'tags = ["{prefix}/{name}:main"]']
        if parent:
            body += ['args = { BASE_IMAGE = "parent" }', f'contexts = {{ parent = "target:{parent}" }}']
        else:
            body.append(f'args = {{ BASE_IMAGE = "{base}" }}')
        lines.append(f'target "{name}" {{\n' + "".join(f"  {line}\n" for line in body) + "}")
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
