"""Where the files are that travel with the toolkit: in the wheel below pipeline/shipped/, in a checkout where they are kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pipeline

IMAGES = ("ubuntu", "registry", "oracle-standin", "postgres")  # definitions for services of every repository, parents first
NEVER = "__pycache__"


def shipped_folder() -> Path:
    """The folder that the paths of shipped files are relative to: `images/registry.yaml`, `invokew` and so on."""
    package = Path(pipeline.__file__).resolve().parent
    installed = package / "shipped"
    return installed if installed.is_dir() else package.parent


def shipped_definitions() -> tuple[str, ...]:
    """The files of the shipped images, relative to `shipped_folder()`: definitions, Dockerfiles and what those read."""
    folder = shipped_folder()
    found = [folder / "images" / f"{name}.yaml" for name in IMAGES]
    for name in IMAGES:
        found += sorted(path for path in (folder / "dockerfiles" / name).rglob("*") if path.is_file() and NEVER not in path.parts)
    return tuple(path.relative_to(folder).as_posix() for path in found)


def shipped_version() -> str:
    """What the shipped definitions are, as 40 hexadecimal digits: the same wherever the toolkit is installed."""
    folder, found = shipped_folder(), hashlib.sha256()
    for path in shipped_definitions():
        content = (folder / path).read_bytes()
        found.update(f"{path}\0{is_executable(folder / path)}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:40]


def is_executable(path: Path) -> bool:
    """Whether its owner may execute it: the one permission that Git, wheels and build contexts keep."""
    return bool(path.stat().st_mode & 0o100)
