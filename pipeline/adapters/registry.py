"""A registry over its HTTP API (OCI distribution specification): digests, manifests and tags; never layers.

Plain http.client with kept-alive connections, one a thread: the requests of a no-op take milliseconds and nothing is
imported for them. Layers are the engine's work.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.adapters.connections import Connections
from pipeline.adapters.credentials import Credentials, read_credentials
from pipeline.adapters.registry_transport import RegistryTransport, plain_hint, tls_hint
from pipeline.errors import RegistryRefusedError, RegistryUnreachableError
from pipeline.reference import DOCKER_HUB, Reference

MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
ATTEMPTS = 5  # of one request, where the registry is busy or the connection broke
FIRST_PAUSE = 0.2  # seconds; four times as long after each attempt
LONGEST_PAUSE = 10.0  # seconds between two attempts, whatever Retry-After asks for
_TRANSIENT = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Manifest:
    """A manifest as the registry keeps it, byte for byte."""

    content: bytes
    media_type: str

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Registry:
    """One registry, at HOST[:PORT]. Safe to use from several threads."""

    def __init__(self, host: str, credentials: Callable[[str], Credentials | None] = read_credentials) -> None:
        self.host = host
        self._transport = RegistryTransport("registry-1.docker.io" if host == DOCKER_HUB else host)
        self._read_credentials = credentials
        self._credentials: Credentials | None = None
        self._asked_credentials = False
        self._tokens: dict[str, str] = {}  # scope → Authorization header
        self._lock = threading.Lock()
        self._is_understood = False  # it has answered sensibly, in clear or over TLS
        self._connections = Connections(self._transport.connect)

    def close(self) -> None:
        self._connections.close()

    def abort(self) -> None:
        """Break off every request, for good."""
        self._connections.abort()

    def ping(self) -> None:
        """Raise RegistryUnreachableError or RegistryRefusedError unless the registry answers and lets us in."""
        self._request("GET", "/v2/", scope="", attempts=1)

    def digest(self, reference: Reference) -> str:
        """The digest of the manifest that a tag names; empty where the registry has none."""
        answer = self._request(
            "HEAD", _manifest_path(reference), reference.repository, headers={"Accept": ", ".join(MANIFEST_TYPES)}, missing=True
        )
        if answer.status == 404:
            return ""
        return answer.headers.get("docker-content-digest") or self.manifest(reference).digest

    def manifest(self, reference: Reference) -> Manifest:
        """The manifest a tag or digest names. Raises RegistryRefusedError where there is none."""
        answer = self._request("GET", _manifest_path(reference), reference.repository, headers={"Accept": ", ".join(MANIFEST_TYPES)})
        return Manifest(answer.body, answer.headers.get("content-type", MANIFEST_TYPES[0]).partition(";")[0])

    def find_manifest(self, reference: Reference) -> Manifest | None:
        """The manifest a tag or digest names; None where there is none."""
        answer = self._request(
            "GET", _manifest_path(reference), reference.repository, headers={"Accept": ", ".join(MANIFEST_TYPES)}, missing=True
        )
        if answer.status == 404:
            return None
        return Manifest(answer.body, answer.headers.get("content-type", MANIFEST_TYPES[0]).partition(";")[0])

    def put_manifest(self, reference: Reference, manifest: Manifest) -> None:
        """Let a tag name a manifest whose layers the repository has already.

        Raises RegistryRefusedError where the registry says that it keeps another digest than the manifest's.
        """
        headers = {"Content-Type": manifest.media_type}
        answer = self._request("PUT", _manifest_path(reference), reference.repository, "pull,push", headers, manifest.content)
        kept = answer.headers.get("docker-content-digest", manifest.digest)
        if kept != manifest.digest:
            raise RegistryRefusedError(
                f"the registry {self.host} keeps {kept} under {reference}, not {manifest.digest}: it changes what is pushed to it",
                "Push to a registry that keeps manifests byte for byte.",
            )

    def put_blob(self, repository: str, content: bytes) -> str:
        """Upload a blob in one piece, unless the repository has it; return its digest."""
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        if self._request("HEAD", f"/v2/{repository}/blobs/{digest}", repository, missing=True).status != 404:
            return digest
        begun = self._request("POST", f"/v2/{repository}/blobs/uploads/", repository, "pull,push", {"Content-Length": "0"})
        place = urllib.parse.urlsplit(begun.headers.get("location", ""))
        query = urllib.parse.urlencode([*urllib.parse.parse_qsl(place.query), ("digest", digest)])
        headers = {"Content-Type": "application/octet-stream"}
        self._request("PUT", f"{place.path}?{query}", repository, "pull,push", headers, content)
        return digest

    def blob(self, repository: str, digest: str) -> bytes:
        """The content of a blob, checked against its digest. Raises RegistryRefusedError where there is none, or another."""
        answer = self._request("GET", f"/v2/{repository}/blobs/{digest}", repository)
        found = "sha256:" + hashlib.sha256(answer.body).hexdigest()
        if found != digest:
            raise RegistryRefusedError(
                f"the registry {self.host} answers {found} where {repository}@{digest} was asked for", "Its storage is damaged: push again."
            )
        return answer.body

    def tags(self, repository: str) -> list[str]:
        """Every tag of a repository, page after page; none where it does not exist."""
        found: list[str] = []
        path = f"/v2/{repository}/tags/list"
        while path:
            answer = self._request("GET", path, repository, missing=True)
            if answer.status == 404:
                break
            found += json.loads(answer.body).get("tags") or ()
            link = re.search(r"<([^>]*)>\s*;[^,]*\brel=\"?next\b", answer.headers.get("link", ""))
            path = urllib.parse.urlsplit(urllib.parse.urljoin(path, link[1]))._replace(scheme="", netloc="").geturl() if link else ""
        return found

    def digests(self, references: Sequence[Reference]) -> list[str]:
        """What `digest` says of each, in order."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(max_workers=8) as pool:
            return list(pool.map(self.digest, references))

    def check_writable(self, repository: str) -> None:
        """Begin an upload and cancel it: raise RegistryRefusedError where pushing is not allowed."""
        answer = self._request("POST", f"/v2/{repository}/blobs/uploads/", repository, "pull,push", {"Content-Length": "0"})
        location = answer.headers.get("location", "")
        if location:
            with contextlib.suppress(RegistryRefusedError, RegistryUnreachableError):  # an upload that is left expires by itself
                path = location if location.startswith("/") else urllib.parse.urlsplit(location)._replace(scheme="", netloc="").geturl()
                self._request("DELETE", path, repository, "pull,push", missing=True)

    def image_size(self, manifest: Manifest) -> int:
        """The bytes of config and layers that a manifest names, compressed as the registry keeps them."""
        document = json.loads(manifest.content)
        return int(document.get("config", {}).get("size", 0)) + sum(int(layer.get("size", 0)) for layer in document.get("layers", ()))

    def _request(
        self,
        method: str,
        path: str,
        repository: str = "",
        actions: str = "pull",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        missing: bool = False,
        scope: str | None = None,
        attempts: int = ATTEMPTS,
    ) -> _Answer:
        scope = f"repository:{repository}:{actions}" if scope is None else scope
        reason, pause = "", 0.0
        for attempt in range(attempts):
            if pause:
                time.sleep(pause)  # even one of 0 s costs a switch between threads
            pause = min(FIRST_PAUSE * 4**attempt, LONGEST_PAUSE)
            try:
                answer = self._send(method, path, headers or {}, body, scope)
                if answer.status == 401:
                    self._authorize(answer, scope)
                    answer = self._send(method, path, headers or {}, body, scope)
            except (OSError, http.client.HTTPException) as error:
                self._connections.get().close()
                reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                if type(error).__name__ == "SSLCertVerificationError":  # by name: plain HTTP need not import ssl
                    raise RegistryUnreachableError(
                        f"the registry {self.host} shows a certificate that is not trusted ({error})", tls_hint(self.host)
                    ) from error
                if getattr(error, "reason", "") in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
                    raise RegistryUnreachableError(
                        f"the registry {self.host} does not speak TLS, it seems to be a plain HTTP one", plain_hint(self.host)
                    ) from error
                unknown = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
                if unknown or isinstance(error, ConnectionRefusedError):
                    break  # nobody listens there, or no such host: asking again changes nothing
                continue
            if answer.status < 300 or (answer.status == 404 and missing):
                return answer
            if answer.status not in _TRANSIENT:
                raise self._refused(method, path, answer)
            reason = f"answers {answer.status}"
            with contextlib.suppress(ValueError):
                pause = min(max(pause, float(answer.headers.get("retry-after", 0))), LONGEST_PAUSE)
        raise RegistryUnreachableError(
            f"the registry {self.host} does not answer ({reason})",
            "Start it (a local one: invoke registry.start), or name another one: registry in pipeline.yaml, or PIPELINE_REGISTRY.",
        )

    def _send(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, scope: str) -> _Answer:
        sent = {"User-Agent": "pipeline", **headers}
        if scope in self._tokens:
            sent["Authorization"] = self._tokens[scope]
        for again in (True, False):
            connection = self._connections.get()
            fresh = connection.sock is None
            try:
                connection.request(method, path, body, sent)
                response = connection.getresponse()
                answer = _Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
                self._is_understood = self._is_understood or answer.status != 400
                if self._is_understood or not again or not self._transport.turn_to_tls():
                    return answer
                connection.close()  # it speaks TLS: what came back is a complaint about that
            except (http.client.BadStatusLine, BrokenPipeError, ConnectionResetError):
                connection.close()  # a kept-alive connection that the registry closed meanwhile: once more on a new one
                if (fresh and (self._is_understood or not self._transport.turn_to_tls())) or not again:
                    raise
        raise AssertionError("unreachable")

    def _authorize(self, answer: _Answer, scope: str) -> None:
        """Answer a challenge: keep the Authorization header that this scope needs. Raises RegistryRefusedError."""
        with self._lock:
            if not self._asked_credentials:
                self._credentials, self._asked_credentials = self._read_credentials(self.host), True
        challenge = answer.headers.get("www-authenticate", "")
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic" and self._credentials:
            self._tokens[scope] = self._credentials.basic()
        elif kind.lower() == "bearer":
            parts = dict(re.findall(r'(\w+)="([^"]*)"', rest))
            self._tokens[scope] = "Bearer " + self._fetch_token(parts, scope)

    def _fetch_token(self, challenge: Mapping[str, str], scope: str) -> str:
        realm = urllib.parse.urlsplit(challenge.get("realm", ""))
        query = dict(urllib.parse.parse_qsl(realm.query))
        query |= {"service": challenge.get("service", ""), "scope": challenge.get("scope") or scope, "client_id": "pipeline"}
        headers = {"User-Agent": "pipeline"}
        method, body, path = "GET", None, f"{realm.path}?{urllib.parse.urlencode(query)}"
        if self._credentials and self._credentials.identity_token:
            method, path = "POST", realm.path
            body = urllib.parse.urlencode(
                {**query, "grant_type": "refresh_token", "refresh_token": self._credentials.identity_token}
            ).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        elif self._credentials:
            headers["Authorization"] = self._credentials.basic()
        connection = self._transport.connect_elsewhere(realm.netloc, plain=realm.scheme == "http")
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status in _TRANSIENT:
            raise http.client.HTTPException(f"the token service answers {response.status}")
        if response.status != 200:
            raise RegistryRefusedError(
                f"the registry {self.host} refused the credentials ({response.status})", f"Log in: docker login {self.host}"
            )
        try:
            answer: dict[str, Any] = json.loads(content)
            return str(answer.get("token") or answer.get("access_token") or "")
        except (ValueError, AttributeError) as error:
            raise RegistryRefusedError(
                f"the token service {realm.netloc} of the registry {self.host} answered no token",
                "Is that a registry? Look at it with a browser.",
            ) from error

    def _refused(self, method: str, path: str, answer: _Answer) -> RegistryRefusedError:
        said = _explanation(answer)
        doing = "write to" if method in ("PUT", "POST", "DELETE") else "read"
        what = f"the registry {self.host} refused to {doing} {path.removeprefix('/v2/')}: {answer.status}" + (f" {said}" if said else "")
        # A token may hold fewer rights than were asked for: the service knows the user, who lacks the permission.
        is_known = bool(self._credentials) and "insufficient_scope" in answer.headers.get("www-authenticate", "")
        if answer.status == 401 and not is_known:
            hint = f"Log in: docker login {self.host}"
        elif answer.status in (401, 403):
            hint = "The user that Docker is logged in as may not do this; ask for the permission, or log in as another one."
        elif answer.status == 405:
            hint = "The registry is read-only; name one that can be written to: registry in pipeline.yaml, or PIPELINE_REGISTRY."
        elif answer.status == 404:
            hint = "It is not there (any more): push it first."
        else:
            hint = "See the registry's own log for the reason."
        return RegistryRefusedError(what, hint)


def _manifest_path(reference: Reference) -> str:
    return f"/v2/{reference.repository}/manifests/{reference.digest or reference.tag}"


def _explanation(answer: _Answer) -> str:
    try:
        errors = json.loads(answer.body)["errors"]
        return "; ".join(str(error.get("message") or error.get("code")) for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return answer.body.decode(errors="replace").strip()[:200]
