"""The toolkit's own service images, where an application names one that it does not define: built on this engine, never published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from pipeline.config import CONFIG_FILE, Config, Secret, read_config
from pipeline.reference import Reference
from pipeline.revision import GitFacts, Revision
from pipeline.scaffold.shipped import is_executable, shipped_definitions, shipped_folder, shipped_version
from pipeline.state_files import write_whole
from pipeline.tasks.wiring import ImageProject

REGISTRY, NAMESPACE = "pipeline.local", "shipped"  # the repositories of these images: no registry has that name
PIP_INDEX = "pip_index"  # a secret that the stand-in takes where it is there
CONFIGURATION = f"registry: {REGISTRY}\nnamespace: {NAMESPACE}\nsecrets:\n  {PIP_INDEX}: {{env: PIP_INDEX_URL, required: false}}\n"


class ShippedImages(ImageProject):
    """The shipped definitions as a project of their own, laid out below an application's .pipeline/.

    What they are called and labelled is the same in every application and wherever the toolkit is installed.
    """

    unpinned = ""  # nobody here can pin them

    def __init__(self, application: Config, say: Callable[[str], None]) -> None:
        super().__init__(_lay_out(application), say)

    def name_revision(self, facts: GitFacts) -> Revision:
        return Revision(NAMESPACE, facts.commit)

    def _published_contents(self, _contents: Sequence[Reference]) -> dict[str, str]:
        return {}


def _lay_out(application: Config) -> Config:
    """Copy the definitions to where a build may write, and only what differs: other builds may be reading them."""
    source, root = shipped_folder(), application.state / NAMESPACE
    wanted = {path: (source / path).read_bytes() for path in shipped_definitions()}
    wanted |= {CONFIG_FILE: CONFIGURATION.encode(), "REVISION": f"{shipped_version()}\n".encode()}
    for path, content in wanted.items():
        _write(root / path, content, path not in (CONFIG_FILE, "REVISION") and is_executable(source / path))
    for folder in ("images", "dockerfiles"):  # what another version had
        for found in (root / folder).rglob("*"):
            if found.is_file() and found.relative_to(root).as_posix() not in wanted and ".unfinished-" not in found.name:
                found.unlink(missing_ok=True)
    config = msgspec.structs.replace(read_config(root), registry=REGISTRY, namespace=NAMESPACE, pull_from=REGISTRY, project=NAMESPACE)
    return msgspec.structs.replace(config, max_pin_age=0, secrets={**config.secrets, **_secrets(application)})


def _write(path: Path, content: bytes, executable: bool) -> None:
    with suppress(OSError):
        if path.read_bytes() == content and is_executable(path) == executable:
            return
    write_whole(path, content)
    path.chmod(0o755 if executable else 0o644)


def _secrets(application: Config) -> dict[str, Secret]:
    """The application's own of these names: a company's index, its CA. Its paths are relative to its pipeline.yaml."""
    found = {name: secret for name, secret in application.secrets.items() if name in (PIP_INDEX, "ca")}
    return {
        name: msgspec.structs.replace(secret, file=str(application.root / Path(secret.file).expanduser())) if secret.file else secret
        for name, secret in found.items()
    }
