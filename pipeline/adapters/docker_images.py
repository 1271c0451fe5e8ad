"""The engine's images: listed, tagged, pulled, pushed and imported over its HTTP API.

Plain http.client, so that a run with nothing to do does not import docker-py (0.15 s).
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from pipeline.adapters.connections import Connections
from pipeline.adapters.credentials import read_credentials
from pipeline.adapters.docker_context import Endpoint
from pipeline.adapters.patience import Patience
from pipeline.adapters.refusals import IMMUTABLE_HINT, START_HINT, Verdict, judge_engine
from pipeline.engine_image import EngineImage
from pipeline.errors import EngineError, ImageUnavailableError, RegistryRefusedError, RegistryUnreachableError, TagImmutableError
from pipeline.reference import Reference, parse_reference

API_VERSION = "v1.41"  # engine 20.10, the oldest one that is supported
PUSHING = Patience(total=300.0, first=0.2, longest=5.0)
PULLING = Patience(total=120.0, first=0.2, longest=5.0)
# Seconds without a change in a push. After a connection that broke in the middle of an upload, the containerd image store
# sometimes waits for itself for ever (26.1, seen).
STALLED_SENDING = 60.0  # a layer of which not another byte is taken, or the manifest after the last layer
STALLED = 300.0  # a layer that is sent: a registry may take minutes over it
_SILENCE = 5.0  # seconds; the containerd image store repeats ten times a second how things stand
_LOOK = 1.0  # seconds between two looks at a push
LOGINS = 10  # attempts of an engine that is not let in where we are: its tokens may have expired again and again
_NOT_THERE = ("does not exist locally", "no such image", "manifest unknown", "tag does not exist")
_LAYER_DONE = ("Pushed", "Layer already exists", "Mounted from", "Pull complete", "Already exists")
_HINT = "Start the engine, or choose another one: docker context use NAME, or DOCKER_HOST. See: invoke doctor"


class EngineInfo(msgspec.Struct, frozen=True):
    """What an engine says of itself; `memory` in bytes."""

    version: str
    storage: str
    memory: int
    data_folder: str


class RemoteImage(NamedTuple):
    """What a registry has under a name; `platforms` as os/architecture[/variant]."""

    digest: str
    platforms: tuple[str, ...]


class _Transfer(msgspec.Struct):
    """What one attempt to push or pull has come to: layers that are done, and the digest once it is known."""

    layers: int = 0
    digest: str = ""
    _layers: dict[str, Mapping[str, Any]] = {}  # the last event of each
    _heard: float = msgspec.field(default_factory=time.monotonic)  # when the engine said something
    _moved: float = msgspec.field(default_factory=time.monotonic)  # when it said something new

    def note(self, event: Mapping[str, Any]) -> None:
        self._heard = time.monotonic()
        if (layer := str(event.get("id", ""))) and event != self._layers.get(layer):
            self._layers[layer], self._moved = event, self._heard
        status = str(event.get("status", ""))
        # With the containerd image store, an engine says the digest in words only (seen with 26.1).
        said = re.search(r": digest: (sha256:[0-9a-f]{64}) size:", status)
        self.digest = str((event.get("aux") or {}).get("Digest") or (said[1] if said else self.digest))
        self.layers += status.startswith(_LAYER_DONE)

    def is_stalled(self) -> bool:
        """Whether a push has come to a standstill. A layer that the engine says nothing of waits for its turn, however long."""
        now = time.monotonic()
        waiting = [event for event in list(self._layers.values()) if not str(event.get("status", "")).startswith(_LAYER_DONE)]
        if waiting and now - self._heard > _SILENCE:
            return False
        progress = [event.get("progressDetail") or {} for event in waiting]
        is_sending = not waiting or any(layer.get("current", 0) < layer.get("total", 0) for layer in progress)
        return now - self._moved > (STALLED_SENDING if is_sending else STALLED)


class _Watch:
    """Ends a request from another thread when it has stalled: who waits for the engine's next word cannot look at the clock."""

    def __init__(self, is_stalled: Callable[[], bool] | None) -> None:
        self.connection: http.client.HTTPConnection | None = None
        self.has_ended = False
        self._is_stalled = is_stalled
        self._done = threading.Event()

    def __enter__(self) -> None:
        if self._is_stalled:
            threading.Thread(target=self._look, args=(self._is_stalled,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def _look(self, is_stalled: Callable[[], bool]) -> None:
        while not self._done.wait(_LOOK):
            if is_stalled() and self.connection and self.connection.sock:
                self.has_ended = True
                with contextlib.suppress(OSError):
                    self.connection.sock.shutdown(socket.SHUT_RDWR)
                return


class DockerImages:
    """The images of one engine. Safe to use from several threads: each request has a connection of its own."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._connections = Connections(_connector(endpoint))

    def close(self) -> None:
        self._connections.close()

    def abort(self) -> None:
        """Break off every request, for good."""
        self._connections.abort()

    def info(self) -> EngineInfo:
        """What the engine says of itself; raises EngineError where none answers."""
        found = self._json("GET", "/info")
        return EngineInfo(str(found["ServerVersion"]), str(found["Driver"]), int(found["MemTotal"]), str(found["DockerRootDir"]))

    def list_images(self, repositories: Iterable[str]) -> dict[str, EngineImage]:
        """Every tag of these repositories (REGISTRY/PATH), as reference → image; one request for all."""
        wanted = set(repositories)
        # A pattern a folder, not one a repository: the engine compares each of its tags with each pattern.
        filters = json.dumps({"reference": sorted({repository.rpartition("/")[0] + "/*" for repository in wanted})})
        found: dict[str, EngineImage] = {}
        for item in self._json("GET", f"/images/json?{urllib.parse.urlencode({'filters': filters})}"):
            tags = frozenset(tag for tag in item.get("RepoTags") or () if tag.rpartition(":")[0] in wanted)
            image = EngineImage(str(item["Id"]), tags, frozenset(item.get("RepoDigests") or ()), int(item["Size"]))
            found.update(dict.fromkeys(tags, image))
        return found

    def list_labelled(self, labels: Mapping[str, str]) -> list[str]:
        """The tags of all images that carry these labels, children before the images they are built on."""
        filters = json.dumps({"label": [f"{key}={value}" for key, value in labels.items()]})
        items = self._json("GET", f"/images/json?{urllib.parse.urlencode({'filters': filters})}")
        items.sort(key=lambda item: -int(item["Created"]))
        return [str(tag) for item in items for tag in item.get("RepoTags") or ()]

    def find_image(self, reference: str) -> EngineImage | None:
        """One image by any name or id; None where the engine has none."""
        try:
            item = self._json("GET", f"/images/{urllib.parse.quote(reference)}/json")
        except _NotFoundError:
            return None
        return EngineImage(
            id=str(item["Id"]),
            tags=frozenset(item.get("RepoTags") or ()),
            digests=frozenset(item.get("RepoDigests") or ()),
            size=int(item["Size"]),
            platform=_platform(item.get("Os"), item.get("Architecture"), item.get("Variant")),
        )

    def platform_of(self, reference: str) -> str:
        """The platform of an image the engine has, as os/architecture[/variant]. Raises ImageUnavailableError where it has none."""
        try:
            item = self._json("GET", f"/images/{urllib.parse.quote(reference)}/json")
        except _NotFoundError as error:
            raise ImageUnavailableError(f"the engine has no image {reference}", "Build it first: invoke build") from error
        return _platform(item.get("Os"), item.get("Architecture"), item.get("Variant"))

    def triggers_of(self, reference: str) -> tuple[str, ...] | None:
        """The ONBUILD instructions of an image; None where the engine has no such image."""
        try:
            item = self._json("GET", f"/images/{urllib.parse.quote(reference)}/json")
        except _NotFoundError:
            return None
        return tuple((item.get("Config") or {}).get("OnBuild") or ())

    def tag_image(self, source: str, target: Reference) -> None:
        query = urllib.parse.urlencode({"repo": target.name, "tag": target.tag})
        self._json("POST", f"/images/{urllib.parse.quote(source)}/tag?{query}")

    def remove_tag(self, reference: str) -> bool:
        """Remove one tag (the image with its last one); false where it is not there. Raises ImageInUseError."""
        try:
            self._json("DELETE", f"/images/{urllib.parse.quote(reference)}")
        except _NotFoundError:
            return False
        return True

    def remote_image(self, reference: str) -> RemoteImage:
        """An image in its registry, asked by the engine, with its mirrors and certificates.

        Raises ImageUnavailableError with the registry's reason.
        """
        registry = parse_reference(reference).registry
        try:
            answer = self._json("GET", f"/distribution/{urllib.parse.quote(reference)}/json", headers=_auth(registry))
        except EngineError as error:
            if isinstance(error, _EngineGoneError):
                raise
            raise ImageUnavailableError(error.message, error.hint) from error
        platforms = (_platform(item.get("os"), item.get("architecture"), item.get("variant")) for item in answer.get("Platforms") or ())
        return RemoteImage(str(answer["Descriptor"]["digest"]), tuple(platforms))

    def pull_image(self, reference: Reference) -> None:
        """Pull a tag or digest. Raises ImageUnavailableError, or EngineError where the engine itself fails."""
        query = urllib.parse.urlencode({"fromImage": reference.name, "tag": reference.digest or reference.tag})
        try:
            self._transfer(f"/images/create?{query}", _auth(reference.registry), reference, "pulled", PULLING)
        except (RegistryRefusedError, RegistryUnreachableError) as error:
            raise ImageUnavailableError(error.message, f"Try: docker pull {reference}") from error

    def push_image(self, reference: Reference) -> str:
        """Push a tag; return its digest. Raises RegistryRefusedError or RegistryUnreachableError with the registry's reason.

        The engine repeats a layer's upload by itself, unless it is told of too many requests, and nothing else. What it has
        uploaded stays in the registry, so that each attempt has less to do.
        """
        query = urllib.parse.urlencode({"tag": reference.tag})
        headers = _auth(reference.registry) or {"X-Registry-Auth": "e30="}
        path = f"/images/{reference.name}/push?{query}"
        transfer = self._transfer(path, headers, reference, "pushed", PUSHING)
        if not transfer.digest:
            raise EngineError(f"{reference} was pushed, but the engine does not say as what", "See the engine's log.")
        return transfer.digest

    def _transfer(
        self,
        path: str,
        headers: dict[str, str],
        reference: Reference,
        done: str,
        patience: Patience,
    ) -> _Transfer:
        """Have the engine push or pull; again where the registry falters. The patience begins anew with each layer that is done."""
        failures = doubtful = most = 0
        end = 0.0
        while True:
            transfer = _Transfer()
            try:
                watch = _Watch(transfer.is_stalled if done == "pushed" else None)
                with watch, contextlib.closing(self._stream("POST", path, headers=headers, watch=watch)) as events:
                    for event in events:
                        transfer.note(event)
                return transfer
            except EngineError as error:
                if isinstance(error, _EngineGoneError) and not watch.has_ended:
                    raise
                said = error.message.lower()
                if any(sign in said for sign in _NOT_THERE) or (isinstance(error, _NotFoundError) and "access denied" not in said):
                    raise _missing(reference, done, error.message) from error
                verdict = judge_engine(reference.registry, f"{reference} cannot be {done}", error.message)
                if watch.has_ended:
                    stalled = f"{reference} cannot be {done}: the engine and the registry have made no progress for too long"
                    verdict = Verdict(RegistryUnreachableError(stalled, START_HINT), 0)
                doubtful = doubtful + 1 if verdict.attempts else 0
                attempts = verdict.attempts
                if verdict.is_login or verdict.is_bare:
                    _ask_registry(reference, verdict, write=done == "pushed")
                    attempts = LOGINS if verdict.is_login else attempts
                if transfer.layers > most or not end:
                    most, end = max(most, transfer.layers), time.monotonic() + patience.total
                failures += 1
                pause = patience.pause(failures)
                if (attempts and doubtful >= attempts) or time.monotonic() + pause > end:
                    raise verdict.error from error
            try:
                self._connections.wait(pause)
            except ConnectionAbortedError as error:
                raise _gone(self._endpoint, error) from error

    def import_image(self, archive: Path, name: str, labels: dict[str, str]) -> None:
        """Make an image of a root file system in a tar file."""
        repository, _, tag = name.rpartition(":")
        changes = [f"LABEL {json.dumps(key)}={json.dumps(value)}" for key, value in labels.items()] + ['CMD ["/bin/bash"]']
        query = urllib.parse.urlencode({"fromSrc": "-", "repo": repository, "tag": tag, "changes": changes}, doseq=True)
        with archive.open("rb") as body:
            headers = {"Content-Type": "application/x-tar", "Content-Length": str(archive.stat().st_size)}
            for _ in self._stream("POST", f"/images/create?{query}", body, headers):
                pass

    def _json(self, method: str, path: str, headers: dict[str, str] | None = None) -> Any:
        status, lines = self._send(method, path, None, headers or {})
        content = b"".join(lines)
        if status >= 400:
            raise _error(status, content)
        return json.loads(content) if content.strip() else None

    def _stream(
        self,
        method: str,
        path: str,
        body: IO[bytes] | None = None,
        headers: dict[str, str] | None = None,
        watch: _Watch | None = None,
    ) -> Generator[dict[str, Any], None, None]:
        """The engine's progress, one JSON object a line; an `error` among them is raised, since the call itself succeeds."""
        status, lines = self._send(method, path, body, headers or {}, watch)
        if status >= 400:
            raise _error(status, b"".join(lines))
        failure = ""
        for line in lines:  # to the end, error or not: what is left unread would be the connection's next answer
            if line.strip():
                event = json.loads(line)
                failure = failure or str(event.get("error", "")).strip()
                if not failure:
                    yield event
        if failure:
            raise EngineError(failure, _hint_for(failure))

    def _send(
        self, method: str, path: str, body: IO[bytes] | None, headers: dict[str, str], watch: _Watch | None = None
    ) -> tuple[int, Iterable[bytes]]:
        """The answer's status and lines; its connection is free again when the last line was read."""
        try:
            connection = self._connections.take()
            for again in (True, False):
                fresh = connection.sock is None
                try:
                    connection.request(method, f"/{API_VERSION}{path}", body, headers)
                    if watch:
                        watch.connection = connection
                    response = connection.getresponse()
                    return response.status, self._lines(connection, response)
                except (http.client.RemoteDisconnected, BrokenPipeError):
                    connection.close()  # a kept-alive connection that the engine closed meanwhile
                    if fresh or not again or body is not None:
                        raise
        except (OSError, http.client.HTTPException) as error:
            raise _gone(self._endpoint, error) from error
        raise AssertionError("unreachable")

    def _lines(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            rest = b""
            while data := response.read1(1 << 16):  # iterating over lines would take a connection that breaks for the end
                *lines, rest = (rest + data).split(b"\n")
                yield from lines
            if response.length:
                raise http.client.IncompleteRead(rest, response.length)
            response.read()  # ends the response, which would keep the connection from its next request
            yield rest
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _gone(self._endpoint, error) from error
        except GeneratorExit:
            connection.close()  # nobody reads the rest, and the engine gives up what nobody waits for
            raise
        else:
            self._connections.give_back(connection)


def _connector(endpoint: Endpoint) -> Callable[[], http.client.HTTPConnection]:
    """How this engine is reached; ssh is started when the first connection is made."""
    if endpoint.is_unix:
        return lambda: _UnixConnection(endpoint.host.removeprefix("unix://"))
    if endpoint.host.startswith("ssh://"):
        from pipeline.adapters.ssh_socket import open_ssh_socket

        relay = functools.cache(lambda: open_ssh_socket(endpoint.host).removeprefix("unix://"))
        return lambda: _UnixConnection(relay())
    address = urllib.parse.urlsplit(endpoint.host).netloc
    if endpoint.tls_folder is None:
        return lambda: http.client.HTTPConnection(address)
    import ssl

    folder = endpoint.tls_folder
    context = ssl.create_default_context(cafile=str(folder / "ca.pem") if (folder / "ca.pem").is_file() else None)
    if (folder / "cert.pem").is_file():
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    if not endpoint.tls_verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return lambda: http.client.HTTPSConnection(address, context=context)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


class ImageInUseError(EngineError):
    """A container needs the image, so that its last tag cannot be removed."""


class _NotFoundError(EngineError):
    pass


class _EngineGoneError(EngineError):
    pass


def _gone(endpoint: Endpoint, error: Exception) -> EngineError:
    if isinstance(error, PermissionError):
        return _EngineGoneError(
            f"no permission to use the Docker Engine at {endpoint.host}", "Add your user to the group docker, or run as root."
        )
    return _EngineGoneError(f"the Docker Engine at {endpoint.host} does not answer ({error})", _HINT)


def _error(status: int, content: bytes) -> EngineError:
    try:
        message = str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        message = content.decode(errors="replace").strip() or f"the engine answers {status}"
    if status == 409 and "container" in message:
        return ImageInUseError(message, "Remove that container first: docker rm")
    return _NotFoundError(message) if status == 404 else EngineError(message, _hint_for(message))


def _hint_for(message: str) -> str:
    return "Free disk space: docker system df" if "no space left" in message.lower() else "See the engine's log."


def _platform(*parts: str | None) -> str:
    return "/".join(part for part in parts if part)


def _ask_registry(reference: Reference, verdict: Verdict, write: bool) -> None:
    """Find out more about a refusal than the engine says. Raises RegistryRefusedError where we are refused as well.

    The engine's word alone may be about a token that has expired, and is sometimes a mere status.
    """
    from pipeline.adapters.registry import Registry

    with contextlib.closing(Registry(reference.registry)) as registry:
        if write:
            registry.check_writable(reference.repository)
        there = registry.digest(reference)
    if not write and not there:
        raise verdict.error
    if write and there and verdict.is_bare:
        raise TagImmutableError(f"{verdict.error.message} (that tag names {there[:19]}…, and other things may be written)", IMMUTABLE_HINT)


def _missing(reference: Reference, done: str, message: str) -> ImageUnavailableError:
    if done == "pushed":
        return ImageUnavailableError(f"{reference} cannot be pushed: the engine has no such image", "Build it first: invoke build push")
    return ImageUnavailableError(f"{reference} cannot be pulled: {message}", f"Try: docker pull {reference}")


def _auth(registry: str, read: Callable[[str], Any] = read_credentials) -> dict[str, str]:
    credentials = read(registry)
    return {"X-Registry-Auth": credentials.for_engine(registry)} if credentials else {}
