"""Which releases stand on an image: what is asked about, and where to look, put together with the registry."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.document import nearest
from pipeline.errors import ConfigurationError, ImageUnavailableError, RegistryRefusedError
from pipeline.images.bases import takers
from pipeline.images.definition import RELEASES
from pipeline.images.release import Release
from pipeline.images.users import Use, Wanted, find_users
from pipeline.tasks.wiring import ImageProject


def find_release_users(project: ImageProject, image: str, namespaces: Sequence[str], all_of_them: bool) -> list[Use]:
    """Who stands on an image. Raises ConfigurationError for one that this repository neither makes nor takes from elsewhere."""
    wanted = _wanted(project, image)
    config = project.config
    releases = {}
    for place in namespaces or _namespaces(project):
        kept = project.releases_of(place)
        try:
            releases[place] = kept.list() if all_of_them else kept.promoted()
        except RegistryRefusedError as error:
            if namespaces:
                raise
            project.say(f"warning: {place}/{RELEASES} is left out: {error.message}")  # another team's, of whatever kind

    def read(place: str, tag: str) -> Release | None:
        try:
            return project.releases_of(place).read(tag)
        except RegistryRefusedError as error:  # then what it stands on cannot be told
            project.say(f"warning: release {tag} of {place} is left out: {error.message}")
            return None

    return find_users(wanted, releases, read, config.pull_from)


def _wanted(project: ImageProject, image: str) -> Wanted:
    hierarchy = project.hierarchy
    if image in hierarchy:
        release = project.find_release(project.revision().branch)
        if image not in release.present:
            raise ImageUnavailableError(f"release {release.tag} has no image {image}", "Publish it first: invoke build push")
        return Wanted(f"{project.config.namespace}/{image}", release.images[image].digest, True)
    taken = takers(hierarchy)
    parents = {definition.release.key.partition("@")[0]: definition.release for definition in hierarchy if definition.release}
    if image in parents:
        newest = project.releases_of(parents[image].release).locate(parents[image].track)[1]
        return Wanted(image, newest.images[parents[image].image].digest, True)
    if image not in taken:
        names = (*hierarchy.names, *(parents.keys() | taken.keys()))
        raise ConfigurationError(f"there is no image '{image}' here, and none is taken from elsewhere", nearest(image, names))
    return Wanted(image, project.bases(hierarchy, remember=False)[image].value, False)


def _namespaces(project: ImageProject) -> list[str]:
    """Every namespace that has releases in the registry. Raises RegistryRefusedError where it may not be listed."""
    prefix = project.config.registry.partition("/")[2]
    try:
        found = project.registry.repositories()
    except RegistryRefusedError as error:
        raise RegistryRefusedError(
            error.message, "Many registries list their repositories to nobody: name them, --namespace NAME"
        ) from None
    below = [name.removeprefix(f"{prefix}/") for name in found if not prefix or name.startswith(f"{prefix}/")]
    return sorted(name.removesuffix(f"/{RELEASES}") for name in below if name.endswith(f"/{RELEASES}"))
