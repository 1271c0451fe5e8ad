"""A container engine that starts a database for tests that run alone by testcontainers' own container classes.

Everything else is as in any start of this project: passwords are in files that are copied in before the start, not in the
environment, where `docker inspect` would show them; the port is published where `itest.bind` says; no container gets the engine's
socket (testcontainers' own reaper would), but ends by a lease of its own and by its labels.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.adapters.docker_context import Endpoint, engine_endpoint
from pipeline.adapters.docker_engine import LOOPBACK, DockerEngine
from pipeline.databases.engine import DatabaseEngine
from pipeline.errors import EngineError, MissingRequirementError


class TestcontainersEngine(DockerEngine):
    """The engine that our own commands would use, except for how a container is made.

    testcontainers creates and starts at once. What is to be in the container before its start is kept until then, and the
    container goes by its name.
    """

    __test__ = False  # its name looks like a test class to pytest

    def __init__(self, kind: DatabaseEngine, labels: Mapping[str, str]) -> None:
        """`labels`: what every container gets beside its own. Raises MissingRequirementError where testcontainers is not installed."""
        super().__init__(engine_endpoint())
        self._class = _container_class(kind)
        self._labels = dict(labels)
        self._prepared: dict[str, Any] = {}
        self._made: set[str] = set()
        self._over = threading.Event()

    def abort(self) -> None:
        """Remove what this object has made, also what it is about to make: whoever waits for it to become ready is told at once."""
        self._over.set()
        for name in list(self._made):
            with contextlib.suppress(EngineError):  # it ends with its session
                super().remove_container(name)

    def create_container(
        self,
        *,
        name: str,
        image: str,
        labels: Mapping[str, str],
        environment: Mapping[str, str],
        publish: int,
        bind: str = LOOPBACK,
        memory: str = "",
        shm: str = "",
        processes: int = 0,
        launcher: Sequence[str] = (),
        auto_remove: bool = False,
        host_port: int = 0,
        volumes: Mapping[str, str] | None = None,
        restart: bool = False,
        mounts: Sequence[tuple[str, str]] = (),
    ) -> str | None:
        """Its name, which stands for its id until it is started; None where the name is taken."""
        if self.find_container(name) is not None:
            return None
        import docker.types

        with self._translated(f"create the container {name}"), _undisturbed():
            database = self._class(image, docker_client_kw=_client_settings(self._endpoint))
            settings = database.get_docker_client().client.images.get(image).attrs["Config"]
        database.image = image  # without the prefix that testcontainers can be told to put before it
        database.our_environment = dict(environment)
        database.our_ports = {str(publish): (bind, host_port or None)}
        database.with_name(name)
        if launcher:
            database.with_command([*(settings.get("Entrypoint") or ()), *(settings.get("Cmd") or ())])
        all_labels = {**labels, **self._labels}
        given = {path for _, path in mounts} | set((volumes or {}).values())
        mounted = [
            docker.types.Mount(path, None, type="volume", labels=all_labels)  # else it would have none of our labels
            for path in sorted(set(settings.get("Volumes") or ()) - given)
        ]
        mounted += [docker.types.Mount(path, source, "bind" if source.startswith("/") else "volume", True) for source, path in mounts]
        mounted += [docker.types.Mount(path, volume) for volume, path in (volumes or {}).items()]
        for source, _ in mounts:
            if not source.startswith("/"):
                with self._translated(f"mount the volume {source}"):
                    self._api.inspect_volume(source)  # else the engine would make an empty one
        database.with_kwargs(
            entrypoint=list(launcher) or None,
            labels=all_labels,
            mem_limit=memory or None,
            shm_size=shm or None,
            pids_limit=processes or None,
            auto_remove=auto_remove,
            restart_policy={"Name": "unless-stopped"} if restart else None,
            init=False,
            mounts=mounted or None,
            network="bridge",  # testcontainers would choose the one of the container that the tests themselves may be in
            use_config_proxy=False,
        )
        self._prepared[name] = database
        return name

    def write_files(self, container: str, folder: str, files: Mapping[str, bytes]) -> None:
        database = self._prepared.get(container)
        if database is None:
            super().write_files(container, folder, files)
            return
        for name, content in files.items():
            database.with_copy_into_container(content, f"{folder}/{name}", 0o444)

    def start_container(self, container: str) -> None:
        database = self._prepared.pop(container, None)
        if database is None:
            super().start_container(container)
            return
        with self._translated(f"start the container {container}"), _undisturbed():
            self._made.add(container)
            database.start()
            database.get_docker_client().client.close()
        if self._over.is_set():
            super().remove_container(container)
            raise EngineError("the run is over", "Nothing to do.")

    def remove_container(self, container: str) -> None:
        self._prepared.pop(container, None)
        super().remove_container(container)


def _container_class(engine: DatabaseEngine) -> type[Any]:
    """testcontainers' class that the engine names (`testcontainer`), or the general one; told differently, and not waited for."""
    module, _, name = getattr(engine, "testcontainer", "testcontainers.core.generic:DbContainer").partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise MissingRequirementError(
            "tests that run alone start their database by testcontainers, which is not installed",
            "Install it (pip install testcontainers), or run the tests by `invoke run-tests`.",
        ) from error

    def configure(database: Any) -> None:
        database.env, database.ports = database.our_environment, database.our_ports

    # Ready is what whoever starts it finds out, by a login.
    return type(name, (found,), {"_configure": configure, "_connect": lambda _database: None})


def _client_settings(endpoint: Endpoint) -> dict[str, Any]:
    """What makes testcontainers' client talk to that engine: of Docker's contexts it knows less, and its own settings could name another."""
    environment = {"DOCKER_HOST": endpoint.host}
    if endpoint.tls_folder:
        environment |= {"DOCKER_CERT_PATH": str(endpoint.tls_folder), "DOCKER_TLS_VERIFY": "1" if endpoint.tls_verify else ""}
    return {"environment": environment, "use_ssh_client": endpoint.host.startswith("ssh://")}


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Without testcontainers' reaper, and without a DOCKER_HOST that testcontainers leaves in the environment.

    The reaper is a container that is given the engine's socket, from a registry that may be out of reach.
    """
    from testcontainers.core.config import testcontainers_config

    reaper, host = testcontainers_config.ryuk_disabled, os.environ.get("DOCKER_HOST")
    testcontainers_config.ryuk_disabled = True
    try:
        yield
    finally:
        testcontainers_config.ryuk_disabled = reaper
        if host is None:
            os.environ.pop("DOCKER_HOST", None)
        else:
            os.environ["DOCKER_HOST"] = host
