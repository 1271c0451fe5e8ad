"""The image definitions as a graph: parents and used images before those that are built on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import msgspec

from pipeline.config import Config
from pipeline.document import line_of, nearest
from pipeline.errors import ConfigurationError
from pipeline.images.definition import ImageDefinition, read_definitions
from pipeline.images.dockerfile import BASE_ARGUMENT, parse_dockerfile
from pipeline.reference import parse_reference


class Hierarchy(msgspec.Struct, frozen=True, dict=True):
    """All definitions in build order."""

    definitions: tuple[ImageDefinition, ...]

    @cached_property
    def _by_name(self) -> dict[str, ImageDefinition]:
        return {definition.name: definition for definition in self.definitions}

    def __iter__(self) -> Iterator[ImageDefinition]:
        return iter(self.definitions)

    def __getitem__(self, name: str) -> ImageDefinition:
        try:
            return self._by_name[name]
        except KeyError:
            raise ConfigurationError(f"there is no image definition '{name}'", nearest(name, self._by_name)) from None

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    def needs(self, definition: ImageDefinition) -> tuple[str, ...]:
        """The names of the definitions it is made from directly: its parent first, then those it uses."""
        return tuple(name for name in (definition.parent, *definition.uses) if name in self._by_name)

    def only(self, wanted: Iterable[str]) -> Hierarchy:
        """The named images with all that they are made from. Raises ConfigurationError for an unknown name."""
        kept: set[str] = set()
        waiting = [self[name].name for name in wanted]
        while waiting:
            name = waiting.pop()
            if name not in kept:
                kept.add(name)
                waiting.extend(self.needs(self[name]))
        return Hierarchy(tuple(definition for definition in self.definitions if definition.name in kept))


def read_hierarchy(config: Config) -> Hierarchy:
    """Read every definition and check all that can be checked without asking anybody. Raises ConfigurationError."""
    definitions = read_definitions(config)
    _refuse_duplicates(definitions)
    names = {definition.name for definition in definitions}
    for definition in definitions:
        if definition.parent and definition.parent not in names:
            raise _error(config.root, definition, f"unknown parent '{definition.parent}'", nearest(definition.parent, names), "parent")
    hierarchy = Hierarchy(_in_build_order(config.root, definitions))
    for definition in hierarchy:
        _check_dockerfile(config.root, definition, names)
    return hierarchy


def _refuse_duplicates(definitions: tuple[ImageDefinition, ...]) -> None:
    seen: dict[tuple[str, str], ImageDefinition] = {}
    for definition in definitions:
        for what, value in (("name", definition.name), ("repository", definition.repository.name)):
            first = seen.setdefault((what, value), definition)
            if first is not definition:
                raise ConfigurationError(
                    f"{definition.file}:1: the {what} '{value}' is taken by {first.file}", f"Give one of them another `{what}:`."
                )


def _in_build_order(root: Path, definitions: tuple[ImageDefinition, ...]) -> tuple[ImageDefinition, ...]:
    by_name = {definition.name: definition for definition in definitions}
    done: dict[str, ImageDefinition] = {}
    for first in definitions:
        stack: list[tuple[ImageDefinition, Iterator[str]]] = [(first, iter(_edges(first, by_name)))]
        path = [first.name]
        while stack:
            definition, edges = stack[-1]
            following = next((name for name in edges if name not in done), None)
            if definition.name in done or following is None:
                done.setdefault(definition.name, definition)
                stack.pop()
                path.pop()
            elif following in path:
                circle = " → ".join([*path[path.index(following) :], following])
                raise _error(root, definition, f"the images are made from each other in a circle: {circle}", "Remove one of these `parent:` or `uses:`.", "parent" if definition.parent == following else "uses")  # fmt: skip
            else:
                stack.append((by_name[following], iter(_edges(by_name[following], by_name))))
                path.append(following)
    return tuple(done.values())


def _edges(definition: ImageDefinition, by_name: dict[str, ImageDefinition]) -> list[str]:
    return [name for name in (definition.parent, *definition.uses) if name in by_name]


def _check_dockerfile(root: Path, definition: ImageDefinition, names: set[str]) -> None:
    try:
        text = (root / definition.dockerfile).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{definition.dockerfile}: cannot be read: {error}", "It must be a readable UTF-8 text file.") from error
    found = parse_dockerfile(text, definition.args)
    if not found.has_base or BASE_ARGUMENT not in found.arguments:
        raise ConfigurationError(
            f"{definition.dockerfile}:1: takes its base from nowhere",
            "Begin it with the two lines `ARG BASE_IMAGE` and `FROM ${BASE_IMAGE}`.",
        )
    for image in found.images:
        if image.name not in definition.uses:
            raise ConfigurationError(
                f"{definition.dockerfile}:{image.line}: takes the image '{image.name}', which {definition.file} does not list",
                f"Add it there: `uses: [{image.name}]`. " + (nearest(image.name, definition.uses) if definition.uses else ""),
            )
    taken = {image.name for image in found.images}
    for number, used in enumerate(definition.uses):
        if used.lower() in found.stages:  # a named context replaces the stage, too
            raise _error(root, definition, f"'uses': a build stage is called '{used}', too", f"Call the stage something else: FROM {used} AS …", "uses", number)  # fmt: skip
        if used not in taken:
            raise _error(root, definition, f"'uses': the Dockerfile takes no image '{used}'", "Remove it, or name it in a FROM or COPY --from.", "uses", number)  # fmt: skip
        if used not in names:
            try:
                parse_reference(used)
            except ConfigurationError as error:
                raise _error(root, definition, f"'uses': {error.message}", error.hint, "uses", number) from None
    for name in definition.args:
        if name == BASE_ARGUMENT or name not in found.arguments:
            hint = (
                "It is given by the pipeline."
                if name == BASE_ARGUMENT
                else f"Add `ARG {name}` to the Dockerfile. {nearest(name, found.arguments)}"
            )
            raise _error(root, definition, f"'args': the Dockerfile declares no argument '{name}' of yours", hint, "args", name)


def _error(root: Path, definition: ImageDefinition, what: str, hint: str, *place: str | int) -> ConfigurationError:
    return ConfigurationError(f"{definition.file}:{line_of(root / definition.file, *place)}: {what}", hint)
