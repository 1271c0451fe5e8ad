"""invoke clean: takes away everything this checkout made, and nothing else."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from invoke.context import Context

from pipeline.errors import ConfigurationError
from pipeline.tasks.command import command, read_project, refuse_others, say

if TYPE_CHECKING:
    from pipeline.config import Config


@command(
    help={
        "images": "Remove the images of this project from the engine, too (not from any registry).",
        "over": "Only what is left of this project's sessions that are over or whose process is gone, in any checkout; never the living.",
        "dry-run": "With --over: only say what would be removed, and what lives.",
    }
)
def clean(_context: Context, images: bool = False, over: bool = False, dry_run: bool = False) -> None:
    """Remove what this checkout made: containers, state, images.

    Its containers, networks and volumes go, and .pipeline/. Examples: invoke clean --images, invoke clean --over --dry-run
    """
    if over:
        refuse_others("--over", images=images)
        _sweep(dry_run)
        return
    if dry_run:
        raise ConfigurationError("--dry-run is for what --over removes", "Write: invoke clean --over --dry-run")
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


def _sweep(dry_run: bool) -> None:
    """What is left of sessions that are over."""
    from pipeline.adapters.docker_engine import DockerEngine
    from pipeline.sessions import find_things, sweep

    engine, project = DockerEngine(), read_project().project
    if dry_run:
        for thing in find_things(engine, project):
            what = f"{thing.kind} {thing.name} (session {thing.session})"
            say(f"would remove {what}: {thing.over}" if thing.over else f"{what} lives")
        return
    swept = sweep(engine, project)
    for thing in swept:
        say(f"removed {thing.kind} {thing.name} (session {thing.session}): {thing.over}")
    if not swept:
        say("nothing to remove")


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
        definitions = project.hierarchy.definitions if config.defines_images else ()
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
