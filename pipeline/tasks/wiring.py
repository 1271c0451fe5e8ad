"""Domain and adapters put together: the facts are read, in parallel where they come from different places, and planned upon."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.adapters.docker_context import engine_endpoint
from pipeline.adapters.docker_images import DockerImages
from pipeline.adapters.git_repository import find_commit, find_missing_below, is_shallow, read_git, relate_commits
from pipeline.adapters.registry import Registry
from pipeline.config import CONFIG_FILE, Config
from pipeline.errors import (
    ConfigurationError,
    ImageUnavailableError,
    RegistryUnreachableError,
    RevisionError,
)
from pipeline.images.bases import LOCK_FILE, Base, Bases, read_bases, remember_bases, resolve_bases
from pipeline.images.build import INPUTS_FOLDER, recorded_inputs
from pipeline.images.context import BuildContext, read_contexts
from pipeline.images.definition import RELEASES, release_place
from pipeline.images.fingerprint import Fingerprint
from pipeline.images.hashes import hash_cache
from pipeline.images.hierarchy import Hierarchy, read_hierarchy
from pipeline.images.pins import PinState, aged_bases, ask_pins
from pipeline.images.plan import BuildPlan, find_dirty, make_fingerprints, plan_build
from pipeline.images.release import Relation, Release, Releases
from pipeline.reference import Reference, parse_reference
from pipeline.revision import GitFacts, Revision, branch_tag, content_tag, name_revision
from pipeline.state_files import sweep_unfinished
from pipeline.tasks.external_images import ExternalImages
from pipeline.tasks.shelf import REQUESTS, RegistryReleases, RegistryShelf, pull_reference, together

if TYPE_CHECKING:
    from pipeline.images.explain import ExplainedPlan
    from pipeline.tasks.workshop import DockerWorkshop

_PUBLISHED: dict[str, str] = {}  # content tag → digest, as this process has seen them in the registry


class Checkout(NamedTuple):
    """What images are made of, as they were at one moment."""

    config: Config
    hierarchy: Hierarchy
    facts: GitFacts
    bases: Bases
    contexts: Mapping[str, BuildContext]
    fingerprints: Mapping[str, Fingerprint]


_BUILT: dict[tuple[Path, tuple[str, ...]], Checkout] = {}  # project and images asked for → what this process built them from


class ImageProject:
    """The images of one repository with the engine and the registry they live on."""

    unpinned = " (not pinned: invoke pins.update)"  # what is said of a base that had to be asked for

    def __init__(self, config: Config, say: Callable[[str], None]) -> None:
        self.config = config
        self.say = say
        self.endpoint = engine_endpoint()
        self.engine = DockerImages(self.endpoint)
        self.registry = Registry(config.registry.partition("/")[0], say=say)
        self._registries = {self.registry.host: self.registry}  # those of other repositories' releases come when they are needed
        self._others: dict[str, Releases] = {}

    def __enter__(self) -> ImageProject:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()
        for registry in self._registries.values():
            registry.close()

    def abort(self) -> None:
        """Break off every request to the engine and to the registry, for good."""
        self.engine.abort()
        for registry in self._registries.values():
            registry.abort()

    @cached_property
    def hierarchy(self) -> Hierarchy:
        try:
            return read_hierarchy(self.config)
        except ConfigurationError as error:
            if missing := find_missing_below(self.config.root):
                raise ConfigurationError(error.message, f"{error.hint}\n{_submodules_hint(missing)}") from None
            raise

    def read_plan(
        self,
        only: Sequence[str] = (),
        rebuild: bool = False,
        need_registry: bool = False,
        remember: bool = False,
        demanded: Collection[str] = (),
        as_built: bool = False,
    ) -> BuildPlan:
        """Read every fact and plan. Without `need_registry`, a registry that does not answer is said and left out.

        `remember`: write down what later runs need not ask for again. `demanded`: images that the engine must have afterwards.
        `as_built`: where this process has built these images, take the checkout as it was then. What was built is what is
        published, under the commit that it was built from, whatever has been written or committed meanwhile.
        """
        key = (self.config.root, tuple(sorted(only)))
        built = _BUILT.get(key) if as_built else None
        checkout = built if built and built.config == self.config else None
        everything = checkout.hierarchy if checkout else self.hierarchy
        hierarchy = everything.only(only) if only else everything
        with ThreadPoolExecutor(max_workers=REQUESTS) as pool:
            # The engine leaves digests out that belong to no repository asked for.
            repositories = {
                reference.name
                for definition in hierarchy
                for reference in (definition.repository, pull_reference(self.config, definition.repository))
            }
            listing = pool.submit(self.engine.list_images, repositories)
            checkout = checkout or self._read_checkout(hierarchy, pool, remember, need_registry)
            if remember:
                _BUILT[key] = checkout
            _, _, facts, bases, contexts, fingerprints = checkout
            contents = [definition.repository.with_tag(content_tag(fingerprints[definition.name].value)) for definition in hierarchy]
            revision = self.name_revision(facts)
            try:
                digests = self._published_contents(contents)
            except RegistryUnreachableError as error:
                if need_registry:
                    raise
                self.say(f"warning: {error.message}; going by what the engine has")
                digests = {}
            engine = listing.result()
        missing = [
            definition.name
            for definition, content in zip(hierarchy, map(str, contents), strict=True)
            if content not in engine and not digests.get(content)
        ]
        dirty = find_dirty(hierarchy, facts.changed, contexts, bases.pinned)
        revision = Revision(revision.branch, revision.commit, bool(dirty))
        return plan_build(
            hierarchy,
            revision,
            bases,
            contexts,
            fingerprints,
            dirty,
            engine,
            digests,
            recorded_inputs(self.config.state, missing),
            rebuild,
            demanded,
        )

    def _read_checkout(self, hierarchy: Hierarchy, pool: ThreadPoolExecutor, remember: bool, quiet: bool) -> Checkout:
        root = self.config.root
        git = pool.submit(
            read_git, root, [LOCK_FILE, *(path for definition in hierarchy for path in (definition.context, definition.file))]
        )
        if remember:
            sweep_unfinished(self.config.state, self.config.state / INPUTS_FOLDER)
        hashes = hash_cache(root)
        contexts = read_contexts(root, hierarchy, hashes)
        if remember:
            hashes.save()
        bases = self.bases(hierarchy, remember)
        if self.config.max_pin_age and not quiet:
            for warning in aged_bases(hierarchy, bases, self.config.max_pin_age):
                self.say(f"warning: {warning}")
        facts = git.result()
        _refuse_missing(hierarchy, contexts, facts.missing)
        return Checkout(self.config, hierarchy, facts, bases, contexts, make_fingerprints(hierarchy, bases, contexts))

    def _published_contents(self, contents: Sequence[Reference]) -> dict[str, str]:
        """Content reference → digest, of those that the registry has. What it had a moment ago is not asked for again: the tag never moves."""
        unknown = [reference for reference in contents if str(reference) not in _PUBLISHED]
        _PUBLISHED.update(
            {str(reference): digest for reference, digest in zip(unknown, self.registry.digests(unknown), strict=True) if digest}
        )
        return {str(reference): _PUBLISHED.get(str(reference), "") for reference in contents}

    def bases(self, hierarchy: Hierarchy, remember: bool = True) -> Bases:
        """What the hierarchy begins with; what had to be asked for is remembered, and said to be not pinned."""
        known = read_bases(self.config.root, self.config.pull_from)
        bases = resolve_bases(hierarchy, known, self._external(hierarchy))
        for reference in bases.found.keys() - known.found.keys():
            if bases.found[reference].kind != "local":
                self.say(f"base {reference}: {bases.describe(reference)}{self.unpinned}")
        if remember:  # with what is known for images that are not asked for now
            remember_bases(self.config.root, Bases({**known.found, **bases.found}, known.pinned, known.registry))
        return bases

    def _external(self, hierarchy: Hierarchy) -> ExternalImages:
        return ExternalImages(self.engine, hierarchy, self.releases_of, self.config.pull_from)

    def releases_of(self, release: str) -> Releases:
        """The releases of another repository: of NAMESPACE where images are pulled from, or of HOST/…/NAMESPACE."""
        if release not in self._others:
            registry, namespace = release_place(release, self.config.pull_from)
            host, _, prefix = registry.partition("/")
            if host not in self._registries:
                self._registries[host] = Registry(host, say=self.say)
            path = "/".join(part for part in (prefix, namespace, RELEASES) if part)
            self._others[release] = Releases(RegistryReleases(self._registries[host], Reference(host, path)), together)
        return self._others[release]

    def ask_pins(self, pins: Mapping[str, Base], only: Sequence[str] = ()) -> tuple[PinState, ...]:
        """How it stands with each pin, asked anew."""
        return ask_pins(self.hierarchy, pins, self._external(self.hierarchy), only)

    def workshop(self, plan: BuildPlan) -> DockerWorkshop:
        """Where `plan` is carried out. Raises ConfigurationError for a build secret that is not there."""
        from pipeline.tasks.workshop import DockerWorkshop

        return DockerWorkshop(self.config, self.endpoint, self.engine, plan, self.say)

    def explain(self, only: Sequence[str] = (), against: str = "") -> ExplainedPlan:
        """A plan beside the release that `against` names, or the last one of this branch; where that is none, it is said."""
        from pipeline.images.explain import explain_plan

        with ThreadPoolExecutor(max_workers=1) as pool:
            asked = pool.submit(self._release_of, against)
            plan = self.read_plan(only)
            release = asked.result()
        return explain_plan(plan, release, self.releases.inputs, together)

    def _release_of(self, against: str) -> Release | None:
        if against:
            return self.find_release(against)
        branch = self.revision().branch
        try:
            release, what = self.releases.read(branch_tag(branch)), f"branch {branch} has no release yet"
        except RegistryUnreachableError as error:
            release, what = None, error.message
        if release is None:
            self.say(f"{what}: compared with the last build in this checkout")
        return release

    @cached_property
    def shelf(self) -> RegistryShelf:
        """The registry as publishing needs it."""
        return RegistryShelf(self.registry)

    @cached_property
    def releases(self) -> Releases:
        """The releases of this project in its registry."""
        host, _, prefix = self.config.registry.partition("/")
        path = "/".join(part for part in (prefix, self.config.namespace, RELEASES) if part)
        return Releases(RegistryReleases(self.registry, Reference(host, path)), together)

    def find_release(self, wanted: str) -> Release:
        """The release that a branch, a tag, a commit, or any name that git has for one (`HEAD~1`) stands for."""
        try:
            return self.releases.find(wanted)
        except ImageUnavailableError as error:
            commit = find_commit(self.config.root, wanted)
            if not commit and is_shallow(self.config.root):
                raise ImageUnavailableError(
                    error.message,
                    f"{error.hint}\nThis clone is shallow, and git may know '{wanted}' only with all of it: git fetch --unshallow",
                ) from None
            if not commit or commit == wanted:
                raise
        return self.releases.find(commit)

    def revision(self) -> Revision:
        """The revision of this checkout, whether or not there are uncommitted changes."""
        return self.name_revision(read_git(self.config.root, [CONFIG_FILE]))

    def name_revision(self, facts: GitFacts) -> Revision:
        """The revision, from git and from what the build server says."""
        return name_revision(facts, os.environ)

    def relation(self, old: str, new: str) -> Relation:
        """How two commits stand to each other in this clone's history."""
        return relate_commits(self.config.root, old, new)


def _refuse_missing(hierarchy: Hierarchy, contexts: Mapping[str, BuildContext], missing: Sequence[str]) -> None:
    """Raise RevisionError for an image that takes something of a submodule that is not checked out: Docker would take an empty folder."""
    for definition in hierarchy:
        folder = "" if definition.context == "." else definition.context + "/"
        for path in missing:
            if path.startswith(folder) and contexts[definition.name].depends_on(path.removeprefix(folder)):
                raise RevisionError(
                    f"the image {definition.name} takes {path}, a submodule that is not checked out", _submodules_hint([path])
                )


def _submodules_hint(missing: Sequence[str]) -> str:
    return f"Check the submodules out: git submodule update --init --recursive {' '.join(missing)}"


def pull_release(project: ImageProject, release: Release) -> None:
    """Get a release's images onto the engine, by digest, under all their tags. Raises ImageUnavailableError."""

    def pull(name: str) -> None:
        image = release.images[name]
        own = parse_reference(f"{image.repository}@{image.digest}")
        source = pull_reference(project.config, own)
        project.engine.pull_image(source)
        for tag in (*image.tags, release.branch_tag):
            project.engine.tag_image(str(source), own.with_tag(tag))
        project.say(f"{name}: pulled {source}")

    together(pull, release.present)
