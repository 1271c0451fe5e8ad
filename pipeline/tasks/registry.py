"""invoke registry.start, registry.stop"""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.context import Context

from pipeline.errors import RegistryRefusedError, RegistryUnreachableError
from pipeline.tasks.command import command, read_project, say

if TYPE_CHECKING:
    from pipeline.config import Config


@command(name="start")
def registry_start(_context: Context) -> None:
    """Start a private registry on this engine.

    Its image is built where needed; `registry_server:` says on which port (default: 127.0.0.1:5000). Example: invoke registry.start
    """
    from pipeline.adapters.docker_engine import DockerEngine
    from pipeline.registry_server import start_registry
    from pipeline.tasks.service_images import provide_image

    config = read_project()
    server = config.registry_server
    status = start_registry(
        DockerEngine(), server, config.project, config.root, lambda: provide_image(config, server.image, say), lambda: _answers(config)
    )
    print(f"registry {status.address}: {status.state} (data in the volume {status.volume})")


@command(name="stop")
def registry_stop(_context: Context) -> None:
    """Stop it; its data stays in its volume.

    Example: invoke registry.stop
    """
    from pipeline.adapters.docker_engine import DockerEngine
    from pipeline.registry_server import registry_status, stop_registry

    config = read_project()
    server, engine = config.registry_server, DockerEngine()
    stopped = stop_registry(engine, server, config.root)
    status = registry_status(engine, server)
    print(f"registry {status.address}: " + (f"stopped (data in the volume {status.volume})" if stopped else "was not running"))


def _answers(config: Config) -> bool:
    from pipeline.adapters.registry import Registry

    try:
        Registry(f"{config.registry_server.address}:{config.registry_server.port}").ping()
    except RegistryRefusedError:
        return True  # it wants credentials, so it is up
    except RegistryUnreachableError:
        return False
    return True
