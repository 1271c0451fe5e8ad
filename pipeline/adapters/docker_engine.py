"""The Docker Engine through docker-py: images, containers, networks and volumes, and its errors as ours.

docker-py is imported when the engine is first asked (0.15 s), so that `invoke --list` does not pay for it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import ipaddress
import json
import os
import socket
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pipeline.adapters.docker_context import Endpoint, engine_endpoint
from pipeline.adapters.image_archive import docker_archive, oci_archive
from pipeline.adapters.ssh_socket import open_ssh_socket, ssh_hostname
from pipeline.errors import EngineError, ImageUnavailableError

LOOPBACK = "127.0.0.1"
_NO_LAYERS = (
    "The engine does not load an image over layers that it has; seen working with 26.1 and both of its image stores: see `docker info`."
)
REQUEST_TIMEOUT = 60.0  # seconds for one answer of the engine; longer than its own 10 s of stopping a container
# What a launched program says is looked for in its whole log. So it has one that can be read and loses nothing, whatever the engine's
# defaults: another driver, or the last 10 MB only. A container gets the engine's default of each option that it does not set itself.
_WHOLE_LOG = {"max-size": "1000000g"}


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


@dataclass(frozen=True)
class Room:
    """What the engine's machine has, in bytes; None where that cannot be known from here."""

    memory: int
    free_memory: int | None
    free_disk: int | None
    folder: str  # where the engine keeps its data


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
        if self._endpoint.host.startswith("ssh://"):
            return ssh_hostname(self._endpoint.host)
        return LOOPBACK if self._endpoint.is_unix else urlsplit(self._endpoint.host).hostname or LOOPBACK

    @property
    def is_local(self) -> bool:
        """Whether a port published on the engine's own loopback address can be reached from here."""
        if self.host in ("localhost", socket.gethostname()):
            return True
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return False

    def room(self) -> Room:
        """How much memory and disk there is. What is free is known of this machine only, where the engine runs on it."""
        with self._translated("say what it has"):
            said = self._api.info()
        folder, free_memory, free_disk = str(said.get("DockerRootDir", "")), None, None
        if self._endpoint.is_unix and os.path.isdir(folder):  # else it is the folder of a virtual machine
            with contextlib.suppress(OSError, ValueError):
                place = os.statvfs(folder)
                free_disk = place.f_bavail * place.f_frsize
                words = Path("/proc/meminfo").read_text(encoding="ascii").partition("MemAvailable:")[2].split()
                free_memory = int(words[0]) << 10 if words else None
        return Room(int(said.get("MemTotal") or 0), free_memory, free_disk, folder)

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
                for event in self._patient_api.pull(name, tag=tag, stream=True, decode=True):
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
        processes: int = 0,
        launcher: Sequence[str] = (),
        auto_remove: bool = False,
        host_port: int = 0,
        volumes: Mapping[str, str] | None = None,
        restart: bool = False,
        mounts: Sequence[tuple[str, str]] = (),
    ) -> str | None:
        """Create, but do not start; the new container's id, or None where the name is taken (by a concurrent start).

        The TCP port `publish` becomes `host_port` (0: a random one) on the address `bind` of the engine's host. `volumes`:
        named volume → folder. `mounts`: (an absolute path on the engine's host, or a volume that is there; path), to be read only. `restart`: start it again when the engine starts. `memory` and `shm` are
        Docker's sizes, such as 3g; `processes` is how many processes and threads it may have at most (0: no limit).
        `launcher` is a program that is given the image's own entrypoint and command as its arguments. `auto_remove`: the
        engine removes it, and its volumes without a name, when it ends. Secrets do not belong here: `docker inspect` shows all of it.
        """
        import docker.errors
        import docker.types

        with self._translated(f"create the container {name}"):
            found = self._api.inspect_image(image)
            image_config = found.get("Config") or {}
            declared = image_config.get("Volumes") or ()
            # What an image declares as VOLUME would become a volume without our labels.
            mounted: list[dict[str, object]] = [
                {"Type": "volume", "Target": folder, "VolumeOptions": {"Labels": dict(labels)}}
                for folder in sorted(set(declared) - set((volumes or {}).values()) - {path for _, path in mounts})
            ]
            mounted += [{"Type": "volume", "Source": name, "Target": folder} for name, folder in (volumes or {}).items()]
            for source, path in mounts:
                if not source.startswith("/"):
                    self._api.inspect_volume(source)  # else the engine would make an empty one
                mounted.append({"Type": "bind" if source.startswith("/") else "volume", "Source": source, "Target": path, "ReadOnly": True})
            host_config = self._api.create_host_config(
                port_bindings={publish: (bind, host_port) if host_port else (bind,)},
                restart_policy={"Name": "unless-stopped"} if restart else None,
                mem_limit=memory or None,
                shm_size=shm or None,
                pids_limit=processes or None,
                auto_remove=auto_remove,
                log_config=docker.types.LogConfig(type="json-file", config=_WHOLE_LOG) if launcher else None,
                init=False if launcher else None,  # it is the first process itself, whatever the engine's default
                mounts=mounted or None,
            )
            try:
                created = self._api.create_container(
                    found["Id"],
                    name=name,
                    labels=dict(labels),
                    environment=dict(environment),
                    entrypoint=list(launcher) or None,
                    command=[*(image_config.get("Entrypoint") or ()), *(image_config.get("Cmd") or ())] if launcher else None,
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

    def rename_container(self, container: str, name: str) -> bool:
        """Whether it has that name now; not where it is gone or the name is taken."""
        import docker.errors

        with self._translated(f"rename the container {container}"):
            try:
                self._api.rename(container, name)
            except docker.errors.APIError as error:
                if error.status_code not in (404, 409):
                    raise
                return False
        return True

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

    def describe_container(self, container: str) -> str:
        """All that `docker inspect` shows of a container, as text."""
        with self._translated(f"look at the container {container}"):
            return json.dumps(self._api.inspect_container(container))

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

    def read_log(self, container: str, lines: int = 0, since: float = 0.0) -> bytes:
        """What the container wrote so far, or only its last `lines`, or what it wrote since (seconds since 1970); empty where it is gone."""
        import docker.errors

        with self._translated(f"read the log of the container {container}"):
            try:
                return bytes(self._api.logs(container, stdout=True, stderr=True, tail=lines or "all", since=since or None))
            except docker.errors.NotFound:
                return b""
            except docker.errors.APIError as error:
                if error.status_code != 409:  # "dead or marked for removal"
                    raise
                return b""

    def follow_log(self, container: str) -> Iterator[bytes]:
        """What the container wrote so far and writes from now on, in pieces, until it ends."""
        with self._translated(f"read the log of the container {container}"):
            yield from self._api.logs(container, stdout=True, stderr=True, stream=True, follow=True)

    def image_labels(self, reference: str) -> Mapping[str, str] | None:
        """The labels of an image; None where the engine has none of that name."""
        config = self._image_config(reference)
        return None if config is None else config.get("Labels") or {}

    def image_volumes(self, reference: str) -> list[str]:
        """The folders that an image the engine has declares as volumes."""
        return sorted((self._image_config(reference) or {}).get("Volumes") or ())

    def run_inside(self, container: str, command: Sequence[str], user: str = "") -> tuple[int, bytes]:
        """Run a program in a running container, as its own user or as `user`; exit code and all that it wrote."""
        with self._translated(f"run {command[0]} in the container {container}"):
            run = self._api.exec_create(container, list(command), user=user)["Id"]
            output = bytes(self._api.exec_start(run))
            return int(self._api.exec_inspect(run)["ExitCode"]), output

    def signal_container(self, container: str, signal: str) -> None:
        """Send a signal, such as USR1, to a container's first process."""
        with self._translated(f"send a signal to the container {container}"):
            self._api.kill(container, signal)

    def changed_paths(self, container: str) -> list[str]:
        """What in a container's file system is not as in its image: added, changed or removed."""
        with self._translated(f"compare the container {container} with its image"):
            return [str(entry["Path"]) for entry in self._api.diff(container) or ()]

    def commit_container(self, container: str, original: str, reference: str, labels: Mapping[str, str]) -> str:
        """Make an image of a container's files, with entrypoint, command, environment and labels of the image `original`; its id.

        `labels` are added. An engine's own commit would keep what the container was created with. So the image is described
        anew, over the layers that the commit has made, and loaded as from an archive, which brings no layers, for the engine has
        them. In the containerd image store, layers go by other names, which only an export of the image tells.
        Where this process is killed meanwhile, the commit stays: an image without a tag that has the container's labels.
        """
        with self._translated(f"make the image {reference} of the container {container}"):
            raw = self._patient_api.commit(container)["Id"]
            try:
                found = self._api.inspect_image(raw)
                config = dict(self._api.inspect_image(original)["Config"])
                config["Labels"] = {**(config.get("Labels") or {}), **labels}
                exported = self._patient_api.get_image(raw) if self._is_containerd else None
                archive = oci_archive(exported, config, reference) if exported else docker_archive(found, config, reference)
                for event in self._patient_api.load_image(archive):
                    if "error" in event:
                        raise EngineError(f"{reference} cannot be made: {_one_line(event['error'])}", _NO_LAYERS)
                return str(self._api.inspect_image(reference)["Id"])
            finally:
                self._api.remove_image(raw, force=True)

    def list_untagged(self, labels: Sequence[str]) -> dict[str, Mapping[str, str]]:
        """Id → labels of the images without a tag that carry every one of `labels`, each NAME or NAME=VALUE."""
        with self._translated("list images"):
            found = self._api.images(filters={"label": list(labels), "dangling": True})
        return {entry["Id"]: entry["Labels"] or {} for entry in found}

    def remove_image(self, image: str) -> bool:
        """Remove; one that is gone or still in use is no error, and not removed."""
        return self._remove(f"remove the image {image}", functools.partial(self._api.remove_image, image))

    @functools.cached_property
    def _is_containerd(self) -> bool:
        """Whether images are kept in the containerd image store."""
        return any("io.containerd.snapshotter" in str(entry) for entry in self._api.info().get("DriverStatus") or ())

    def _image_config(self, reference: str) -> dict[str, Any] | None:
        import docker.errors

        with self._translated(f"look at the image {reference}"):
            try:
                return dict(self._api.inspect_image(reference).get("Config") or {})
            except docker.errors.ImageNotFound:
                return None

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
        return self._connect(int(REQUEST_TIMEOUT))

    @functools.cached_property
    def _patient_api(self) -> Any:
        """For what takes as long as a database is large, and of which the engine says nothing meanwhile."""
        return self._connect(None)

    def _connect(self, timeout: int | None) -> Any:
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
                timeout=timeout,  # type: ignore[arg-type] # None: for ever, whatever its types say
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
