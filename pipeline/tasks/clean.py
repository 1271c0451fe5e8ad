"""invoke clean: takes away everything this checkout made, and nothing else."""

from __future__ import annotations

import shutil

from invoke.context import Context

from pipeline.tasks.command import command, read_project, say


@command(help={"images": "Remove the images of this project from the engine, too (not from any registry)."})
def clean(_context: Context, images: bool = False) -> None:
    """Remove this checkout's containers, networks, volumes and .pipeline/; with --images its images, too."""
    from pipeline.adapters.docker_context import engine_endpoint
    from pipeline.adapters.docker_engine import DockerEngine
    from pipeline.adapters.docker_images import DockerImages
    from pipeline.sessions import CHECKOUT, PROJECT

    config = read_project()
    mark = {PROJECT: config.project, CHECKOUT: str(config.root.resolve())}
    engine = DockerEngine()
    for container in engine.list_containers(mark):
        engine.remove_container(container.id)
        say(f"removed the container {container.name}")
    for network in engine.list_networks(mark):
        engine.remove_network(network)
        say(f"removed the network {network}")
    for volume in engine.list_volumes(mark):
        engine.remove_volume(volume)
        say(f"removed the volume {volume}")
    if images:
        store = DockerImages(engine_endpoint())
        for tag in store.list_labelled({PROJECT: config.project}):
            if store.remove_tag(tag):
                say(f"removed the image {tag}")
    if config.state.exists():
        shutil.rmtree(config.state)
        say(f"removed {config.state}")
