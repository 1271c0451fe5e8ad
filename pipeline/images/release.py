"""A release: what a revision consists of, image by image and by digest, as one thing.

In the registry it is one OCI manifest in the repository NAMESPACE/releases, under the same tags as the images: the commit's,
and the branch's once it is promoted. Its config blob is the release as a document; its layers are what each image was made
of, so that a later plan can say what changed. (An image index would be the obvious form, but registries refuse an index that
names manifests of other repositories: distribution 2.8 answers 400 MANIFEST_BLOB_UNKNOWN.)

A release is written in one request, after everything it names: who reads it never sees half of it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from pipeline.errors import ConfigurationError, ImageUnavailableError, RegistryRefusedError
from pipeline.images.bases import Foundation
from pipeline.images.fingerprint import Input
from pipeline.images.plan import BuildPlan, Step
from pipeline.revision import SHORT, Revision, branch_tag, commit_tag
from pipeline.state_files import write_whole

RELEASE_FILE = "release.json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
DOCUMENT_TYPE = "application/vnd.pipeline.release.v1+json"
INPUTS_TYPE = "application/vnd.pipeline.inputs.v1+json+gzip"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"  # OCI image specification 1.1, "Guidance for an Empty Descriptor"

Relation = Literal["same", "forward", "backward", "diverged", "unknown"]


class ReleasedImage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One image of a release; of one that could not be had, only `absent` says anything: why.

    `repository`: registry and path. `size`: bytes of config and layers, compressed. `inputs`: the blob with what it was made of;
    `own`: a short hash of that without what the images it was made from are, so that often nobody needs to ask for the blob.
    `stands_on`: the images it was made from, its parent or base first.
    """

    repository: str = ""
    tags: tuple[str, ...] = ()
    digest: str = ""
    size: int = 0
    fingerprint: str = ""
    base: str = ""
    inputs: str = ""
    own: str = ""
    absent: str = ""
    stands_on: tuple[Foundation, ...] = ()


class ReleaseRevision(msgspec.Struct, frozen=True):
    """Which revision it is. `committed`: the commit's time, seconds since 1970 (UTC)."""

    branch: str
    commit: str
    dirty: bool
    committed: int = 0


class Release(msgspec.Struct, frozen=True):
    """All images of a revision. Nothing in it depends on who published it, or when: two who do so say the same."""

    revision: ReleaseRevision
    images: dict[str, ReleasedImage]

    @property
    def tag(self) -> str:
        """The commit's tag, under which it is kept."""
        return commit_tag(self._named, self.revision.dirty)

    @property
    def branch_tag(self) -> str:
        """The branch's tag, under which it is found once it is promoted."""
        return branch_tag(self.revision.branch, self.revision.dirty)

    @property
    def present(self) -> dict[str, ReleasedImage]:
        """The images without those that could not be had."""
        return {name: image for name, image in self.images.items() if image.digest}

    def __str__(self) -> str:
        return str(self._named)

    @property
    def _named(self) -> Revision:
        return Revision(self.revision.branch, self.revision.commit, self.revision.dirty)


class ReleaseShelf(Protocol):
    """The repository of the releases in the registry."""

    def manifest(self, tag: str) -> bytes | None:
        """The manifest a tag names; None where there is none."""

    def put_manifest(self, tag: str, content: bytes) -> None:
        """Let a tag name a manifest."""

    def blob(self, digest: str) -> bytes:
        """A blob's content."""

    def put_blob(self, content: bytes) -> None:
        """Keep a blob, where it is not kept already."""

    def tags(self) -> list[str]:
        """Every tag there is."""


Together = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]  # map, or that of a pool of threads


class Releases:
    """The releases of a project. `together` asks for several things at the same time."""

    def __init__(self, shelf: ReleaseShelf, together: Together = map) -> None:
        self.shelf = shelf
        self.together = together
        self._documents: dict[str, Release] = {}  # digest → what it says, which never changes

    def read(self, tag: str) -> Release | None:
        """The release a tag names; None where there is none."""
        manifest = self.shelf.manifest(tag)
        if manifest is None:
            return None
        digest = _config_digest(manifest, tag)
        if digest not in self._documents:
            self._documents[digest] = _decode(self.shelf.blob(digest), tag)
        return self._documents[digest]

    def write(self, release: Release, inputs: Mapping[str, bytes]) -> None:
        """Keep a release under its commit's tag. `inputs`: image → encoded inputs, whose digests the release names."""
        document = msgspec.json.encode(release)
        list(
            self.together(
                self.shelf.put_blob, [document, *(inputs[name] for name in release.present)] if release.present else [document, b"{}"]
            )
        )
        self.shelf.put_manifest(release.tag, _manifest(release, document, inputs))

    def promote(self, release: Release) -> None:
        """Let the branch's tag name a release that is kept under its commit's tag already."""
        manifest = self.shelf.manifest(release.tag)
        if manifest is None:
            raise ImageUnavailableError(f"there is no release {release.tag} (any more)", "Publish it first: invoke build push")
        self.shelf.put_manifest(release.branch_tag, manifest)

    def inputs(self, image: ReleasedImage) -> tuple[Input, ...]:
        """What an image of a release was made of."""
        return decode_inputs(self.shelf.blob(image.inputs))

    def find(self, wanted: str) -> Release:
        """The release that a branch, a tag or the beginning of a commit (7 digits or more) names.

        Raises ImageUnavailableError where there is none, ConfigurationError where a commit was released on several branches.
        """
        return self._find(wanted)[1]

    def _find(self, wanted: str) -> tuple[str, Release]:
        """The tag that names it, and the release."""
        for tag in dict.fromkeys((branch_tag(wanted), wanted) if _TAG.fullmatch(wanted) else (branch_tag(wanted),)):
            if (found := self.read(tag)) is not None:
                return tag, found
        tags = self.shelf.tags()
        if re.fullmatch(r"[0-9a-f]{7,64}", wanted):
            matching = [tag for tag in tags if (commit := _commit_of(tag)) and commit.startswith(wanted[:SHORT])]
            if len(matching) > 1:
                raise ConfigurationError(f"{wanted} was released several times: {', '.join(sorted(matching))}", "Name one of these tags.")
            if matching and (found := self.read(matching[0])) is not None:
                return matching[0], found
        shown = ", ".join(sorted(tag for tag in tags if not _commit_of(tag))[:10])
        raise ImageUnavailableError(f"there is no release of '{wanted}'", f"Released branches: {shown or 'none'}. See: invoke release.list")

    def locate(self, wanted: str) -> tuple[str, Release]:
        """(digest, release) of what a branch, a tag, a commit or a digest names. Raises as `find` does."""
        named = wanted if wanted.startswith("sha256:") else self._find(wanted)[0]
        manifest, release = self.shelf.manifest(named), self.read(named)
        if manifest is None or release is None:
            raise ImageUnavailableError(f"there is no release '{wanted}'", "See: invoke release.list")
        return blob_digest(manifest), release

    def promoted(self) -> Sequence[Release]:
        """What the branches' tags name, by tag."""
        tags = sorted(tag for tag in self.shelf.tags() if not _commit_of(tag))
        return [release for release in self.together(self.read, tags) if release is not None]

    def list(self, branch: str = "") -> Sequence[Release]:
        """The releases of a branch, or all of them, the newest commit first."""
        tags = [tag for tag in self.shelf.tags() if _commit_of(tag)]
        found = [release for release in self.together(self.read, tags) if release is not None]
        kept = [release for release in found if not branch or release.revision.branch == branch]
        return sorted(kept, key=lambda release: (-release.revision.committed, release.tag))


def describe_release(
    plan: BuildPlan, digests: Mapping[str, str], sizes: Mapping[str, int], inputs: Mapping[str, bytes], committed: int
) -> Release:
    """The release of a plan whose images are published. `digests`, `sizes`, `inputs`: by image name."""
    images = {}
    for step in plan.steps:
        if step.action == "skip":
            images[step.name] = ReleasedImage(absent=step.reasons[0].what)
        else:
            images[step.name] = ReleasedImage(
                repository=step.content.name,
                tags=tuple(reference.tag for reference in step.references),
                digest=digests[step.name],
                size=sizes.get(step.name, 0),
                fingerprint=step.fingerprint.value,
                base=step.base_description,
                inputs=blob_digest(inputs[step.name]),
                own=own_inputs(step),
                stands_on=step.stands_on,
            )
    revision = plan.revision
    return Release(ReleaseRevision(revision.branch, revision.commit, revision.dirty, committed), images)


def release_name(revision: Revision) -> str:
    """The tag under which the release of a revision is kept."""
    return commit_tag(revision, revision.dirty)


def encode_inputs(inputs: Iterable[Input]) -> bytes:
    """What an image was made of, small: identities are told apart by their first 16 characters after each colon."""
    text = json.dumps([[item.kind, item.name, _short(item.identity)] for item in inputs], separators=(",", ":"))
    return gzip.compress(text.encode("utf-8", "surrogateescape"), mtime=0)


def own_inputs(step: Step) -> str:
    """A short hash of what an image is made of; of the images it is made from, only their names count."""
    inputs = [
        item._replace(identity="") if item.name in step.needs and item.kind in ("parent", "uses") else item
        for item in step.fingerprint.inputs
    ]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]


def decode_inputs(content: bytes) -> tuple[Input, ...]:
    return tuple(Input(*item) for item in json.loads(gzip.decompress(content).decode("utf-8", "surrogateescape")))


def shortened(inputs: Iterable[Input]) -> tuple[Input, ...]:
    """Inputs as a release keeps them, to be compared with one's."""
    return tuple(Input(item.kind, item.name, _short(item.identity)) for item in inputs)


def blob_digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def judge_move(relation: Relation, current: Release, new: Release) -> tuple[bool, str]:
    """Whether a branch's tag may move from one release to another, and why in words where it is not plain.

    Forward by ancestry. Where ancestry does not say (the history was rewritten, or the clone is shallow), by commit time.
    """
    if relation in ("same", "forward"):
        return True, ""
    if relation == "backward":
        return False, f"{current.revision.commit[:SHORT]} is newer"
    later = new.revision.committed >= current.revision.committed
    why = "the two have gone separate ways" if relation == "diverged" else "their ancestry is not in this clone"
    return later, f"{why}; by commit time {new.revision.commit[:SHORT] if later else current.revision.commit[:SHORT]} is newer"


def remove_release(state: Path) -> None:
    """Take the last release away: it is not that of what is published now."""
    (state / RELEASE_FILE).unlink(missing_ok=True)


def write_release(state: Path, release: Release) -> Path:
    """Write it to .pipeline/release.json in one piece: a reader sees the old one or the new one."""
    path = state / RELEASE_FILE
    write_whole(path, msgspec.json.format(msgspec.json.encode(release), indent=2) + b"\n")
    return path


def differences(old: Release, new: Release) -> dict[str, Literal["added", "removed", "changed", "same"]]:
    """Image → what became of it from one release to the other."""
    before, after = old.present, new.present
    found: dict[str, Literal["added", "removed", "changed", "same"]] = {}
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            found[name] = "added"
        elif name not in after:
            found[name] = "removed"
        else:
            found[name] = "same" if before[name].digest == after[name].digest else "changed"
    return found


_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_COMMIT_TAG = re.compile(rf".*-([0-9a-f]{{{SHORT}}})(?:-dirty)?")  # see pipeline.revision: no branch's tag looks like this


def _commit_of(tag: str) -> str:
    found = _COMMIT_TAG.fullmatch(tag)
    return found[1] if found else ""


def _short(identity: str) -> str:
    head, colon, last = identity.rpartition(":")
    return head + colon + last[:16] if len(last) == 64 else identity


def _manifest(release: Release, document: bytes, inputs: Mapping[str, bytes]) -> bytes:
    layers = [
        {
            "mediaType": INPUTS_TYPE,
            "digest": image.inputs,
            "size": len(inputs[name]),
            "annotations": {"org.opencontainers.image.title": name},
        }
        for name, image in release.present.items()
    ]
    empty = {"mediaType": EMPTY_TYPE, "digest": blob_digest(b"{}"), "size": 2}
    created = datetime.fromtimestamp(release.revision.committed, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": DOCUMENT_TYPE,
            "config": {"mediaType": DOCUMENT_TYPE, "digest": blob_digest(document), "size": len(document)},
            "layers": layers or [empty],
            "annotations": {
                "org.opencontainers.image.created": created,
                "org.opencontainers.image.revision": release.revision.commit,
                "org.opencontainers.image.version": release.tag,
            },
        }
    )


def _config_digest(manifest: bytes, tag: str) -> str:
    try:
        config = json.loads(manifest)["config"]
        if config["mediaType"] == DOCUMENT_TYPE:
            return str(config["digest"])
    except (ValueError, KeyError, TypeError):
        pass
    raise RegistryRefusedError(f"'{tag}' in the repository of the releases is no release", "Somebody else writes there: remove that tag.")


def _decode(document: bytes, tag: str) -> Release:
    try:
        return msgspec.json.decode(document, type=Release)
    except msgspec.MsgspecError as error:
        raise RegistryRefusedError(
            f"the release '{tag}' cannot be read: {error}", "A newer version of the pipeline may have written it."
        ) from None
