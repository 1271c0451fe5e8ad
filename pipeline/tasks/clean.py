"""invoke clean: takes away everything this checkout made, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping

from invoke.context import Context

from pipeline.tasks.command import command, read_project, say


def made_tags(tags: Collection[str], labels: Mapping[str, str]) -> list[str]:
    """Those of an image's tags that the pipeline gave it: in a repository where it has the content tag of its fingerprint.

    The labels alone prove nothing: an image that somebody else made from ours inherits them.
    """
    from pipeline.images.bases import BOOTSTRAP_REPOSITORY
    from pipeline.revision import content_tag

    content = content_tag(labels["pipeline.fingerprint"]) if "pipeline.fingerprint" in labels else ""
    repositories = {repository for repository, _, tag in (tag.rpartition(":") for tag in tags) if tag == content}
    return [tag for tag in tags if tag.rpartition(":")[0] in repositories or tag.startswith(BOOTSTRAP_REPOSITORY)]


@command(help={"images": "Remove the images of this project from the engine, too (not from any registry)."})
def clean(_context: Context, images: bool = False) -> None:
    """Remove this checkout's containers, networks, volumes and .pipeline/; with --images its images, too."""
    from pipeline.adapters.docker_context import engine_endpoint
    from pipeline.adapters.docker_engine import DockerEngine
    from pipeline.adapters.docker_images import DockerImages, ImageInUseError
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
        store = DockerImages(engine_endpoint())
        for tag in [tag for image in store.list_labelled({PROJECT: config.project}) for tag in made_tags(image.tags, image.labels)]:
            try:
                if store.remove_tag(tag):
                    say(f"removed the image {tag}")
            except ImageInUseError as error:
                say(f"kept the image {tag}: {error.message}")
    if config.state.exists():
        shutil.rmtree(config.state)
        say(f"removed {config.state}")
