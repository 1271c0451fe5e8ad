"""Domain and adapters put together: the facts are read, in parallel where they come from different places, and planned upon."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from pipeline.adapters.buildx import BuildRequest, Buildx
from pipeline.adapters.docker_context import engine_endpoint
from pipeline.adapters.docker_images import DockerImages
from pipeline.adapters.git_repository import find_commit, read_git, relate_commits, source_url
from pipeline.adapters.mmdebstrap import bootstrap_suite, make_root_filesystem
from pipeline.adapters.registry import Manifest, Registry
from pipeline.adapters.registry_requests import ONCE
from pipeline.config import CONFIG_FILE, Config
from pipeline.document import line_of, nearest
from pipeline.errors import (
    BuildError,
    ConfigurationError,
    EngineError,
    ImageUnavailableError,
    RegistryRefusedError,
    RegistryUnreachableError,
)
from pipeline.images.bases import BOOTSTRAP_REPOSITORY, LOCK_FILE, Base, Bases, read_bases, remember_bases, resolve_bases
from pipeline.images.build import build_images, recorded_inputs
from pipeline.images.context import read_contexts, write_context
from pipeline.images.definition import RELEASES
from pipeline.images.dockerfile import takes_context
from pipeline.images.explain import ExplainedPlan, explain_plan
from pipeline.images.hashes import hash_cache
from pipeline.images.hierarchy import Hierarchy, read_hierarchy
from pipeline.images.pins import PinState, aged_bases, ask_pins
from pipeline.images.plan import BuildPlan, Step, find_dirty, make_fingerprints, plan_build
from pipeline.images.progress import PlainLines
from pipeline.images.release import MANIFEST_TYPE, Relation, Release, Releases
from pipeline.reference import Reference, parse_reference
from pipeline.revision import Revision, branch_tag, content_tag, name_revision

REQUESTS = 8  # to the registry at the same time
_PUBLISHED: dict[str, str] = {}  # content tag → digest, as this process has seen them in the registry


class ImageProject:
    """The images of one repository with the engine and the registry they live on."""

    def __init__(self, config: Config, say: Callable[[str], None]) -> None:
        self.config = config
        self.say = say
        self.endpoint = engine_endpoint()
        self.engine = DockerImages(self.endpoint)
        self.registry = Registry(config.registry.partition("/")[0])

    def __enter__(self) -> ImageProject:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()
        self.registry.close()

    def abort(self) -> None:
        """Break off every request to the engine and to the registry, for good."""
        self.engine.abort()
        self.registry.abort()

    @cached_property
    def hierarchy(self) -> Hierarchy:
        return read_hierarchy(self.config)

    def read_plan(
        self,
        only: Sequence[str] = (),
        rebuild: bool = False,
        need_registry: bool = False,
        remember: bool = False,
        demanded: Collection[str] = (),
    ) -> BuildPlan:
        """Read every fact and plan. Without `need_registry`, a registry that does not answer is said and left out.

        `remember`: write down what later runs need not ask for again. `demanded`: images that the engine must have afterwards.
        """
        root = self.config.root
        hierarchy = self.hierarchy.only(only) if only else self.hierarchy
        with ThreadPoolExecutor(max_workers=REQUESTS) as pool:
            # The engine leaves digests out that belong to no repository asked for.
            repositories = {
                reference.name
                for definition in hierarchy
                for reference in (definition.repository, pull_reference(self.config, definition.repository))
            }
            listing = pool.submit(self.engine.list_images, repositories)
            git = pool.submit(
                read_git, root, [LOCK_FILE, *(path for definition in hierarchy for path in (definition.context, definition.file))]
            )
            hashes = hash_cache(root)
            contexts = read_contexts(root, hierarchy, hashes)
            if remember:
                hashes.save()
            bases = self.bases(hierarchy, remember)
            if self.config.max_pin_age and not need_registry:  # a push follows a build, which has said so
                for warning in aged_bases(hierarchy, bases, self.config.max_pin_age):
                    self.say(f"warning: {warning}")
            fingerprints = make_fingerprints(hierarchy, bases, contexts)
            contents = [definition.repository.with_tag(content_tag(fingerprints[definition.name].value)) for definition in hierarchy]
            facts = git.result()
            revision = name_revision(facts, os.environ)
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

    def _published_contents(self, contents: Sequence[Reference]) -> dict[str, str]:
        """Content reference → digest, of those that the registry has. What it had a moment ago is not asked for again: the tag never moves."""
        unknown = [reference for reference in contents if str(reference) not in _PUBLISHED]
        _PUBLISHED.update(
            {str(reference): digest for reference, digest in zip(unknown, self.registry.digests(unknown), strict=True) if digest}
        )
        return {str(reference): _PUBLISHED.get(str(reference), "") for reference in contents}

    def bases(self, hierarchy: Hierarchy, remember: bool = True) -> Bases:
        """What the hierarchy begins with; what had to be asked for is remembered, and said to be not pinned."""
        known = read_bases(self.config.root)
        bases = resolve_bases(hierarchy, known, _Source(self.engine, hierarchy))
        for reference in bases.found.keys() - known.found.keys():
            if bases.found[reference].kind != "local":
                self.say(f"base {reference}: {bases.describe(reference)} (not pinned: invoke pins.update)")
        if remember:  # with what is known for images that are not asked for now
            remember_bases(self.config.root, Bases({**known.found, **bases.found}, known.pinned))
        return bases

    def ask_pins(self, pins: Mapping[str, Base], only: Sequence[str] = ()) -> tuple[PinState, ...]:
        """How it stands with each pin, asked anew."""
        return ask_pins(self.hierarchy, pins, _Source(self.engine, self.hierarchy), only)

    def workshop(self, plan: BuildPlan) -> DockerWorkshop:
        """Where `plan` is carried out. Raises ConfigurationError for a build secret that is not there."""
        return DockerWorkshop(self, plan)

    def explain(self, plan: BuildPlan, against: str = "") -> ExplainedPlan:
        """A plan beside the release that `against` names, or the last one of this branch; where that is none, it is said."""
        if against:
            release: Release | None = self.find_release(against)
        else:
            tag = branch_tag(plan.revision.branch)
            try:
                release, what = self.releases.read(tag), f"branch {plan.revision.branch} has no release yet"
            except RegistryUnreachableError as error:
                release, what = None, error.message
            if release is None:
                self.say(f"{what}: compared with the last build in this checkout")
        return explain_plan(plan, release, self.releases.inputs, together)

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
        except ImageUnavailableError:
            commit = find_commit(self.config.root, wanted)
            if not commit or commit == wanted:
                raise
        return self.releases.find(commit)

    def revision(self) -> Revision:
        """The revision of this checkout, whether or not there are uncommitted changes."""
        return name_revision(read_git(self.config.root, [CONFIG_FILE]), os.environ)

    def relation(self, old: str, new: str) -> Relation:
        """How two commits stand to each other in this clone's history."""
        return relate_commits(self.config.root, old, new)


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


def pull_reference(config: Config, reference: Reference) -> Reference:
    """Where an image is pulled from: the same path at `pull_from`, where that is another address."""
    host, _, prefix = config.pull_from.partition("/")
    own_prefix = config.registry.partition("/")[2]
    path = reference.repository.removeprefix(own_prefix + "/") if own_prefix else reference.repository
    return Reference(host, f"{prefix}/{path}" if prefix else path, reference.tag, reference.digest)


def ca_bundle() -> Path:
    """The CA certificates this machine trusts: SSL_CERT_FILE, or where Debian and Ubuntu keep them."""
    return Path(os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt")


def together(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """`map` with several requests at the same time."""
    given = list(items)
    if len(given) < 2:
        return [function(item) for item in given]
    with ThreadPoolExecutor(max_workers=REQUESTS) as pool:
        return list(pool.map(function, given))


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


class DockerWorkshop:
    """The engine with BuildKit as building needs it."""

    def __init__(self, project: ImageProject, plan: BuildPlan) -> None:
        self._config = project.config
        names = {name for step in plan.steps if step.action == "build" for name in step.definition.secrets}
        self._secrets = {name: source for name in sorted(names) if (source := self._find_secret(name))}
        self._engine = project.engine
        self._say = project.say
        self._buildx = Buildx(project.endpoint, project.config.state / "logs")

    def prepare_base(self, step: Step) -> None:
        if not step.base.startswith(BOOTSTRAP_REPOSITORY) or self._engine.find_image(step.base):
            return
        distribution, _, suite = step.base.rpartition("/")[2].partition(":")
        self._say(f"{step.name}: making its base from packages of {distribution} {suite}")
        with TemporaryDirectory(prefix="pipeline-") as folder:
            archive = Path(folder) / "root.tar"
            make_root_filesystem(distribution, suite, archive, self._config.state / "logs" / f"{step.name}-bootstrap.log")
            self._engine.import_image(
                archive, step.base, {"pipeline.base": step.base_description, "pipeline.project": self._config.project}
            )

    def build(self, step: Step, tags: tuple[Reference, ...], use_cache: bool, report: Callable[[str], None]) -> str:
        definition = step.definition
        self._refuse_triggers(step)
        request = BuildRequest(
            name=step.name,
            tags=tuple(map(str, tags)),
            platform=definition.platform,
            arguments={"BASE_IMAGE": step.base, **definition.args},
            named_contexts=step.named_contexts,
            labels=self._labels(step),
            secrets={name: self._secrets[name] for name in definition.secrets if name in self._secrets},
            use_cache=use_cache,
            cache_mark=step.pin_mark,
        )

        def write(stream: IO[bytes]) -> None:
            write_context(step.context, stream)

        try:
            return self._buildx.build(request, write, report)
        except BuildError as error:
            self._check_engine(step.name, error)
            raise

    def _refuse_triggers(self, step: Step) -> None:
        """Of the context is sent what the Dockerfile takes; ONBUILD triggers of an image from elsewhere may want more, and get less."""
        if step.context.sources.whole:
            return
        base = [step.base] if step.definition.base else []
        for reference in [*base, *(name for used, name in step.named_contexts.items() if used not in step.needs)]:
            triggers = self._engine.triggers_of(reference)
            if triggers is None:  # BuildKit would pull it now
                self._engine.pull_image(parse_reference(reference))
                triggers = self._engine.triggers_of(reference)
            if takes_context(triggers or ()):
                raise BuildError(
                    f"{step.name}: the image {reference} has ONBUILD triggers that read the build context: {'; '.join(triggers or ())}",
                    f"Write these instructions into {step.definition.dockerfile}, where they count, and use an image without triggers.",
                )

    def _check_engine(self, name: str, failure: BuildError) -> None:
        """Of an engine that dies, buildx says many things, most of them no help: the engine is asked itself."""
        try:
            self._engine.info()
        except EngineError as gone:
            raise EngineError(
                f"the Docker Engine went away while {name} was being built",
                f"Start it and run the build again; finished images stay. {gone.hint}",
            ) from failure

    def pull(self, content: Reference) -> str:
        source = pull_reference(self._config, content)
        self._engine.pull_image(source)
        if source != content:
            self._engine.tag_image(str(source), content)
        image = self._engine.find_image(str(content))
        if image is None:
            raise ImageUnavailableError(f"{content} was pulled, but the engine does not have it", "Run the build again.")
        return image.id

    def tag(self, image_id: str, reference: Reference) -> None:
        self._engine.tag_image(image_id, reference)

    def cancel(self) -> None:
        self._buildx.cancel()
        self._engine.abort()  # a pull

    @cached_property
    def _source(self) -> str:
        return source_url(self._config.root)

    def _labels(self, step: Step) -> dict[str, str]:
        labels = {
            "org.opencontainers.image.title": step.name,
            "org.opencontainers.image.description": step.definition.description or step.name,
            "org.opencontainers.image.base.name": step.base,
            "pipeline.fingerprint": step.fingerprint.value,
            "pipeline.project": self._config.project,
        }
        if step.definition.base:
            labels["pipeline.base"] = step.base_description  # children inherit it
        if self._source:
            labels["org.opencontainers.image.source"] = self._source
        return labels

    def _find_secret(self, name: str) -> str:
        """How buildx finds a secret; empty for one that is missing and not required."""
        if name == "ca" and name not in self._config.secrets:
            return f"src={ca_bundle()}" if ca_bundle().is_file() else ""
        secret = self._config.secrets[name]  # the definition was checked against the configuration
        if secret.env:
            if secret.env in os.environ:
                return f"env={secret.env}"
        else:
            path = os.path.join(self._config.root, os.path.expanduser(secret.file))
            if os.path.isfile(path):
                return f"src={path}"
        if secret.required:
            what = f"the variable {secret.env} is not set" if secret.env else f"there is no file {secret.file}"
            line = line_of(self._config.root / CONFIG_FILE, "secrets", name)
            raise ConfigurationError(
                f"{CONFIG_FILE}:{line}: the build secret '{name}' is missing: {what}", "Provide it, or say `required: false`."
            )
        return ""


class _Source:
    """Whom to ask about images from elsewhere."""

    def __init__(self, engine: DockerImages, hierarchy: Hierarchy) -> None:
        self._engine = engine
        self._hierarchy = hierarchy

    def local_image(self, reference: str) -> tuple[str, str] | None:
        image = self._engine.find_image(reference)
        if image is None:
            return None
        name = parse_reference(reference).name  # an image may have digests in other repositories, too
        digest = next((found.digest for found in map(parse_reference, sorted(image.digests)) if found.name == name), "")
        if not digest:  # else its registry may have it for more platforms
            self._check_platform(reference, [self._engine.platform_of(reference)])
        return image.id, digest

    def remote_digest(self, reference: str) -> str:
        try:
            found = self._engine.remote_image(reference)
        except ImageUnavailableError:
            if self._engine.find_image(reference):  # what is taken instead
                self._check_platform(reference, [self._engine.platform_of(reference)])
            raise
        # The engine looks into lists of images and into Docker's own manifests, and not into OCI ones (seen with 26.1).
        self._check_platform(reference, found.platforms or _read_platform(parse_reference(reference).with_digest(found.digest)))
        return found.digest

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


def provide_image(config: Config, image: str, say: Callable[[str], None]) -> str:
    """The image that a service of the pipeline's own runs in: built first where it is an image definition of this repository."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", image):
        return image
    with ImageProject(config, say) as project:
        if image not in project.hierarchy:
            place = next((key for key in ("itest", "registry_server") if getattr(config, key).image == image), "")
            where = f"{CONFIG_FILE}:{line_of(config.root / CONFIG_FILE, place, 'image')}: '{place}.image'" if place else "--image"
            raise ConfigurationError(f"{where}: there is no image definition '{image}'", nearest(image, project.hierarchy.names))
        plan = project.read_plan([image], remember=True, demanded=[image])
        if plan[image].action == "skip":
            raise ImageUnavailableError(
                f"the image {image} cannot be had: {plan[image].reasons[0].what}", "Name another one in pipeline.yaml."
            )
        if any(step.action in ("build", "pull", "tag") for step in plan.steps):
            build_images(plan, project.workshop(plan), config.state, os.cpu_count() or 1, PlainLines(say))
        return str(plan[image].content)
