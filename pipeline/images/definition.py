"""One image definition: what `images/NAME.yaml` (or an application's `image.yaml`) says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import msgspec

from pipeline.config import Config
from pipeline.document import line_of, read_document, written_scalars
from pipeline.errors import ConfigurationError
from pipeline.reference import COMPONENT, MAX_NAME, REPOSITORY, Reference, parse_reference

Doc = msgspec.Meta
DATABASES = "databases"  # the folder of repositories, below the namespace, that holds baked databases
RELEASES = "releases"  # the repository, below the namespace, that holds what each revision consists of
APPLICATION_FILE = "image.yaml"  # lies beside its Dockerfile; every other file describes the folder dockerfiles/NAME


class ReleaseParent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image of another repository's release, as a parent."""

    release: Annotated[
        str,
        Doc(
            description="The other repository's namespace, in the registry that images are pulled from; or HOST[:PORT]/PATH/NAMESPACE.",
            min_length=1,
        ),
    ]
    image: Annotated[str, Doc(description="The image's name there.", min_length=1)]
    track: Annotated[
        str, Doc(description="Which of its releases: the newest of a branch; or for ever a commit's tag, or a digest.", min_length=1)
    ] = "main"

    @property
    def key(self) -> str:
        """What it is called in pipeline.lock and in messages; no reference looks like this."""
        return f"{self.release}/{self.image}@{self.track}"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image definition. A root says `from`, or a `parent` of another repository's release; a child says `parent`."""

    from_: Annotated[str, Doc(description="A root's base: a reference in a registry, or one that only the local engine has.")] = (
        msgspec.field(default="", name="from")
    )
    bootstrap: Annotated[
        dict[str, str], Doc(description="Where the base cannot be pulled: distribution → suite to make it from with mmdebstrap.")
    ] = {}
    parent: Annotated[
        str | ReleaseParent,
        Doc(description="The name of the image definition this image is built on, or an image of another repository's release."),
    ] = ""
    name: Annotated[str, Doc(description="The image's name. Default: the file's name, for image.yaml its folder's.")] = ""
    repository: Annotated[str, Doc(description="Its path below registry and namespace. Default: the name.")] = ""
    context: Annotated[
        str, Doc(description="The build context, relative to this file. Default: dockerfiles/NAME, for image.yaml its own folder.")
    ] = ""
    description: Annotated[str, Doc(description="One sentence for people; becomes a label.")] = ""
    args: Annotated[dict[str, str | int | float | bool], Doc(description="Build arguments; each must be an ARG of the Dockerfile.")] = {}
    uses: Annotated[tuple[str, ...], Doc(description="Every other image the Dockerfile takes: names of definitions, or references.")] = ()
    secrets: Annotated[tuple[str, ...], Doc(description="Build secrets the Dockerfile mounts, by name.")] = ()
    optional: Annotated[bool, Doc(description="Whether the image is left out, with a reason, where its base cannot be had.")] = False
    platform: Annotated[str, Doc(description="Default: pipeline.yaml's.", pattern="^([a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?)?$")] = ""


class ImageDefinition(msgspec.Struct, frozen=True):
    """A checked image definition. Paths are relative to the project's root; `file` is the YAML itself."""

    name: str
    file: str
    repository: Reference  # registry, namespace and path, without tag
    context: str
    platform: str
    base: str = ""  # a root's `from`, or the key of `release`
    release: ReleaseParent | None = None
    parent: str = ""
    bootstrap: dict[str, str] = {}
    description: str = ""
    args: dict[str, str] = {}
    uses: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    optional: bool = False

    def released(self, reference: str) -> ReleaseParent | None:
        """The release that `reference`, which this image takes from elsewhere, is of; None where it is of none."""
        return self.release if reference == self.base else None

    @property
    def dockerfile(self) -> str:
        return f"{self.context}/Dockerfile" if self.context != "." else "Dockerfile"


def read_definitions(config: Config) -> tuple[ImageDefinition, ...]:
    """All image definitions that pipeline.yaml's `images:` globs find, by file name. Raises ConfigurationError."""
    files: dict[Path, None] = {}
    for number, pattern in enumerate(config.images):
        line = line_of(config.root / "pipeline.yaml", "images", number)
        try:
            found = sorted(path for path in config.root.glob(pattern) if path.is_file())
        except (ValueError, NotImplementedError, IndexError) as error:  # pathlib's words for an absolute or malformed pattern
            what = f"pipeline.yaml:{line}: 'images': '{pattern}' is not a glob of files below it: {error}"
            raise ConfigurationError(what, "Write it relative to pipeline.yaml, such as images/*.yaml.") from None
        if any(".." in path.relative_to(config.root).parts for path in found):
            raise ConfigurationError(
                f"pipeline.yaml:{line}: 'images': '{pattern}' leads out of the project", "Move it below pipeline.yaml."
            )
        if not found:
            raise ConfigurationError(
                f"pipeline.yaml:{line}: 'images': no file matches '{pattern}'", "Write an image definition there, such as images/NAME.yaml."
            )
        files.update(dict.fromkeys(found))
    return tuple(_read_definition(path, config) for path in files)


def release_place(release: str, pull_from: str) -> tuple[str, str]:
    """(registry with its prefix, namespace) of another repository's releases: a name without a host is in `pull_from`."""
    host, slash, rest = release.partition("/")
    if slash and (re.search(r"[.:]", host) or host == "localhost"):
        return host, rest
    return pull_from, release


def definition_schema() -> dict[str, object]:
    """The JSON Schema of an image definition, for editors."""
    return msgspec.json.schema(_File)


def _read_definition(path: Path, config: Config) -> ImageDefinition:
    shown = path.relative_to(config.root).as_posix()
    file = read_document(path, _File, shown=shown)
    application = path.name == APPLICATION_FILE

    def check(holds: bool, what: str, hint: str, *key: str) -> None:
        if not holds:
            line = line_of(path, *key) if key else 1
            raise ConfigurationError(f"{shown}:{line}: {what}", hint)

    name = file.name or (path.parent.name if application else path.stem)
    check(
        bool(_NAME.fullmatch(name)),
        f"'{name}' is not an image name",
        "Use lower-case letters, digits and single separators (. _ -).",
        "name",
    )
    check(
        bool(file.from_) != bool(file.parent),
        "needs exactly one of 'from' (a root) and 'parent' (a child)",
        "Keep `from: REFERENCE` or `parent: NAME`.",
        "parent" if file.from_ else "name",
    )
    check(
        not (file.bootstrap and file.parent),
        "'bootstrap' belongs to a root",
        "Remove it, or use `from:` in place of `parent:`.",
        "bootstrap",
    )
    if file.from_:
        try:
            parse_reference(file.from_)
        except ConfigurationError as error:
            check(False, f"'from': {error.message}", error.hint, "from")
    release = file.parent if isinstance(file.parent, ReleaseParent) else None
    if release:
        registry, namespace = release_place(release.release, config.pull_from)
        check(
            bool(REPOSITORY.fullmatch(namespace)) and bool(_NAME.fullmatch(release.image)),
            f"'parent': '{release.release}' and '{release.image}' name no image of a release",
            "Write the other repository's namespace and the image's name there, such as {release: base-images, image: tomcat}.",
            "parent",
        )
        try:
            parse_reference(f"{registry}/{namespace}/{RELEASES}")
        except ConfigurationError as error:
            check(False, f"'parent': {error.message}", error.hint, "parent")
    repository = file.repository or name
    check(bool(REPOSITORY.fullmatch(repository)), f"'{repository}' is not a repository path", "Use lower-case letters, digits, single separators and slashes.", "repository")  # fmt: skip
    check(
        repository.partition("/")[0] != DATABASES,
        f"repositories below '{DATABASES}' are where baked databases are kept",
        "Give the image another `repository:`.",
        "repository",
    )
    check(
        repository != RELEASES,
        f"the repository '{RELEASES}' is where the releases of the project are kept",
        "Give the image another `repository:`.",
        "repository",
    )
    host, _, prefix = config.registry.partition("/")
    reference = Reference(host, "/".join(part for part in (prefix, config.namespace, repository) if part))
    check(
        len(reference.name) <= MAX_NAME,
        f"the name {reference.name} is longer than {MAX_NAME} characters",
        "Shorten namespace or repository.",
    )
    folder = path.parent / file.context if file.context else path.parent if application else config.root / "dockerfiles" / name
    folder = folder.resolve()
    check(
        folder.is_relative_to(config.root),
        f"the build context {folder} lies outside the project",
        "Move it below pipeline.yaml.",
        "context",
    )
    context = folder.relative_to(config.root).as_posix()
    check(folder.is_dir(), f"the build context {context}/ does not exist", f"Create {context}/Dockerfile, or say `context:`.", "context")
    check((folder / "Dockerfile").is_file(), f"{context}/ has no Dockerfile", f"Create {context}/Dockerfile.", "context")
    for secret in file.secrets:
        known = {"ca", *config.secrets}
        check(secret in known, f"unknown secret '{secret}'", f"Define it in pipeline.yaml's `secrets:`; known are: {', '.join(sorted(known))}.", "secrets")  # fmt: skip
    written = written_scalars(path, "args") if file.args else {}  # 1.10 is a version, not the number 1.1
    arguments = {key: written.get(key, str(value)) for key, value in file.args.items()}
    return ImageDefinition(
        name=name,
        file=shown,
        repository=reference,
        context=context,
        platform=file.platform or config.platform,
        base=release.key if release else file.from_,
        release=release,
        parent="" if release else str(file.parent),
        bootstrap=file.bootstrap,
        description=file.description,
        args=arguments,
        uses=file.uses,
        secrets=file.secrets,
        optional=file.optional,
    )


_NAME = re.compile(COMPONENT)
