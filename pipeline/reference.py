"""The name of an image, taken apart: registry, repository, tag or digest.

The grammar is the OCI distribution specification's ("Pulling manifests") and the rules of Docker's own reference parser.
"""

from __future__ import annotations

import re

import msgspec

from pipeline.errors import ConfigurationError

DOCKER_HUB = "docker.io"

COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"  # OCI distribution specification, "Pulling manifests"
REPOSITORY = re.compile(rf"{COMPONENT}(?:/{COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEX_NAME = re.compile(r"[0-9a-f]{64}")
_REGISTRY = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
)
MAX_NAME = 255  # registry, slash and path together


class Reference(msgspec.Struct, frozen=True):
    """An image's whole name. `registry` is HOST[:PORT]; `repository` the path; `tag` movable; `digest` for ever."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    def with_tag(self, tag: str) -> Reference:
        return Reference(self.registry, self.repository, tag)

    def with_digest(self, digest: str) -> Reference:
        return Reference(self.registry, self.repository, "", digest)


def parse_reference(text: str) -> Reference:
    """Read a reference as Docker does (`ubuntu:24.04` is `docker.io/library/ubuntu:24.04`; no tag means `latest`).

    Raises ConfigurationError with what is wrong.
    """
    rest, _, digest = text.partition("@")
    if digest and not _DIGEST.fullmatch(digest):
        raise _invalid(text, f"'{digest}' is not a digest", "A digest is sha256: and 64 hexadecimal digits.")
    if "@" in text and not digest:
        raise _invalid(text, "nothing follows the @", "A digest is sha256: and 64 hexadecimal digits.")
    head, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        head, tag = rest, ""
    if (colon and head != rest and not tag) or (tag and not _TAG.fullmatch(tag)):
        raise _invalid(
            text, f"'{tag}' is not a tag", "A tag has up to 128 letters, digits, '_', '.', '-', and does not begin with '.' or '-'."
        )
    registry, slash, path = head.partition("/")
    if not slash or not ("." in registry or ":" in registry or registry == "localhost" or registry != registry.lower()):
        registry, path = DOCKER_HUB, head
    if registry in ("index.docker.io", DOCKER_HUB):
        registry = DOCKER_HUB
        path = path if "/" in path else f"library/{path}"
    if not _REGISTRY.fullmatch(registry):
        raise _invalid(text, f"'{registry}' is not a registry", "A registry is a host with an optional port, without a scheme.")
    if not REPOSITORY.fullmatch(path):
        raise _invalid(
            text,
            f"'{path}' is not a repository",
            "A repository has lower-case letters, digits and single separators (. _ -), divided by slashes.",
        )
    if _HEX_NAME.fullmatch(head):
        raise _invalid(text, "64 hexadecimal digits are an image id, not a name", "Give the image a name: docker tag ID NAME")
    if len(registry) + 1 + len(path) > MAX_NAME:
        raise _invalid(text, f"the name is longer than {MAX_NAME} characters", "Shorten the namespace or the repository.")
    return Reference(registry, path, tag or ("" if digest else "latest"), digest)


def _invalid(text: str, what: str, hint: str) -> ConfigurationError:
    return ConfigurationError(f"'{text}' is not an image reference: {what}", hint)
