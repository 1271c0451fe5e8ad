"""A database container for tests that run alone, started by testcontainers' own container classes.

What is different from using those classes as they are: passwords are in files that are copied in before the start, not in the
environment, where `docker inspect` would show them; the port is published on 127.0.0.1; ready means that a login succeeded; no
container gets the engine's socket (testcontainers' own reaper would), but ends by a lease of its own and by its labels.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.databases.contract import DatabaseKind
from pipeline.databases.engine import Account, Address, Password
from pipeline.databases.knock import knock
from pipeline.databases.readiness import HealthCheck, wait_until_ready
from pipeline.errors import DatabaseNotReadyError, EngineError, MissingRequirementError
from pipeline.integration.lease import FOLDER, LAUNCHER, find_end, lease_files

STANDIN = "pipeline.database.standin"  # a label of the image
_LOG_END = 20  # lines


@dataclass(frozen=True)
class Started:
    """A container whose database lets the application's user in."""

    container: str
    address: Address
    standin: bool


def start_database(
    kind: DatabaseKind,
    *,
    engine: str,
    image: str,
    service: str,
    user: Account,
    administrator: Account,
    host: str,
    bind: str,
    labels: Mapping[str, str],
    lease: float,
    deadline: float,
    memory: str,
    shm: str,
    processes: int,
) -> Started:
    """Start it and wait until it is ready. Raises DatabaseNotReadyError, EngineError, MissingRequirementError; nothing is left then."""
    container_class = _container_class(engine)
    import docker.errors
    from testcontainers.core.config import testcontainers_config

    # Its reaper is a container that is given the engine's socket, from a registry that may be out of reach.
    testcontainers_config.ryuk_disabled = True

    class Database(container_class):  # type: ignore[misc, valid-type]
        """testcontainers' class, told differently and waited for differently."""

        def _configure(self) -> None:
            self.env = kind.environment(user.name, service, files)
            self.ports = {str(kind.port): (bind, None)}

        def _connect(self) -> None:
            """Ready is what `_wait` finds out."""

    files = {account.name: f"{FOLDER}/{account.name}" for account in (user, administrator)}
    passwords = {account.name: account.password for account in (user, administrator)}
    database = Database(image)
    begun = time.monotonic()
    try:
        settings = database.get_docker_client().client.images.get(image).attrs["Config"]
        contents = {f"{FOLDER}/{name}": content for name, content in lease_files(lease).items()}
        contents |= {files[name]: password.value.encode() for name, password in passwords.items()}
        contents |= kind.files(user.name, service, files, passwords)
        for path, content in contents.items():
            database.with_copy_into_container(content, path, 0o444)
        # As every database container of this project, it ends by itself when its lease is over.
        database.with_command([*(settings.get("Entrypoint") or ()), *(settings.get("Cmd") or ())])
        database.with_kwargs(
            entrypoint=list(LAUNCHER),
            labels=dict(labels),
            mem_limit=memory,
            shm_size=shm,
            pids_limit=processes,
            auto_remove=True,
            init=False,
        )
        database.start()
        address = Address(host, int(database.get_exposed_port(kind.port)), service)
        _wait(kind, database, address, user, passwords.values(), HealthCheck(deadline, spent=time.monotonic() - begun))
    except docker.errors.DockerException as error:
        _remove(database)
        raise EngineError(f"the database's container could not be started: {error}", "Try: docker run, with the same image.") from error
    except BaseException:
        _remove(database)
        raise
    standin = str((settings.get("Labels") or {}).get(STANDIN, "")).lower() == "true"
    return Started(database.get_container_id(), address, standin)


def _wait(kind: DatabaseKind, database: Any, address: Address, user: Account, passwords: Iterable[Password], check: HealthCheck) -> None:
    container = database.get_wrapped_container()

    def read_log() -> bytes:
        return bytes(container.logs(tail=200))

    def check_alive() -> None:
        end = find_end(read_log())
        if end is None:
            return
        tail = "\n".join(read_log().decode(errors="replace").splitlines()[-_LOG_END:])
        for password in passwords:
            tail = tail.replace(password.value, "***")
        raise DatabaseNotReadyError(
            f"the database's container ended with exit code {end.exit_code}; the end of its log:\n{tail}",
            "Start it by hand to see more: docker run, with the same image.",
        )

    wait_until_ready(
        lambda patience: kind.log_in(address, user, patience),
        check_alive,
        lambda: kind.ready_line.encode() in read_log(),
        lambda: knock(address, kind.knock),
        check,
    )


def _container_class(engine: str) -> type[Any]:
    """testcontainers' class for the engine, or the general one for an engine that it does not know."""
    try:
        if engine == "oracle":
            from testcontainers.community.oracle import OracleDbContainer

            return type("OracleDbContainer", (OracleDbContainer,), {})
        if engine == "postgres":
            from testcontainers.community.postgres import PostgresContainer

            return type("PostgresContainer", (PostgresContainer,), {})
        from testcontainers.core.generic import DbContainer
    except ImportError as error:
        raise MissingRequirementError(
            "tests that run alone start their database by testcontainers, which is not installed",
            "Install it (pip install testcontainers), or run the tests by `invoke run-tests`.",
        ) from error
    return type("DbContainer", (DbContainer,), {})


def _remove(database: Any) -> None:
    import docker.errors

    container = database.get_wrapped_container() if database._container is not None else None
    if container is not None:
        with contextlib.suppress(docker.errors.APIError):  # it is being removed by the engine
            container.remove(force=True, v=True)
