"""A registry over its HTTP API (OCI distribution specification): digests, manifests, tags and small blobs; never layers.

Kept-alive connections and nothing heavy to import: the requests of a no-op take milliseconds. Layers are the engine's work.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import urllib.parse
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from pipeline.adapters.credentials import Credentials, read_credentials
from pipeline.adapters.exchange import Answer
from pipeline.adapters.patience import Patience
from pipeline.adapters.registry_requests import ONCE, PATIENCE, RegistryRequests, Request
from pipeline.adapters.registry_transport import RegistryTransport
from pipeline.errors import RegistryRefusedError, RegistryUnreachableError
from pipeline.reference import DOCKER_HUB, Reference

MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
CONNECTIONS = 8  # of one call of `digests`
UPLOADS = 3  # of one blob, where the registry forgets them
_ACCEPT = {"Accept": ", ".join(MANIFEST_TYPES)}


class Manifest(msgspec.Struct, frozen=True):
    """A manifest as the registry keeps it, byte for byte."""

    content: bytes
    media_type: str

    @property
    def digest(self) -> str:
        return _digest(self.content)


class Registry:
    """One registry, at HOST[:PORT]. Safe to use from several threads. `say` is told of waits that a person would notice."""

    def __init__(
        self,
        host: str,
        credentials: Callable[[str], Credentials | None] = read_credentials,
        say: Callable[[str], None] = lambda _: None,
        patience: Patience = PATIENCE,
    ) -> None:
        self.host = host
        transport = RegistryTransport("registry-1.docker.io" if host == DOCKER_HUB else host)
        self._requests = RegistryRequests(host, transport, credentials, say, patience)

    def close(self) -> None:
        self._requests.close()

    def abort(self) -> None:
        """Break off every request, for good."""
        self._requests.abort()

    def ping(self) -> None:
        """Raise RegistryUnreachableError or RegistryRefusedError unless the registry answers and lets us in."""
        self._requests.send(Request("GET", "/v2/", scope=""), ONCE)

    def digest(self, reference: Reference) -> str:
        """The digest of the manifest that a tag names; empty where the registry has none."""
        answer = self._requests.send(Request("HEAD", _manifest_path(reference), _pull(reference.repository), _ACCEPT, missing=True))
        if answer.status == 404:
            return ""
        return answer.headers.get("docker-content-digest") or self.manifest(reference).digest

    def digests(self, references: Sequence[Reference]) -> list[str]:
        """The digest of each, in order, over a few connections at the same time."""
        if len(references) < 2:
            return [self.digest(reference) for reference in references]
        from concurrent.futures import ThreadPoolExecutor

        found = [""] * len(references)
        left = iter(enumerate(references))  # shared: threads that have less to wait for ask for more

        def ask() -> None:
            for index, reference in left:
                found[index] = self.digest(reference)

        threads = min(CONNECTIONS, len(references))
        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(ask) for _ in range(threads)]:
                future.result()
        return found

    def manifest(self, reference: Reference) -> Manifest:
        """The manifest a tag or digest names. Raises RegistryRefusedError where there is none."""
        return _read_manifest(self._ask_manifest(reference, missing=False))

    def find_manifest(self, reference: Reference) -> Manifest | None:
        """The manifest a tag or digest names; None where there is none."""
        answer = self._ask_manifest(reference, missing=True)
        return None if answer.status == 404 else _read_manifest(answer)

    def put_manifest(self, reference: Reference, manifest: Manifest) -> None:
        """Let a tag name a manifest whose layers the repository has already.

        Raises TagImmutableError where the tag names another one for ever, RegistryRefusedError where the registry says that it
        keeps another digest than the manifest's.
        """
        headers = {"Content-Type": manifest.media_type}
        answer = self._requests.send(Request("PUT", _manifest_path(reference), _push(reference.repository), headers, manifest.content))
        kept = answer.headers.get("docker-content-digest", manifest.digest)
        if kept != manifest.digest:
            raise RegistryRefusedError(
                f"the registry {self.host} keeps {kept} under {reference}, not {manifest.digest}: it changes what is pushed to it",
                "Push to a registry that keeps manifests byte for byte.",
            )

    def put_blob(self, repository: str, content: bytes) -> str:
        """Upload a blob in one piece, unless the repository has it; return its digest."""
        digest = _digest(content)
        path = f"/v2/{repository}/blobs/{digest}"
        if self._requests.send(Request("HEAD", path, _pull(repository), missing=True)).status != 404:
            return digest
        for _ in range(UPLOADS):
            upload = self._begin_upload(repository)
            query = urllib.parse.urlencode([*urllib.parse.parse_qsl(upload.query), ("digest", digest)])
            headers = {"Content-Type": "application/octet-stream"}
            request = Request("PUT", f"{upload.path}?{query}", _push(repository), headers, content, missing=True)
            if self._requests.send(request).status != 404:
                return digest
            # The upload is not known any more: it was completed, and only the answer lost; or the registry was restarted.
            if self._requests.send(Request("HEAD", path, _pull(repository), missing=True)).status != 404:
                return digest
        raise RegistryUnreachableError(
            f"the registry {self.host} forgets uploads to {repository} before they are complete",
            "Several registries behind one address need the same storage and the same REGISTRY_HTTP_SECRET.",
        )

    def blob(self, repository: str, digest: str) -> bytes:
        """The content of a blob, checked against its digest. Raises RegistryRefusedError where there is none, or another."""

        def check(answer: Answer) -> str:
            found = _digest(answer.body)
            return "" if found == digest else f"answers {found} where {repository}@{digest} was asked for"

        return self._requests.send(Request("GET", f"/v2/{repository}/blobs/{digest}", _pull(repository), check=check)).body

    def tags(self, repository: str) -> list[str]:
        """Every tag of a repository, page after page; none where it does not exist."""
        return self._pages(f"/v2/{repository}/tags/list", _pull(repository), "tags", missing=True)

    def repositories(self) -> list[str]:
        """Every repository of the registry that this user may list. Raises RegistryRefusedError where nobody may."""
        return self._pages("/v2/_catalog", "registry:catalog:*", "repositories")

    def _pages(self, path: str, scope: str, key: str, missing: bool = False) -> list[str]:
        """A list that the registry gives page after page. `missing`: it is empty where there is nothing at that path."""
        found: list[str] = []
        while path:
            answer = self._requests.send(Request("GET", path, scope, missing=missing, check=partial(_check_list, key)))
            if answer.status == 404:
                break
            found += json.loads(answer.body)[key] or ()
            link = re.search(r"<([^>]*)>\s*;[^,]*\brel=\"?next\b", answer.headers.get("link", ""))
            path = _on_this_registry(urllib.parse.urljoin(path, link[1])).geturl() if link else ""
        return found

    def check_writable(self, repository: str) -> None:
        """Begin an upload and cancel it: raise RegistryRefusedError where pushing is not allowed."""
        upload = self._begin_upload(repository)
        with contextlib.suppress(RegistryRefusedError, RegistryUnreachableError):  # an upload that is left expires by itself
            # A right of its own, which few users have: its token must not take the place of the one for pushing.
            self._requests.send(Request("DELETE", upload.geturl(), f"repository:{repository}:delete", missing=True), ONCE)

    def image_size(self, manifest: Manifest) -> int:
        """The bytes of config and layers that a manifest names, compressed as the registry keeps them."""
        document = json.loads(manifest.content)
        return int(document.get("config", {}).get("size", 0)) + sum(int(layer.get("size", 0)) for layer in document.get("layers", ()))

    def _ask_manifest(self, reference: Reference, missing: bool) -> Answer:
        def check(answer: Answer) -> str:
            named = reference.digest or answer.headers.get("docker-content-digest", "")
            found = _digest(answer.body)
            return f"answers {found} where {named} was asked for" if named.startswith("sha256:") and found != named else ""

        return self._requests.send(
            Request("GET", _manifest_path(reference), _pull(reference.repository), _ACCEPT, missing=missing, check=check)
        )

    def _begin_upload(self, repository: str) -> urllib.parse.SplitResult:
        answer = self._requests.send(Request("POST", f"/v2/{repository}/blobs/uploads/", _push(repository)))
        return _on_this_registry(answer.headers.get("location", ""))


def _on_this_registry(address: str) -> urllib.parse.SplitResult:
    """The address without host: behind some proxies a registry does not know its own name."""
    return urllib.parse.urlsplit(address)._replace(scheme="", netloc="")


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _manifest_path(reference: Reference) -> str:
    return f"/v2/{reference.repository}/manifests/{reference.digest or reference.tag}"


def _read_manifest(answer: Answer) -> Manifest:
    return Manifest(answer.body, answer.headers.get("content-type", MANIFEST_TYPES[0]).partition(";")[0])


def _check_list(key: str, answer: Answer) -> str:
    try:
        json.loads(answer.body)[key]
    except (ValueError, TypeError, KeyError):
        return f"answers something that is no list of {key}"
    return ""


def _pull(repository: str) -> str:
    return f"repository:{repository}:pull"


def _push(repository: str) -> str:
    return f"repository:{repository}:pull,push"
