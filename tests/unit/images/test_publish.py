"""Publishing, against a registry in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import read_config
from pipeline.engine_image import EngineImage
from pipeline.errors import DirtyError, ImageUnavailableError, RegistryRefusedError, RegistryUnreachableError
from pipeline.images.bases import Base, Bases
from pipeline.images.context import read_context
from pipeline.images.fingerprint import Input, make_fingerprint
from pipeline.images.hierarchy import read_hierarchy
from pipeline.images.plan import BuildPlan, plan_build
from pipeline.images.publish import check_publishable, push_images
from pipeline.images.release import describe_release, write_release
from pipeline.reference import Reference
from pipeline.revision import Revision

MakeProject = Callable[[Mapping[str, str]], Path]
MakePlan = Callable[..., BuildPlan]
OTHER = "sha256:" + "f" * 64


class MemoryShelf:
    """A registry and the engine that uploads to it: every reference's digest, and what was written in which order."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self.writes: list[str] = []
        self.refuses = False  # every write
        self.lies: str = ""  # a digest that it names whatever was pushed
        self._lock = threading.Lock()

    def push_image(self, reference: Reference) -> str:
        with self._lock:
            self.writes.append(f"{reference.repository.rpartition('/')[2]} content")
            self.tags[str(reference)] = f"digest of {reference.repository}"
        return ""

    def check_writable(self, reference: Reference) -> None:
        if self.refuses:
            raise RegistryRefusedError(f"{reference} is read-only")

    def digest(self, reference: Reference) -> str:
        return self.tags.get(str(reference), "")

    def copy_tag(self, source: Reference, target: Reference) -> None:
        with self._lock:
            kind = "commit" if "-" in target.tag.removesuffix("-dirty") else "branch"
            self.writes.append(f"{target.repository.rpartition('/')[2]} {kind}")
            self.tags[str(target)] = self.lies or self.tags[str(source)]


@pytest.fixture
def make_plan(images: MakeProject) -> MakePlan:
    root = images({"root": "from: x", "child": "parent: root", "extra": "from: absent\noptional: true"})

    def make(shelf: MemoryShelf, dirty: tuple[str, ...] = (), built: bool = True, branch: str = "main") -> BuildPlan:
        hierarchy = read_hierarchy(read_config(root))
        prints = {name: make_fingerprint([Input("file", "x", name)]) for name in hierarchy.names}
        contexts = {definition.name: read_context(root / definition.context) for definition in hierarchy}
        bases = Bases({"x": Base("digest", "sha256:" + "0" * 64), "absent": Base("absent", "no way there")})

        def plan(engine: Mapping[str, EngineImage], digests: Mapping[str, str]) -> BuildPlan:
            return plan_build(hierarchy, Revision(branch, "1" * 40), bases, contexts, prints, dirty, engine, digests, {})

        steps = plan({}, {}).steps
        digests = {str(step.content): digest for step in steps if (digest := shelf.digest(step.content))}
        engine = {
            str(reference): EngineImage(f"id-{step.name}", frozenset(), frozenset({f"x@{shelf.digest(step.content)}"}), 1)
            for step in steps
            for reference in step.references
        }
        return plan(engine if built else {}, digests)

    return make


def quiet(_line: str) -> None:
    pass


def test_content_and_commit_tags_of_all_before_any_branch_tag(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    results = push_images(make_plan(shelf), shelf, shelf, quiet)
    kinds = [write.partition(" ")[2] for write in shelf.writes]
    assert kinds.index("branch") == 4
    assert sorted(kinds) == ["branch"] * 2 + ["commit"] * 2 + ["content"] * 2
    assert {result.step.name: (result.action, result.digest) for result in results} == {
        "root": ("push", "digest of team/root"),
        "child": ("push", "digest of team/child"),
        "extra": ("skip", ""),
    }


def test_published_already_writes_nothing(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    push_images(make_plan(shelf), shelf, shelf, quiet)
    shelf.writes.clear()
    said: list[str] = []
    results = push_images(make_plan(shelf), shelf, shelf, said.append)
    assert shelf.writes == []
    assert {result.action for result in results} == {"none", "skip"}
    assert said == ["root: published already", "child: published already"]


def test_the_same_content_on_another_branch_is_only_tagged(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    push_images(make_plan(shelf), shelf, shelf, quiet)
    shelf.writes.clear()
    results = push_images(make_plan(shelf, branch="feature"), shelf, shelf, quiet)
    assert sorted(shelf.writes) == ["child branch", "child commit", "root branch", "root commit"]
    assert {result.action for result in results if result.step.name != "extra"} == {"tag"}


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


def test_a_commits_tag_without_its_content_is_refused_and_no_branch_moves(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    plan = make_plan(shelf)
    shelf.tags[str(plan["child"].commit)] = OTHER
    with pytest.raises(RegistryRefusedError, match="never moves"):
        push_images(plan, shelf, shelf, quiet)
    assert shelf.tags[str(plan["child"].commit)] == OTHER
    assert not any("branch" in write for write in shelf.writes)


def test_a_dirty_tag_moves(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    plan = make_plan(shelf, dirty=("child",))
    shelf.tags[str(plan["child"].commit)] = OTHER
    push_images(plan, shelf, shelf, quiet)
    assert shelf.tags[str(plan["child"].commit)] == "digest of team/child"
    assert plan["child"].commit.tag.endswith("-dirty")


def test_a_branch_moves(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    plan = make_plan(shelf)
    shelf.tags[str(plan["root"].branch)] = OTHER
    push_images(plan, shelf, shelf, quiet)
    assert shelf.tags[str(plan["root"].branch)] == "digest of team/root"


def test_what_the_registry_says_it_has_is_compared(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    shelf.lies = OTHER
    with pytest.raises(RegistryRefusedError, match=f"was pushed, but the registry has {OTHER}"):
        push_images(make_plan(shelf), shelf, shelf, quiet)
    assert not any("branch" in write for write in shelf.writes)


def test_a_push_that_left_nothing_is_noticed(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = MemoryShelf()
    monkeypatch.setattr(shelf, "push_image", lambda reference: "")
    with pytest.raises(RegistryRefusedError, match="the registry has nothing under that name"):
        push_images(make_plan(shelf), shelf, shelf, quiet)


def test_a_failing_upload_moves_no_branch(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = MemoryShelf()

    def fail(reference: Reference) -> str:
        raise RegistryUnreachableError("gone")

    monkeypatch.setattr(shelf, "push_image", fail)
    with pytest.raises(RegistryUnreachableError):
        push_images(make_plan(shelf), shelf, shelf, quiet)
    assert shelf.writes == []


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
    results = push_images(plan, shelf, shelf, quiet)
    release = describe_release(plan, results, {"root": 5})
    assert release["revision"]["commit"] == "1" * 40
    assert release["images"]["extra"] == {"absent": "absent cannot be had: no way there"}
    root = release["images"]["root"]
    assert (root["repository"], root["digest"], root["size"]) == ("registry.example.com/team/root", "digest of team/root", 5)
    assert root["tags"] == [plan["root"].content.tag, "main-111111111111", "main"]
    state = tmp_path / ".pipeline"
    path = write_release(state, release)
    write_release(state, release | {"images": {}})
    assert path.read_text().endswith("\n")
    assert [entry.name for entry in state.iterdir()] == ["release.json"]


def test_an_image_that_was_pulled_is_tagged_from_the_registry(make_plan: MakePlan) -> None:
    shelf = MemoryShelf()
    push_images(make_plan(shelf), shelf, shelf, quiet)
    shelf.writes.clear()
    plan = make_plan(shelf, built=False, branch="other")
    assert plan["root"].action == "pull"
    push_images(replace(plan), shelf, shelf, quiet)
    assert "root content" not in shelf.writes
    assert "root commit" in shelf.writes
