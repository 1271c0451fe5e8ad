"""invoke clean: takes away everything this checkout made, and nothing else."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from invoke.context import Context

from pipeline.tasks.command import command, read_project, say

if TYPE_CHECKING:
    from pipeline.config import Config


@command(help={"images": "Remove the images of this project from the engine, too (not from any registry)."})
def clean(_context: Context, images: bool = False) -> None:
    """Remove this checkout's containers, networks, volumes and .pipeline/; with --images its images, too."""
    from pipeline.adapters.docker_engine import DockerEngine
    from pipeline.integration.baking import find_half_made
    from pipeline.sessions import CHECKOUT, PROJECT

    config = read_project()
    mark = {PROJECT: config.project, CHECKOUT: str(config.root.resolve())}
    engine = DockerEngine()
    for container in engine.list_containers(mark):
        engine.remove_container(container.id)
        say(f"removed the container {container.name}")
    for network in engine.list_networks(mark):
        say(f"{'removed' if engine.remove_network(network) else 'kept'} the network {network}")
    for volume in engine.list_volumes(mark):
        say(f"{'removed' if engine.remove_volume(volume) else 'kept'} the volume {volume}")
    if images:
        for image in find_half_made(engine, config.project):
            say(f"{'removed' if engine.remove_image(image) else 'kept'} the image {image}, of a bake that was killed")
        _remove_images(config)
    if config.state.exists():
        shutil.rmtree(config.state)
        say(f"removed {config.state}")


def _remove_images(config: Config) -> None:
    """The images of this repository's definitions, the bases that were bootstrapped for them, and its baked databases.

    An image that somebody else made from ours has inherited the labels, but not the repository.
    """
    from pipeline.adapters.docker_images import ImageInUseError
    from pipeline.databases.bake import baked_folder
    from pipeline.images.bases import BOOTSTRAP_REPOSITORY
    from pipeline.reference import Reference
    from pipeline.sessions import PROJECT
    from pipeline.tasks.shelf import pull_reference
    from pipeline.tasks.wiring import ImageProject

    with ImageProject(config, say) as project:
        defines_none = config.images == ("images/*.yaml",) and not any(config.root.glob("images/*.yaml"))  # the default: it only tests
        definitions = () if defines_none else project.hierarchy.definitions
        own = {place.name for item in definitions for place in (item.repository, pull_reference(config, item.repository))}
        tags = project.engine.list_labelled({PROJECT: config.project})
        host, folder = baked_folder(config.registry, config.namespace)
        baked = tuple(f"{place.name}/" for place in (Reference(host, folder), pull_reference(config, Reference(host, folder))))
        for tag in [tag for tag in tags if tag.rpartition(":")[0] in own or tag.startswith((BOOTSTRAP_REPOSITORY, *baked))]:
            try:
                if project.engine.remove_tag(tag):
                    say(f"removed the image {tag}")
            except ImageInUseError as error:
                say(f"kept the image {tag}: {error.message}")
