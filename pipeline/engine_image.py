"""An image as an engine knows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineImage:
    """An image the engine has: its id, its tags and repository digests (whole references), its size in bytes."""

    id: str
    tags: frozenset[str]
    digests: frozenset[str]
    size: int

    def is_published_as(self, name: str, digest: str) -> bool:
        """Whether the registry's manifest `digest` of repository `name` is this image (in either of the engine's stores)."""
        return f"{name}@{digest}" in self.digests or self.id == digest
