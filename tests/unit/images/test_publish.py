"""Publishing, against a registry in memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from pipeline.config import read_config
from pipeline.engine_image import EngineImage
from pipeline.errors import (
    BuildError,
    DirtyError,
    ImageUnavailableError,
    RegistryRefusedError,
    RegistryUnreachableError,
    TagImmutableError,
)
from pipeline.images.bases import Base, Bases
from pipeline.images.context import read_context
from pipeline.images.fingerprint import Fingerprint, Input, make_fingerprint
from pipeline.images.hierarchy import read_hierarchy
from pipeline.images.plan import BuildPlan, plan_build
from pipeline.images.progress import PlainLines
from pipeline.images.publish import check_publishable, promote_release, publish_release, push_images
from pipeline.images.release import Relation, Release, Releases, blob_digest, encode_inputs, judge_move, write_release
from pipeline.reference import Reference
from pipeline.revision import Revision

MakeProject = Callable[[Mapping[str, str]], Path]
MakePlan = Callable[..., BuildPlan]
OTHER = "sha256:" + "f" * 64


class MemoryShelf:
    """A registry, the engine that uploads to it, and the repository of the releases; and what was written in which order."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self.made_of: dict[str, str] = {}  # digest → fingerprint
        self.writes: list[str] = []
        self.refuses = False  # every write
        self.overwrites = True
        self.platform = "linux/amd64"
        self.release_tags: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.meanwhile: Callable[[str], None] = lambda _write: None  # what other publishers do right after a write
        self.fingerprints: Mapping[str, Fingerprint] = {}
        self.lock = threading.RLock()

    def push_image(self, reference: Reference) -> str:
        digest = f"digest of {reference.repository}"
        name = reference.repository.rpartition("/")[2]
        self.made_of.setdefault(digest, self.fingerprints[name].value)
        self._write(reference, digest, f"{name} upload")
        return digest

    def tag_image(self, source: str, target: Reference) -> None:
        assert source == f"id-{target.repository.rpartition('/')[2]}"

    def platform_of(self, reference: str) -> str:
        return self.platform

    def check_writable(self, reference: Reference) -> None:
        if self.refuses:
            raise RegistryRefusedError(f"{reference} is read-only")

    def digests(self, references: Sequence[Reference]) -> list[str]:
        return [self.tags.get(str(reference), "") for reference in references]

    def copy_tag(self, source: Reference, target: Reference) -> None:
        assert source.name == target.name
        assert source.digest in self.tags.values()
        kind = "content" if target.tag.startswith("content") else "commit" if "-" in target.tag.removesuffix("-dirty") else "branch"
        self._write(target, source.digest, f"{target.repository.rpartition('/')[2]} {kind}")

    def fingerprint(self, reference: Reference) -> str:
        return self.made_of.get(reference.digest, "")

    def size(self, reference: Reference) -> int:
        return len(reference.digest)

    def _write(self, reference: Reference, digest: str, what: str) -> None:
        with self.lock:
            if not self.overwrites and self.tags.get(str(reference), digest) != digest:
                raise TagImmutableError(f"{reference} is there already")
            self.writes.append(what)
            self.tags[str(reference)] = digest
            self.meanwhile(what)

    # The repository of the releases.

    def manifest(self, tag: str) -> bytes | None:
        return self.release_tags.get(tag)

    def put_manifest(self, tag: str, content: bytes) -> None:
        with self.lock:
            if not self.overwrites and self.release_tags.get(tag, content) != content:
                raise TagImmutableError(f"{tag} is there already")
            self.writes.append(f"release {tag}")
            self.release_tags[tag] = content
            self.meanwhile(f"release {tag}")

    def blob(self, digest: str) -> bytes:
        return self.blobs[digest]

    def put_blob(self, content: bytes) -> None:
        self.blobs[blob_digest(content)] = content


@pytest.fixture
def make_plan(images: MakeProject) -> MakePlan:
    root = images({"root": "from: x", "child": "parent: root", "extra": "from: absent\noptional: true"})

    def make(
        shelf: MemoryShelf, dirty: tuple[str, ...] = (), built: bool = True, branch: str = "main", commit: str = "1" * 40
    ) -> BuildPlan:
        hierarchy = read_hierarchy(read_config(root))
        prints = {name: make_fingerprint([Input("file", "x", name)]) for name in hierarchy.names}
        shelf.fingerprints = prints
        contexts = {definition.name: read_context(root / definition.context) for definition in hierarchy}
        bases = Bases({"x": Base("digest", "sha256:" + "0" * 64), "absent": Base("absent", "no way there")})

        def plan(engine: Mapping[str, EngineImage], digests: Mapping[str, str]) -> BuildPlan:
            return plan_build(hierarchy, Revision(branch, commit, bool(dirty)), bases, contexts, prints, dirty, engine, digests, {})

        steps = plan({}, {}).steps
        digests = {str(step.content): digest for step in steps if (digest := shelf.tags.get(str(step.content), ""))}
        engine = {
            str(reference): EngineImage(f"id-{step.name}", frozenset(), frozenset({f"x@{shelf.tags.get(str(step.content), '')}"}), 1)
            for step in steps
            for reference in step.references
        }
        return plan(engine if built else {}, digests)

    return make


quiet = PlainLines(lambda _line: None)


def publish(plan: BuildPlan, shelf: MemoryShelf, relation: Relation = "forward", committed: int = 100) -> Release:
    """All of `invoke push`."""
    results = push_images(plan, shelf, shelf, quiet)
    release = publish_release(plan, results, shelf, Releases(ListingShelf(shelf)), lambda: committed, quiet)
    promote_release(release, shelf, Releases(ListingShelf(shelf)), lambda old, new: "same" if old == new else relation, quiet)
    return release


def test_all_content_and_commit_tags_then_the_release_then_the_branchs_tags(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    release = publish(make_plan(shelf), shelf)
    assert shelf.writes[:6] == ["root upload", "root content", "child upload", "child content", "release main-111111111111", "release main"]
    assert sorted(shelf.writes[6:]) == ["child branch", "root branch"]
    assert {name: image.digest for name, image in release.images.items()} == {
        "root": "digest of team/root",
        "child": "digest of team/child",
        "extra": "",
    }


def test_published_already_writes_nothing(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    first = publish(make_plan(shelf), shelf)
    shelf.writes.clear()
    said: list[str] = []
    results = push_images(make_plan(shelf), shelf, shelf, PlainLines(said.append))
    assert publish(make_plan(shelf), shelf) == first
    assert shelf.writes == []
    assert {result.action for result in results} == {"none", "skip"}
    assert said == ["root: published already", "child: published already"]


def test_the_same_content_on_another_branch_is_only_tagged(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    publish(make_plan(shelf), shelf)
    shelf.writes.clear()
    plan = make_plan(shelf, branch="feature")
    results = push_images(plan, shelf, shelf, quiet)
    assert sorted(shelf.writes) == ["child commit", "root commit"]
    assert {result.action for result in results if result.step.name != "extra"} == {"tag"}
    publish(plan, shelf)
    assert sorted(shelf.writes[2:]) == ["child branch", "release feature", "release feature-111111111111", "root branch"]


def test_a_commits_tag_that_names_another_image_is_refused_before_anything_is_pushed(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    plan = make_plan(shelf)
    shelf.tags[str(plan["child"].content)] = "digest of team/child"
    shelf.tags[str(plan["child"].commit)] = OTHER
    before = dict(shelf.tags)
    with pytest.raises(RegistryRefusedError, match=r"child:main-1{12} names another image already.*never moves"):
        push_images(make_plan(shelf), shelf, shelf, quiet)
    assert shelf.tags == before
    assert shelf.writes == []


def test_a_commits_tag_of_other_content_without_its_content_tag_is_refused(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    plan = make_plan(shelf)
    shelf.tags[str(plan["child"].commit)] = OTHER
    with pytest.raises(RegistryRefusedError, match="never moves"):
        push_images(plan, shelf, shelf, quiet)
    assert shelf.tags[str(plan["child"].commit)] == OTHER


def test_a_publisher_that_ended_between_commit_and_content_tag_is_carried_on_without_an_upload(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    plan = make_plan(shelf)
    shelf.tags[str(plan["root"].commit)] = OTHER
    shelf.made_of[OTHER] = plan["root"].fingerprint.value
    push_images(plan, shelf, shelf, quiet)
    assert shelf.tags[str(plan["root"].content)] == OTHER
    assert "root upload" not in shelf.writes


def test_whoever_wrote_the_content_tag_first_wins(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    plan = make_plan(shelf)
    shelf.made_of[OTHER] = plan["root"].fingerprint.value

    def other_publisher(write: str) -> None:
        if write == "root upload":
            shelf.tags[str(plan["root"].content)] = OTHER

    shelf.meanwhile = other_publisher
    release = publish(plan, shelf)
    assert {shelf.tags[str(reference)] for reference in plan["root"].references} == {OTHER}
    assert release.images["root"].digest == OTHER


def test_a_content_tag_that_another_publisher_wrote_at_the_same_moment_counts(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    plan = make_plan(shelf)
    shelf.made_of[OTHER] = plan["root"].fingerprint.value

    def other_publisher(write: str) -> None:
        if write == "child upload":  # root's content tag was ours when we looked
            shelf.tags[str(plan["root"].content)] = OTHER

    shelf.meanwhile = other_publisher
    release = publish(plan, shelf)
    assert {shelf.tags[str(reference)] for reference in plan["root"].references} == {OTHER}
    assert release.images["root"].digest == OTHER


def test_a_content_tag_that_somebody_else_gave_to_another_thing_is_not_taken_over(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    plan = make_plan(shelf)

    def stranger(write: str) -> None:
        if write == "root upload":
            shelf.tags[str(plan["root"].content)] = OTHER

    shelf.meanwhile = stranger
    with pytest.raises(RegistryRefusedError, match="names an image of other content"):
        push_images(plan, shelf, shelf, quiet)


def test_where_overwriting_is_denied_the_quicker_publisher_wins_and_the_branch_is_explained(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    shelf.overwrites = False
    plan = make_plan(shelf)
    shelf.made_of[OTHER] = plan["root"].fingerprint.value

    def other_publisher(write: str) -> None:
        if write == "root upload":
            shelf.tags[str(plan["root"].content)] = OTHER

    shelf.meanwhile = other_publisher
    with pytest.raises(TagImmutableError):  # its commit tag names our image: this registry offers no way to mend that
        push_images(plan, shelf, shelf, quiet)
    shelf.meanwhile = lambda _write: None
    shelf.tags.clear()
    publish(plan, shelf)
    shelf.writes.clear()
    later = make_plan(shelf, commit="2" * 40)
    with pytest.raises(TagImmutableError, match="the branch's tag main cannot be moved") as caught:
        publish(later, shelf)
    assert "push --commit-only" in caught.value.hint
    assert "release main-222222222222" in shelf.writes


def test_a_dirty_tag_moves(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    plan = make_plan(shelf, dirty=("child",))
    shelf.tags[str(plan["child"].commit)] = OTHER
    push_images(plan, shelf, shelf, quiet)
    assert shelf.tags[str(plan["child"].commit)] == "digest of team/child"
    assert plan["child"].commit.tag.endswith("-dirty")


def test_a_push_that_left_nothing_is_noticed(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = MemoryShelf()
    monkeypatch.setattr(shelf, "push_image", lambda reference: "")
    with pytest.raises(RegistryRefusedError, match="the registry has nothing under that name"):
        push_images(make_plan(shelf), shelf, shelf, quiet)


def test_a_failing_upload_publishes_nothing_that_is_built_on_it(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = MemoryShelf()

    def fail(reference: Reference) -> str:
        raise RegistryUnreachableError("gone")

    monkeypatch.setattr(shelf, "push_image", fail)
    with pytest.raises(RegistryUnreachableError):
        push_images(make_plan(shelf), shelf, shelf, quiet)
    assert shelf.writes == []


def test_an_image_of_another_platform_is_not_pushed(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    shelf.platform = "linux/arm64/v8"
    with pytest.raises(BuildError, match="root was built for linux/arm64/v8, but its definition says linux/amd64"):
        push_images(make_plan(shelf), shelf, shelf, quiet)
    assert shelf.writes == []


def test_a_branch_moves_forward_only(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    old, new = make_plan(shelf), make_plan(shelf, commit="2" * 40)
    publish(new, shelf)
    said: list[str] = []
    release = publish_release(old, push_images(old, shelf, shelf, quiet), shelf, Releases(ListingShelf(shelf)), lambda: 50, quiet)
    assert not promote_release(release, shelf, Releases(ListingShelf(shelf)), lambda _old, _new: "backward", PlainLines(said.append))
    assert said == ["branch tag main: stays at main-222222222222 (222222222222 is newer)"]
    assert Releases(ListingShelf(shelf)).read("main") == Releases(ListingShelf(shelf)).read("main-222222222222")
    assert promote_release(release, shelf, Releases(ListingShelf(shelf)), lambda _old, _new: "backward", quiet, force=True)
    assert Releases(ListingShelf(shelf)).read("main") == release


def test_a_branch_whose_commits_tag_was_cleared_away_is_still_a_release(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    publish(make_plan(shelf), shelf)
    before = Releases(ListingShelf(shelf)).locate("main")
    del shelf.release_tags["main-111111111111"]
    assert Releases(ListingShelf(shelf)).locate("main") == before


def test_a_newer_commit_that_is_promoted_meanwhile_keeps_all_its_tags(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    old, new = make_plan(shelf), make_plan(shelf, commit="2" * 40)
    ours = publish_release(old, push_images(old, shelf, shelf, quiet), shelf, Releases(ListingShelf(shelf)), lambda: 50, quiet)
    shelf.made_of[OTHER] = new["root"].fingerprint.value
    theirs = publish_release(new, push_images(new, shelf, shelf, quiet), shelf, Releases(ListingShelf(shelf)), lambda: 60, quiet)
    changed = msgspec.structs.replace(theirs, images=theirs.images | {"root": msgspec.structs.replace(theirs.images["root"], digest=OTHER)})
    Releases(ListingShelf(shelf)).write(changed, {name: encode_inputs(new[name].fingerprint.inputs) for name in changed.present})
    shelf.tags["elsewhere"] = OTHER

    def other_publisher(write: str) -> None:
        if write == "release main":
            shelf.meanwhile = lambda _write: None
            shelf.release_tags["main"] = shelf.release_tags[changed.tag]
            shelf.tags[str(new["root"].branch)] = OTHER

    shelf.meanwhile = other_publisher
    order: dict[str, int] = {ours.revision.commit: 1, theirs.revision.commit: 2}
    promoted = promote_release(
        ours, shelf, Releases(ListingShelf(shelf)), lambda a, b: "forward" if order[a] < order[b] else "backward", quiet
    )
    assert not promoted
    assert Releases(ListingShelf(shelf)).read("main") == changed
    assert shelf.tags[str(new["root"].branch)] == OTHER


def test_where_ancestry_does_not_say_the_commits_time_does(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    first = publish(make_plan(shelf), shelf, committed=100)
    second = publish(make_plan(shelf, commit="2" * 40), shelf, committed=200)
    assert judge_move("unknown", first, second) == (True, "their ancestry is not in this clone; by commit time 222222222222 is newer")
    assert judge_move("diverged", second, first)[0] is False
    assert judge_move("forward", second, first) == (True, "")


def test_a_release_is_found_by_branch_tag_and_commit(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    release = publish(make_plan(shelf, branch="feature/login"), shelf)
    releases = Releases(ListingShelf(shelf))
    for name in ("feature/login", "feature__login", "feature__login-111111111111", "1" * 7, "1" * 40):
        assert releases.find(name) == release
    assert releases.list() == [release]
    assert releases.list("main") == []
    with pytest.raises(ImageUnavailableError, match="no release of 'main'") as caught:
        releases.find("main")
    assert "feature__login" in caught.value.hint
    assert [item.kind for item in releases.inputs(release.images["root"])] == ["file", "schema"]


class ListingShelf:
    """A MemoryShelf whose `tags` are those of the releases."""

    def __init__(self, shelf: MemoryShelf) -> None:
        self.manifest, self.put_manifest, self.blob, self.put_blob = shelf.manifest, shelf.put_manifest, shelf.blob, shelf.put_blob
        self.tags = lambda: list(shelf.release_tags)


def test_what_is_no_release_is_refused(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    shelf.release_tags["main"] = b'{"config": {"mediaType": "application/vnd.oci.image.config.v1+json"}}'
    with pytest.raises(RegistryRefusedError, match="'main' in the repository of the releases is no release"):
        Releases(ListingShelf(shelf)).read("main")


def test_a_registry_that_refuses_writes_is_asked_before_anything_is_uploaded(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    shelf.refuses = True
    with pytest.raises(RegistryRefusedError, match="read-only"):
        push_images(make_plan(shelf), shelf, shelf, quiet)
    assert shelf.writes == []


def test_dirty_images_need_permission(make_plan: MakePlan) -> None:
    plan = make_plan(MemoryShelf(), dirty=("child", "extra"))
    with pytest.raises(DirtyError, match=r"made of: child$") as caught:
        check_publishable(plan, allow_dirty=False)
    assert "--allow-dirty" in caught.value.hint
    check_publishable(plan, allow_dirty=True)


def test_what_is_not_built_cannot_be_published(make_plan: MakePlan) -> None:
    with pytest.raises(ImageUnavailableError, match="root, child") as caught:
        check_publishable(make_plan(MemoryShelf(), built=False), allow_dirty=False)
    assert "invoke build push" in caught.value.hint


def test_a_release_says_what_a_revision_consists_of(make_plan: MakePlan, tmp_path: Path) -> None:
    shelf = MemoryShelf()
    plan = make_plan(shelf)
    release = publish(plan, shelf)
    state = tmp_path / ".pipeline"
    path = write_release(state, release)
    document = json.loads(path.read_text())
    assert document["revision"] == {"branch": "main", "commit": "1" * 40, "dirty": False, "committed": 100}
    assert document["images"]["extra"] == {"absent": "absent cannot be had: no way there"}
    root = document["images"]["root"]
    assert (root["repository"], root["digest"], root["size"]) == ("registry.example.com/team/root", "digest of team/root", 19)
    assert root["tags"] == [plan["root"].content.tag, "main-111111111111", "main"]
    write_release(state, release)
    assert path.read_text().endswith("\n")
    assert [entry.name for entry in state.iterdir()] == ["release.json"]


def test_an_image_that_only_the_registry_has_is_tagged_there(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    publish(make_plan(shelf), shelf)
    shelf.writes.clear()
    plan = make_plan(shelf, built=False, branch="other")
    assert [(step.action, step.reasons[0].kind) for step in plan.steps[:2]] == [("none", "published")] * 2
    publish(plan, shelf)
    assert "root upload" not in shelf.writes
    assert "root commit" in shelf.writes
