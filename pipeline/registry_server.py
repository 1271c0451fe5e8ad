"""A registry of one's own on the local engine: its data in a volume, its port on the loopback address unless asked otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.config import RegistryServer
from pipeline.errors import ConfigurationError, EngineError, RegistryUnreachableError
from pipeline.sessions import CHECKOUT, PROJECT, ROLE

PORT = 5000  # inside the container
DATA_FOLDER = "/var/lib/registry"
SECRETS_FOLDER = "/run/pipeline"
DEADLINE = 30.0  # seconds until it must answer
INTERVAL = 0.05
_FILE_HINT = "Write the password into it, as its first line, readable by you only."


class Container(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def state(self) -> str: ...

    @property
    def labels(self) -> Mapping[str, str]: ...


class Engine(Protocol):
    """What a registry server needs of a container engine."""

    def find_container(self, container: str) -> Container | None: ...

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None: ...

    def list_volumes(self, labels: Mapping[str, str]) -> Mapping[str, Mapping[str, str]]: ...

    def remove_volume(self, volume: str) -> object: ...

    def create_container(
        self, *, name: str, image: str, labels: Mapping[str, str], environment: Mapping[str, str], publish: int, bind: str = ...,
        host_port: int = ..., volumes: Mapping[str, str] = ..., restart: bool = ...,
    ) -> str | None: ...  # fmt: skip

    def write_files(self, container: str, folder: str, files: Mapping[str, bytes]) -> None: ...

    def start_container(self, container: str) -> None: ...

    def remove_container(self, container: str) -> None: ...

    def read_log(self, container: str, lines: int = ...) -> bytes: ...


@dataclass(frozen=True)
class Status:
    """`state`: `running`, `stopped` or `absent`."""

    address: str
    state: str
    volume: str


def server_name(server: RegistryServer) -> str:
    """The name of its container and of its volume; one registry a port."""
    return f"pipeline-registry-{server.port}"


def registry_status(engine: Engine, server: RegistryServer) -> Status:
    container = engine.find_container(server_name(server))
    state = "absent" if container is None else "running" if container.state == "running" else "stopped"
    return Status(f"{server.address}:{server.port}", state, server_name(server))


def start_registry(
    engine: Engine, server: RegistryServer, project: str, checkout: Path, image: Callable[[], str], answers: Callable[[], bool]
) -> Status:
    """Start it, or find it running; return when it answers. A new one that does not come up is taken away again.

    `image` is called only where a container has to be made. Raises ConfigurationError for an unreadable password file,
    RegistryUnreachableError where it does not come up, EngineError where its port is taken.
    """
    name = server_name(server)
    container = engine.find_container(name)
    if container is None:
        _create(engine, server, project, checkout, image, answers)
    else:
        if _settings(server).items() - container.labels.items():
            raise ConfigurationError(
                f"the registry on port {server.port} was started with another address or user than registry_server now says",
                "Stop it first, its data stays: invoke registry.stop",
            )
        if container.state != "running":
            engine.start_container(name)
        _wait(engine, name, server, answers)
    return registry_status(engine, server)


def stop_registry(engine: Engine, server: RegistryServer, checkout: Path) -> bool:
    """Remove its container; the data stays in the volume. False where none was there.

    Raises ConfigurationError for a registry that another checkout started, and others may be using.
    """
    name = server_name(server)
    container = engine.find_container(name)
    if container is None:
        return False
    owner = container.labels.get(CHECKOUT, "")
    if owner != str(checkout):
        raise ConfigurationError(
            f"the registry on port {server.port} was started in {owner or 'no checkout of this project'}, not here",
            f"Stop it there, or by hand: docker rm --force {name}",
        )
    engine.remove_container(name)
    return True


def _settings(server: RegistryServer) -> dict[str, str]:
    """What a running registry cannot change, as labels."""
    return {"pipeline.registry.address": server.address, "pipeline.registry.user": server.user}


def _create(
    engine: Engine, server: RegistryServer, project: str, checkout: Path, image: Callable[[], str], answers: Callable[[], bool]
) -> None:
    name = server_name(server)
    labels = {PROJECT: project, CHECKOUT: str(checkout), ROLE: "registry", **_settings(server)}
    environment, files = _account(server, checkout)
    reference = image()
    is_new = name not in engine.list_volumes({})
    created = None
    try:
        engine.create_volume(name, labels)
        created = engine.create_container(
            name=name, image=reference, labels=labels, environment=environment, publish=PORT, bind=server.address,
            host_port=server.port, volumes={name: DATA_FOLDER}, restart=True,
        )  # fmt: skip
        if created:  # else another start was faster, and it starts it
            if files:
                engine.write_files(name, SECRETS_FOLDER, files)
            engine.start_container(name)
        _wait(engine, name, server, answers, expected=not created)
    except BaseException as error:
        if created:
            engine.remove_container(name)  # it would be started again and again
        if is_new:
            engine.remove_volume(name)
        if isinstance(error, EngineError) and any(sign in error.message for sign in ("already in use", "already allocated")):
            raise EngineError(error.message, f"End what listens on port {server.port}, or choose another: registry_server.port") from error
        raise


def _account(server: RegistryServer, root: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    if not server.user:
        return {}, {}
    path = root / Path(server.password_file).expanduser()
    try:
        password = path.read_bytes().partition(b"\n")[0].rstrip(b"\r")
    except OSError as error:
        raise ConfigurationError(f"registry_server.password_file: {path} cannot be read: {error.strerror}", _FILE_HINT) from error
    if not password:
        raise ConfigurationError(f"registry_server.password_file: the first line of {path} is empty", _FILE_HINT)
    return {"HTPASSWD_USER": server.user, "HTPASSWD_PASSWORD_FILE": f"{SECRETS_FOLDER}/password"}, {"password": password + b"\n"}


def _wait(engine: Engine, name: str, server: RegistryServer, answers: Callable[[], bool], expected: bool = False) -> None:
    """`expected`: another start makes the container, whose name the engine reserves before anybody can find it."""
    deadline = time.monotonic() + DEADLINE
    while not answers():
        container = engine.find_container(name)
        log = engine.read_log(name, 10).decode(errors="replace") if container else ""
        ended = not expected if container is None else container.state not in ("created", "running")  # created: another start's
        if ended:
            raise RegistryUnreachableError(f"the registry ended again:\n{log.rstrip()}", "Its reason stands above.")
        if time.monotonic() > deadline:
            raise RegistryUnreachableError(
                f"the registry did not answer on {server.address}:{server.port} within {DEADLINE:.0f} s:\n{log.rstrip()}",
                "The end of its log is above.",
            )
        time.sleep(INTERVAL)
