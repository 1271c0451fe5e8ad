"""The images that services of the pipeline run in: this repository's own, or those that travel with the toolkit.

The latter are for an application that names one which it does not define: built on this engine, never published.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from pipeline.config import CONFIG_FILE, Config, Secret, read_config
from pipeline.document import line_of, nearest
from pipeline.errors import ConfigurationError, ImageUnavailableError
from pipeline.images.build import build_images
from pipeline.images.progress import PlainLines
from pipeline.reference import Reference
from pipeline.revision import GitFacts, Revision
from pipeline.scaffold.shipped import IMAGES, is_executable, shipped_definitions, shipped_folder, shipped_version
from pipeline.state_files import write_whole
from pipeline.tasks.wiring import ImageProject

REGISTRY, NAMESPACE = "pipeline.local", "shipped"  # the repositories of these images: no registry has that name
PIP_INDEX = "pip_index"  # a secret that the stand-in takes where it is there
CONFIGURATION = f"registry: {REGISTRY}\nnamespace: {NAMESPACE}\nsecrets:\n  {PIP_INDEX}: {{env: PIP_INDEX_URL, required: false}}\n"


def provide_image(config: Config, image: str, say: Callable[[str], None]) -> str:
    """The image that a service of the pipeline's own runs in: built first where it is an image definition.

    This repository's own definition of that name wins over the one that travels with the toolkit.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", image):
        return image
    with ImageProject(config, say) as project:
        own = project.hierarchy.names if config.defines_images else ()
        if image in own:
            return _provide(project, image)
    if image not in IMAGES:
        place = next((key for key in ("itest", "registry_server") if getattr(config, key).image == image), "")
        where = f"{CONFIG_FILE}:{line_of(config.root / CONFIG_FILE, place, 'image')}: '{place}.image'" if place else "--image"
        raise ConfigurationError(
            f"{where}: there is no image definition '{image}', and none of that name comes with the toolkit",
            f"{nearest(image, {*own, *IMAGES})} Any other image is named with its repository and tag, such as docker.io/{image}:TAG.",
        )
    with ShippedImages(config, say) as shipped:
        return _provide(shipped, image)


def _provide(project: ImageProject, image: str) -> str:
    config, say = project.config, project.say
    plan = project.read_plan([image], remember=True, demanded=[image])
    if plan[image].action == "skip":
        raise ImageUnavailableError(f"the image {image} cannot be had: {plan[image].reasons[0].what}", "Name another one in pipeline.yaml.")
    if any(step.action in ("build", "pull", "tag") for step in plan.steps):
        build_images(plan, lambda: project.workshop(plan), config.state, os.cpu_count() or 1, PlainLines(say))
    return str(plan[image].content)


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
