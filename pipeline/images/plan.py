"""What would happen to each image, and why: immutable data made by pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import msgspec

from pipeline.engine_image import EngineImage
from pipeline.images.bases import LOCK_FILE, Bases, Foundation, absent_references
from pipeline.images.context import BuildContext
from pipeline.images.definition import ImageDefinition
from pipeline.images.fingerprint import Fingerprint, Input, changes, make_fingerprint
from pipeline.images.hierarchy import Hierarchy
from pipeline.images.pins import pin_marks
from pipeline.reference import Reference
from pipeline.revision import Revision, branch_tag, commit_tag, content_tag

Action = Literal["none", "tag", "pull", "build", "skip"]


class Reason(msgspec.Struct, frozen=True):
    """Why a step does what it does: `kind` for programs, `what` for people."""

    kind: str
    what: str


class Step(msgspec.Struct, frozen=True):
    """One image: its action with the reasons, and everything that carrying it out needs to know."""

    definition: ImageDefinition
    fingerprint: Fingerprint
    action: Action
    reasons: tuple[Reason, ...]
    content: Reference
    commit: Reference
    branch: Reference
    dirty: bool
    base: str  # the name that goes into BASE_IMAGE
    base_description: str
    named_contexts: Mapping[str, str]  # how the Dockerfile calls a used image → its real name
    needs: tuple[str, ...]
    stands_on: tuple[Foundation, ...]
    context: BuildContext
    image: EngineImage | None = None
    registry_digest: str = ""
    pin_mark: str = ""  # changes with the pins it is made from: no RUN layer with another mark is taken from the cache

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def references(self) -> tuple[Reference, ...]:
        return (self.content, self.commit, self.branch)


class BuildPlan(msgspec.Struct, frozen=True):
    """The steps of a revision in build order."""

    revision: Revision
    steps: tuple[Step, ...]

    def __getitem__(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)

    def as_json(self) -> dict[str, Any]:
        """The document that `invoke plan --json` prints."""
        return {
            "revision": {"branch": self.revision.branch, "commit": self.revision.commit, "dirty": self.revision.dirty},
            "images": [
                {
                    "name": step.name,
                    "parent": step.definition.parent or None,
                    "fingerprint": step.fingerprint.value,
                    "action": step.action,
                    "reasons": [{"kind": reason.kind, "what": reason.what} for reason in step.reasons],
                    "references": [str(reference) for reference in step.references],
                    "published": bool(step.registry_digest),
                }
                for step in self.steps
            ],
        }


_new = tuple.__new__  # half the time of an Input(…), of which there is one for every file


def make_fingerprints(hierarchy: Hierarchy, bases: Bases, contexts: Mapping[str, BuildContext]) -> dict[str, Fingerprint]:
    """The fingerprint of every image, parents first."""
    found: dict[str, Fingerprint] = {}
    for definition in hierarchy:
        inputs = [Input("platform", "", definition.platform), Input("description", "", definition.description)]
        context = contexts[definition.name]
        inputs.append(Input("dockerfile", "Dockerfile", context.recipe))
        inputs += [_new(Input, ("file", path, identity)) for path, identity in context.taken()]
        declared = context.dockerfile.arguments
        inputs += [Input("argument", name, value) for name, value in definition.args.items() if name in declared]
        if definition.base:
            inputs.append(Input("base", bases.name(definition.base), _identity(bases, definition.base)))
        else:
            inputs.append(Input("parent", definition.parent, found[definition.parent].value))
        inputs += [Input("uses", used, found[used].value if used in found else _identity(bases, used)) for used in definition.uses]
        found[definition.name] = make_fingerprint(inputs)
    return found


def find_dirty(
    hierarchy: Hierarchy, changed: Collection[str], contexts: Mapping[str, BuildContext], pinned: Collection[str]
) -> frozenset[str]:
    """The images with an uncommitted change in what they are made of, their parents and used images included.

    `changed`: paths relative to the project; `pinned`: the references that pipeline.lock, if it changed, gives a digest.
    """
    dirty: set[str] = set()
    pins = set(pinned) if LOCK_FILE in changed else set()
    for definition in hierarchy:
        folder = "" if definition.context == "." else definition.context + "/"
        context = contexts[definition.name]
        own = (
            definition.file in changed
            or not pins.isdisjoint((definition.base, *definition.uses))
            or any(context.depends_on(path.removeprefix(folder)) for path in changed if path.startswith(folder))
        )
        if own or dirty.intersection(hierarchy.needs(definition)):
            dirty.add(definition.name)
    return frozenset(dirty)


def plan_build(
    hierarchy: Hierarchy,
    revision: Revision,
    bases: Bases,
    contexts: Mapping[str, BuildContext],
    fingerprints: Mapping[str, Fingerprint],
    dirty: Collection[str],
    engine: Mapping[str, EngineImage],
    registry: Mapping[str, str],
    recorded: Mapping[str, tuple[Input, ...]],
    rebuild: bool = False,
    demanded: Collection[str] = (),
) -> BuildPlan:
    """Decide what happens to each image.

    `engine`: reference → image of what the engine has; `registry`: content reference → digest of what the registry has;
    `recorded`: the inputs of the last build in this checkout, only for the reasons; `rebuild`: build all, changed or not;
    `demanded`: the images that the engine must have afterwards, needed by a build or not.
    """
    steps: dict[str, Step] = {}
    marks = pin_marks(hierarchy, bases)
    for definition in hierarchy:
        fingerprint = fingerprints[definition.name]
        repository = definition.repository
        is_dirty = definition.name in dirty
        content = repository.with_tag(content_tag(fingerprint.value))
        commit = repository.with_tag(commit_tag(revision, is_dirty))
        branch = repository.with_tag(branch_tag(revision.branch, is_dirty))
        image = engine.get(str(content))
        digest = registry.get(str(content), "")
        needs = hierarchy.needs(definition)
        lacking = [*absent_references(bases, definition), *(name for name in needs if steps[name].action == "skip")]
        action, reasons = _decide(
            definition, fingerprint, image, digest, engine, (content, commit, branch), lacking, bases, recorded, rebuild
        )
        steps[definition.name] = Step(
            definition=definition,
            fingerprint=fingerprint,
            action=action,
            reasons=tuple(reasons),
            content=content,
            commit=commit,
            branch=branch,
            dirty=is_dirty,
            base=bases.build_name(definition.base) if definition.base else str(steps[definition.parent].content),
            base_description=bases.describe(definition.base) if definition.base else str(steps[definition.parent].content),
            named_contexts={used: str(steps[used].content) if used in steps else bases.build_name(used) for used in definition.uses},
            needs=needs,
            stands_on=tuple(
                Foundation(name) if name in steps else bases.foundation(name)
                for name in (definition.base or definition.parent, *definition.uses)
            ),
            context=contexts[definition.name],
            image=image,
            registry_digest=digest,
            pin_mark=marks[definition.name],
        )
    return BuildPlan(revision, _pull_only_needed(tuple(steps.values()), set(demanded)))


def _pull_only_needed(steps: tuple[Step, ...], needed: set[str]) -> tuple[Step, ...]:
    """Leave in the registry what nothing here is built on: an engine that is new or was emptied fetches next to nothing."""
    for step in steps:
        if step.action == "build":
            needed.update(step.needs)
    published = Reason("published", "the registry has it, and nothing here is built on it")
    return tuple(
        msgspec.structs.replace(step, action="none", reasons=(published,))
        if step.action == "pull" and step.image is None and step.name not in needed
        else step
        for step in steps
    )


def _decide(
    definition: ImageDefinition,
    fingerprint: Fingerprint,
    image: EngineImage | None,
    digest: str,
    engine: Mapping[str, EngineImage],
    references: tuple[Reference, Reference, Reference],
    lacking: list[str],
    bases: Bases,
    recorded: Mapping[str, tuple[Input, ...]],
    rebuild: bool,
) -> tuple[Action, list[Reason]]:
    if lacking:
        why = [f"{name} cannot be had: {bases[name].value}" if name in bases.found else f"{name} is skipped" for name in lacking]
        return "skip", [Reason("base" if name in bases.found else "parent", text) for name, text in zip(lacking, why, strict=True)]
    if rebuild:
        return "build", [Reason("asked", "built without the cache, as asked")]
    if digest and (image is None or not image.has_digest(digest)):
        what = (
            "the registry has this content, the engine has not"
            if image is None
            else "the registry has another image of this content, and it wins"
        )
        return "pull", [Reason("registry", what)]
    if image is None:
        before = recorded.get(definition.name)
        if before is None:
            return "build", [Reason("new", "never built in this checkout, and the registry has no image of this content")]
        changed = [Reason(kind, what) for kind, what in changes(before, fingerprint.inputs)]
        return "build", changed or [Reason("missing", "nothing changed, but neither engine nor registry has the image any more")]
    lacks = [reference for reference in references if getattr(engine.get(str(reference)), "id", "") != image.id]
    if lacks:
        return "tag", [Reason("tag", f"unchanged; to be tagged {reference.tag}") for reference in lacks]
    return "none", [Reason("unchanged", f"the engine has {references[0].tag}")]


def _identity(bases: Bases, reference: str) -> str:
    return bases.identity(reference)
