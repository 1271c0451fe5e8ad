"""An image as an engine knows it."""

from __future__ import annotations

import msgspec


class EngineImage(msgspec.Struct, frozen=True):
    """An image the engine has: its id, its tags and repository digests (whole references), its size in bytes.

    `platform`: os/architecture[/variant]; empty where the engine was asked for a list.
    """

    id: str
    tags: frozenset[str]
    digests: frozenset[str]
    size: int
    platform: str = ""

    def has_digest(self, digest: str) -> bool:
        """Whether a registry's manifest `digest` is this image, whatever address it came from, in either of the engine's stores."""
        return self.id == digest or any(known.endswith(f"@{digest}") for known in self.digests)
