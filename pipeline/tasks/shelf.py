"""The registry, as publishing and releases need it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.adapters.registry import Manifest, Registry
from pipeline.config import Config
from pipeline.images.release import MANIFEST_TYPE
from pipeline.reference import Reference

REQUESTS = 8  # at the same time


class RegistryShelf:
    """The registry as publishing needs it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def digests(self, references: Sequence[Reference]) -> list[str]:
        return self._registry.digests(references)

    def check_writable(self, reference: Reference) -> None:
        self._registry.check_writable(reference.repository)

    def copy_tag(self, source: Reference, target: Reference) -> None:
        self._registry.put_manifest(target, self._registry.manifest(source))

    def fingerprint(self, reference: Reference) -> str:
        config = json.loads(self._registry.manifest(reference).content).get("config", {})
        image = json.loads(self._registry.blob(reference.repository, config["digest"])) if config else {}
        return str((image.get("config", {}).get("Labels") or {}).get("pipeline.fingerprint", ""))

    def size(self, reference: Reference) -> int:
        return self._registry.image_size(self._registry.manifest(reference))


def pull_reference(config: Config, reference: Reference) -> Reference:
    """Where an image is pulled from: the same path at `pull_from`, where that is another address."""
    host, _, prefix = config.pull_from.partition("/")
    own_prefix = config.registry.partition("/")[2]
    path = reference.repository.removeprefix(own_prefix + "/") if own_prefix else reference.repository
    return Reference(host, f"{prefix}/{path}" if prefix else path, reference.tag, reference.digest)


class RegistryReleases:
    """The repository of the releases."""

    def __init__(self, registry: Registry, repository: Reference) -> None:
        self._registry = registry
        self._repository = repository

    def manifest(self, tag: str) -> bytes | None:
        found = self._registry.find_manifest(self._repository.with_tag(tag))
        return found.content if found else None

    def put_manifest(self, tag: str, content: bytes) -> None:
        self._registry.put_manifest(self._repository.with_tag(tag), Manifest(content, MANIFEST_TYPE))

    def blob(self, digest: str) -> bytes:
        return self._registry.blob(self._repository.repository, digest)

    def put_blob(self, content: bytes) -> None:
        self._registry.put_blob(self._repository.repository, content)

    def tags(self) -> list[str]:
        return self._registry.tags(self._repository.repository)


def together(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """`map` with several requests at the same time."""
    given = list(items)
    if len(given) < 2:
        return [function(item) for item in given]
    with ThreadPoolExecutor(max_workers=REQUESTS) as pool:
        return list(pool.map(function, given))
