"""Images from elsewhere, as finding out what they really are needs them: asked of the engine, and of their registry."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from threading import Lock

from pipeline.adapters.docker_images import DockerImages
from pipeline.adapters.mmdebstrap import bootstrap_suite
from pipeline.adapters.registry import Registry
from pipeline.adapters.registry_requests import ONCE
from pipeline.errors import BuildError, ImageUnavailableError, RegistryRefusedError, RegistryUnreachableError
from pipeline.images.bases import PUBLISH_HINT, Base
from pipeline.images.definition import ReleaseParent, release_place
from pipeline.images.hierarchy import Hierarchy
from pipeline.images.release import Release, Releases
from pipeline.reference import Reference, parse_reference


class ExternalImages:
    """Whom to ask about images from elsewhere."""

    def __init__(self, engine: DockerImages, hierarchy: Hierarchy, releases_of: Callable[[str], Releases], pull_from: str) -> None:
        self._engine = engine
        self._hierarchy = hierarchy
        self._releases_of = releases_of
        self._pull_from = pull_from
        self._located: dict[tuple[str, str], tuple[str, Release]] = {}  # images of one release come from one state of it
        self._locating = Lock()

    def local_image(self, reference: str) -> tuple[str, str] | None:
        image = self._engine.find_image(reference)
        if image is None:
            return None
        name = parse_reference(reference).name  # an image may have digests in other repositories, too
        digest = next((found.digest for found in map(parse_reference, sorted(image.digests)) if found.name == name), "")
        if not digest:  # else its registry may have it for more platforms
            self._check_platform(reference, [image.platform])
        return image.id, digest

    def remote_digest(self, reference: str) -> str:
        try:
            found = self._engine.remote_image(reference)
        except ImageUnavailableError:
            if image := self._engine.find_image(reference):  # what is taken instead
                self._check_platform(reference, [image.platform])
            raise
        # The engine looks into lists of images and into Docker's own manifests, and not into OCI ones (seen with 26.1).
        self._check_platform(reference, found.platforms or _read_platform(parse_reference(reference).with_digest(found.digest)))
        return found.digest

    def released_image(self, parent: ReleaseParent) -> Base:
        place = (parent.release, parent.track)
        with self._locating:
            try:
                if place not in self._located:
                    self._located[place] = self._releases_of(parent.release).locate(parent.track)
            except (ImageUnavailableError, RegistryUnreachableError, RegistryRefusedError) as error:
                hint = f"{error.hint}\n{PUBLISH_HINT}" if isinstance(error, ImageUnavailableError) else error.hint
                raise ImageUnavailableError(f"release {parent.release}@{parent.track}: {error.message}", hint) from None
            manifest, release = self._located[place]
        image = release.present.get(parent.image)
        if image is None:
            found = f"release {release.tag} of {parent.release} has no image '{parent.image}'"
            raise ImageUnavailableError(f"{found}; it has {', '.join(sorted(release.present)) or 'none'}")
        # Where it is pulled from may be another place than the one it was pushed to, which the release names.
        namespace = release_place(parent.release, "")[1]
        own = image.repository.endswith(f"/{namespace}/{parent.image}")
        repository = f"{parent.release}/{parent.image if own else image.repository.partition(f'/{namespace}/')[2]}"
        pulled = "/".join(release_place(repository, self._pull_from))
        self._check_platform(parent.key, _read_platform(parse_reference(f"{pulled}@{image.digest}")))
        return Base("release", image.digest, release=release.tag, manifest=manifest, repository=repository)

    def _check_platform(self, reference: str, platforms: Sequence[str]) -> None:
        """BuildKit takes a base that is for one platform only for whichever is wanted, and names what it builds after that."""
        found = {tuple(platform.split("/")[:2]) for platform in platforms}
        for definition in self._hierarchy:
            if definition.base == reference and found and tuple(definition.platform.split("/")[:2]) not in found:
                raise BuildError(
                    f"{definition.file}: the image '{reference}' is for {', '.join(platforms)}, and {definition.platform} is wanted",
                    "Name a base for that platform, or say `platform:` in the definition.",
                )

    def bootstrap_suite(self, suites: Mapping[str, str]) -> str:
        return bootstrap_suite(suites)


def _read_platform(reference: Reference) -> tuple[str, ...]:
    """What one image in a registry is for; empty where only the engine reaches that registry, through a mirror."""
    with suppress(RegistryUnreachableError, RegistryRefusedError), closing(Registry(reference.registry, patience=ONCE)) as registry:
        config = json.loads(registry.manifest(reference).content).get("config")
        image = json.loads(registry.blob(reference.repository, config["digest"])) if config else {}
        return (f"{image['os']}/{image['architecture']}",) if {"os", "architecture"} <= image.keys() else ()
    return ()
