"""The Docker Engine through docker-py: images, containers, networks and volumes, and its errors as ours.

docker-py is imported when the engine is first asked (0.15 s), so that `invoke --list` does not pay for it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import ipaddress
import socket
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pipeline.adapters.docker_context import Endpoint, engine_endpoint
from pipeline.adapters.ssh_socket import open_ssh_socket
from pipeline.errors import EngineError, ImageUnavailableError

LOOPBACK = "127.0.0.1"
REQUEST_TIMEOUT = 60.0  # seconds for one answer of the engine; longer than its own 10 s of stopping a container


@dataclass(frozen=True)
class Container:
    """A container as it was when the engine was asked."""

    id: str
    name: str
    state: str  # created, running, paused, restarting, removing, exited, dead
    labels: Mapping[str, str]
    exit_code: int = 0
    out_of_memory: bool = False
    error: str = ""  # why the engine could not start it
    ports: Mapping[int, int] = field(default_factory=dict)  # TCP port in the container → published port of the engine's host


class DockerEngine:
    """The engine at `endpoint`; nothing is asked before the first call. Every method may raise EngineError."""

    def __init__(self, endpoint: Endpoint | None = None) -> None:
        self._endpoint = endpoint or engine_endpoint()

    @property
    def name(self) -> str:
        """The engine's address, for people."""
        return self._endpoint.host

    @property
    def host(self) -> str:
        """The host on which ports this engine publishes are reached from here."""
        return LOOPBACK if self._endpoint.is_unix else urlsplit(self._endpoint.host).hostname or LOOPBACK

    @property
    def is_local(self) -> bool:
        """Whether a port published on the engine's own loopback address can be reached from here."""
        if self.host in ("localhost", socket.gethostname()):
            return True
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return False

    def find_image(self, reference: str) -> str | None:
        """The id of the image of that name, if the engine has it; the registry is not asked."""
        import docker.errors

        with self._translated(f"look for the image {reference}"):
            try:
                return str(self._api.inspect_image(reference)["Id"])
            except docker.errors.ImageNotFound:
                return None

    def pull_image(self, reference: str) -> None:
        """Pull `reference`. Raises ImageUnavailableError when the registry does not give it."""
        import docker.errors

        name, tag = _name_and_tag(reference)
        with self._translated(f"pull {reference}"):
            try:
                # An error arrives as an entry of the stream: the call itself succeeds (measured).
                for event in self._api.pull(name, tag=tag, stream=True, decode=True):
                    if "error" in event:
                        raise ImageUnavailableError(f"{reference} cannot be pulled: {_one_line(event['error'])}")
            except docker.errors.APIError as error:
                raise ImageUnavailableError(f"{reference} cannot be pulled: {_explanation(error)}") from error
            except docker.errors.DockerException as error:  # a credential helper that is missing or fails
                raise ImageUnavailableError(f"{reference} cannot be pulled: {_one_line(error)}") from error

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
        host_port: int = 0,
        volumes: Mapping[str, str] | None = None,
        restart: bool = False,
    ) -> str | None:
        """Create, but do not start; the new container's id, or None where the name is taken (by a concurrent start).

        The TCP port `publish` becomes `host_port` (0: a random one) on the address `bind` of the engine's host. `volumes`:
        named volume → folder. `restart`: start it again when the engine starts. `memory` and `shm` are
        Docker's sizes, such as 3g. Secrets do not belong here: `docker inspect` shows all of it.
        """
        import docker.errors

        with self._translated(f"create the container {name}"):
            found = self._api.inspect_image(image)
            declared = (found.get("Config") or {}).get("Volumes") or ()
            # What an image declares as VOLUME would become a volume without our labels.
            mounts = [
                {"Type": "volume", "Target": folder, "VolumeOptions": {"Labels": dict(labels)}}
                for folder in sorted(set(declared) - set((volumes or {}).values()))
            ]
            mounts += [{"Type": "volume", "Source": name, "Target": folder} for name, folder in (volumes or {}).items()]
            host_config = self._api.create_host_config(
                port_bindings={publish: (bind, host_port) if host_port else (bind,)},
                restart_policy={"Name": "unless-stopped"} if restart else None,
                mem_limit=memory or None,
                shm_size=shm or None,
                mounts=mounts or None,
            )
            try:
                created = self._api.create_container(
                    found["Id"],
                    name=name,
                    labels=dict(labels),
                    environment=dict(environment),
                    ports=[publish],
                    host_config=host_config,
                    use_config_proxy=False,
                )
            except docker.errors.APIError as error:
                if error.status_code == 409:
                    return None
                raise
        return str(created["Id"])

    def write_files(self, container: str, folder: str, files: Mapping[str, bytes]) -> None:
        """Put small files, readable by every user of the container, into `folder` (which is made) of a container."""
        archive = io.BytesIO()
        path = PurePosixPath(folder.lstrip("/"))
        with tarfile.open(fileobj=archive, mode="w") as tar:
            top = tarfile.TarInfo(str(path))
            top.type, top.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(top)
            for name, content in files.items():
                entry = tarfile.TarInfo(str(path / name))
                entry.size, entry.mode = len(content), 0o444
                tar.addfile(entry, io.BytesIO(content))
        with self._translated(f"copy files into the container {container}"):
            self._api.put_archive(container, "/", archive.getvalue())

    def read_file(self, container: str, path: str) -> bytes | None:
        """One small file of a container, running or not; None where there is no such file or container."""
        import docker.errors

        with self._translated(f"read {path} of the container {container}"):
            try:
                chunks, _ = self._api.get_archive(container, path)
            except docker.errors.NotFound:
                return None
            with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
                entry = tar.next()
                content = tar.extractfile(entry) if entry else None
                return content.read() if content else None

    def start_container(self, container: str) -> None:
        with self._translated(f"start the container {container}"):
            self._api.start(container)

    def find_container(self, container: str) -> Container | None:
        """The container of that id or name, with its state; None where there is none."""
        import docker.errors

        with self._translated(f"look at the container {container}"):
            try:
                found = self._api.inspect_container(container)
            except docker.errors.NotFound:
                return None
        state = found["State"]
        return Container(
            id=found["Id"],
            name=found["Name"].lstrip("/"),
            state=state["Status"],
            labels=found["Config"].get("Labels") or {},
            exit_code=state.get("ExitCode", 0),
            out_of_memory=bool(state.get("OOMKilled")),
            error=state.get("Error") or "",
            ports=_published((found.get("NetworkSettings") or {}).get("Ports") or {}),
        )

    def list_containers(self, labels: Mapping[str, str]) -> list[Container]:
        """All containers, running or not, that carry every one of `labels`. Without ports and exit codes."""
        with self._translated("list containers"):
            found = self._api.containers(all=True, filters=_filter(labels))
        return [
            Container(
                id=entry["Id"],
                name=entry["Names"][0].lstrip("/") if entry["Names"] else "",
                state=entry["State"],
                labels=entry["Labels"] or {},
            )
            for entry in found
        ]

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        """Create a named volume; one that is there already is kept as it is."""
        with self._translated(f"create the volume {name}"):
            self._api.create_volume(name, labels=dict(labels))

    def list_networks(self, labels: Mapping[str, str]) -> dict[str, Mapping[str, str]]:
        """Id → labels of the networks that carry every one of `labels`."""
        with self._translated("list networks"):
            return {entry["Id"]: entry["Labels"] or {} for entry in self._api.networks(filters=_filter(labels))}

    def list_volumes(self, labels: Mapping[str, str]) -> dict[str, Mapping[str, str]]:
        """Name → labels of the volumes that carry every one of `labels`."""
        with self._translated("list volumes"):
            return {entry["Name"]: entry["Labels"] or {} for entry in self._api.volumes(filters=_filter(labels))["Volumes"] or ()}

    def remove_container(self, container: str) -> None:
        """Kill and remove with its anonymous volumes; one that is gone, or going, is no error."""
        import docker.errors

        with self._translated(f"remove the container {container}"):
            try:
                self._api.remove_container(container, v=True, force=True)
            except docker.errors.NotFound:
                return
            except docker.errors.APIError as error:
                if error.status_code != 409:  # "removal … is already in progress"
                    raise

    def remove_network(self, network: str) -> bool:
        """Remove; one that is gone or still in use is no error, and not removed."""
        return self._remove(f"remove the network {network}", functools.partial(self._api.remove_network, network))

    def remove_volume(self, volume: str) -> bool:
        """Remove; one that is gone or still in use is no error, and not removed."""
        return self._remove(f"remove the volume {volume}", functools.partial(self._api.remove_volume, volume))

    def read_log(self, container: str, lines: int = 0) -> bytes:
        """What the container wrote so far, or only its last `lines`; empty where it is gone."""
        import docker.errors

        with self._translated(f"read the log of the container {container}"):
            try:
                return bytes(self._api.logs(container, stdout=True, stderr=True, tail=lines or "all"))
            except docker.errors.NotFound:
                return b""

    def _remove(self, doing: str, call: Any) -> bool:
        import docker.errors

        with self._translated(doing):
            try:
                call()
            except docker.errors.APIError as error:
                if error.status_code not in (403, 404, 409):  # 403: a network with active endpoints; 409: a volume in use
                    raise
                return False
        return True

    @functools.cached_property
    def _api(self) -> Any:  # docker-py's own types stop half-way
        import docker
        import docker.tls

        endpoint, tls = self._endpoint, None
        if endpoint.tls_folder:
            certificate, key, authority = (endpoint.tls_folder / name for name in ("cert.pem", "key.pem", "ca.pem"))
            tls = docker.tls.TLSConfig(
                client_cert=(str(certificate), str(key)) if certificate.is_file() and key.is_file() else None,
                ca_cert=str(authority) if authority.is_file() else None,
                verify=endpoint.tls_verify,
            )
        with self._translated("connect"):
            return docker.APIClient(
                base_url=open_ssh_socket(endpoint.host) if endpoint.host.startswith("ssh://") else endpoint.host,
                version="auto",
                timeout=int(REQUEST_TIMEOUT),
                tls=tls or False,
            )

    @contextlib.contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        import docker.errors
        import requests.exceptions
        import urllib3.exceptions

        try:
            yield
        except docker.errors.APIError as error:
            raise EngineError(f"the engine at {self.name} could not {doing}: {_explanation(error)}", "See: docker info") from error
        except (docker.errors.DockerException, requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise EngineError(
                f"the engine at {self.name} does not answer (while trying to {doing}): {_cause(error)}",
                "Is it running, and may you use it? `docker info` and `docker context ls` show which engine is meant.",
            ) from error


def _filter(labels: Mapping[str, str]) -> dict[str, Sequence[str]]:
    return {"label": [f"{key}={value}" for key, value in labels.items()]}


def _published(ports: Mapping[str, Any]) -> dict[int, int]:
    found = {}
    for port, bindings in ports.items():
        number, _, protocol = port.partition("/")
        if bindings and protocol == "tcp":
            found[int(number)] = int(bindings[0]["HostPort"])
    return found


def _name_and_tag(reference: str) -> tuple[str, str]:
    """For docker-py's pull: a digest counts as a tag, and no tag at all must not mean all tags."""
    if "@" in reference:
        name, _, digest = reference.partition("@")
        return name, digest
    name, colon, tag = reference.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (reference, "latest")


def _explanation(error: Any) -> str:
    return _one_line(error.explanation or error)


def _cause(error: BaseException) -> str:
    """What the operating system said, where it is behind an error; each library on the way wraps it into its own words."""
    reason, inner = "", error
    while True:
        reason = (isinstance(inner, OSError) and inner.strerror) or reason
        following = inner.__cause__ or inner.__context__
        if following is None:
            return _one_line(reason or inner)
        inner = following


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
