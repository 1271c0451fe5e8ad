"""What a plan decides, and why; nothing here asks anybody."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.config import read_config
from pipeline.engine_image import EngineImage
from pipeline.images.bases import Base, Bases
from pipeline.images.context import read_context
from pipeline.images.fingerprint import SCHEMA, Fingerprint, Input, make_fingerprint
from pipeline.images.hierarchy import read_hierarchy
from pipeline.images.plan import BuildPlan, Step, find_dirty, plan_build
from pipeline.revision import Revision

MakeProject = Callable[[Mapping[str, str]], Path]
REVISION = Revision("main", "1a2b3c4d5e6f" + "0" * 28)
DIGEST, OTHER = "sha256:" + "d" * 64, "sha256:" + "e" * 64
HERE = Bases({"ubuntu:24.04": Base("digest", DIGEST)})
DOCKERFILE = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n"


@dataclass
class Facts:
    """What a plan is made of, for the images root ← child ← leaf."""

    root: Path
    bases: Bases = HERE
    dirty: frozenset[str] = frozenset()
    engine: dict[str, EngineImage] = field(default_factory=dict)
    registry: dict[str, str] = field(default_factory=dict)
    recorded: dict[str, tuple[Input, ...]] = field(default_factory=dict)
    rebuild: bool = False

    def plan(self) -> BuildPlan:
        hierarchy = read_hierarchy(read_config(self.root))
        contexts = {definition.name: read_context(self.root / definition.context) for definition in hierarchy}
        prints = {name: fingerprint(name) for name in hierarchy.names}
        return plan_build(
            hierarchy, REVISION, self.bases, contexts, prints, self.dirty, self.engine, self.registry, self.recorded, self.rebuild
        )

    def in_engine(
        self, name: str, image_id: str = "sha256:1", digest: str = "", tags: tuple[str, ...] = ("content", "commit", "branch")
    ) -> None:
        step = self.plan()[name]
        references = {"content": step.content, "commit": step.commit, "branch": step.branch}
        digests = frozenset({f"{step.content.name}@{digest}"}) if digest else frozenset()
        for tag in tags:
            self.engine[str(references[tag])] = EngineImage(image_id, frozenset(), digests, 1)

    def in_registry(self, name: str, digest: str = DIGEST) -> None:
        self.registry[str(self.plan()[name].content)] = digest


def fingerprint(name: str) -> Fingerprint:
    return make_fingerprint([Input("file", "x", f"file:-:{name}")])


@pytest.fixture
def facts(images: MakeProject) -> Facts:
    return Facts(images({"root": "from: ubuntu:24.04", "child": "parent: root", "leaf": "parent: child"}))


def outcome(step: Step) -> tuple[str, list[str]]:
    return step.action, [reason.kind for reason in step.reasons]


def test_never_built_anywhere(facts: Facts) -> None:
    assert outcome(facts.plan()["root"]) == ("build", ["new"])


def test_built_before_and_changed_since(facts: Facts) -> None:
    facts.recorded["root"] = (Input("file", "x", "file:-:before"), Input("schema", "", SCHEMA))
    step = facts.plan()["root"]
    assert outcome(step) == ("build", ["file"])
    assert step.reasons[0].what == "x changed"


def test_built_before_and_lost(facts: Facts) -> None:
    facts.recorded["root"] = fingerprint("root").inputs
    assert outcome(facts.plan()["root"]) == ("build", ["missing"])


def test_the_engine_has_all_of_it(facts: Facts) -> None:
    facts.in_engine("root")
    step = facts.plan()["root"]
    assert outcome(step) == ("none", ["unchanged"])
    assert step.image is not None
    assert step.image.id == "sha256:1"


@pytest.mark.parametrize(
    ("tags", "lacking"),
    [(("content",), ["main-1a2b3c4d5e6f", "main"]), (("content", "commit"), ["main"]), (("content", "branch"), ["main-1a2b3c4d5e6f"])],
)
def test_the_engine_lacks_tags(facts: Facts, tags: tuple[str, ...], lacking: list[str]) -> None:
    facts.in_engine("root", tags=tags)
    step = facts.plan()["root"]
    assert step.action == "tag"
    assert [reason.what for reason in step.reasons] == [f"unchanged; to be tagged {tag}" for tag in lacking]


def test_a_tag_that_names_an_older_image_moves(facts: Facts) -> None:
    facts.in_engine("root", "sha256:old", tags=("branch",))
    facts.in_engine("root", tags=("content", "commit"))
    assert outcome(facts.plan()["root"]) == ("tag", ["tag"])


def test_only_the_registry_has_it(facts: Facts) -> None:
    facts.in_registry("root")
    step = facts.plan()["root"]
    assert outcome(step) == ("pull", ["registry"])
    assert step.registry_digest == DIGEST


def test_the_registry_has_another_image_of_this_content_and_wins(facts: Facts) -> None:
    facts.in_engine("root", digest=OTHER)
    facts.in_registry("root")
    step = facts.plan()["root"]
    assert outcome(step) == ("pull", ["registry"])
    assert "wins" in step.reasons[0].what


@pytest.mark.parametrize(("image_id", "digest"), [("sha256:1", DIGEST), (DIGEST, "")], ids=["classic store", "containerd store"])
def test_both_have_the_same(facts: Facts, image_id: str, digest: str) -> None:
    facts.in_engine("root", image_id, digest)
    facts.in_registry("root")
    assert facts.plan()["root"].action == "none"


def test_an_image_pulled_from_another_address_is_the_same(facts: Facts) -> None:
    content = str(facts.plan()["root"].content)
    facts.in_engine("root")
    for reference, image in list(facts.engine.items()):
        facts.engine[reference] = EngineImage(image.id, image.tags, frozenset({f"mirror.example/x@{DIGEST}"}), 1)
    facts.registry[content] = DIGEST
    assert facts.plan()["root"].action == "none"


def test_without_the_cache_all_is_built(facts: Facts) -> None:
    for name in ("root", "child", "leaf"):
        facts.in_engine(name, digest=DIGEST)
        facts.in_registry(name)
    facts.rebuild = True
    assert [outcome(step) for step in facts.plan().steps] == [("build", ["asked"])] * 3


def test_an_absent_base_skips_all_that_is_made_from_it(facts: Facts) -> None:
    (facts.root / "images/root.yaml").write_text("from: ubuntu:24.04\noptional: true")
    facts.bases = Bases({"ubuntu:24.04": Base("absent", "no way there")})
    facts.rebuild = True  # not even then
    steps = facts.plan().steps
    assert [outcome(step) for step in steps] == [("skip", ["base"]), ("skip", ["parent"]), ("skip", ["parent"])]
    assert steps[0].reasons[0].what == "ubuntu:24.04 cannot be had: no way there"
    assert steps[2].reasons[0].what == "child is skipped"


def test_a_build_takes_its_parent_by_content(facts: Facts) -> None:
    plan = facts.plan()
    assert plan["child"].base == str(plan["root"].content)
    assert plan["root"].base == f"docker.io/library/ubuntu@{DIGEST}"
    assert plan["root"].base_description == f"ubuntu:24.04 {DIGEST}"


def test_used_images_get_their_real_names(facts: Facts) -> None:
    (facts.root / "images/leaf.yaml").write_text("parent: root\nuses: [child, node:1]")
    (facts.root / "dockerfiles/leaf/Dockerfile").write_text(DOCKERFILE + "FROM child\nFROM node:1\n")
    facts.bases = Bases({**HERE.found, "node:1": Base("digest", OTHER)})
    plan = facts.plan()
    assert plan["leaf"].named_contexts == {"child": str(plan["child"].content), "node:1": f"docker.io/library/node@{OTHER}"}
    assert plan["leaf"].needs == ("root", "child")


def test_tags_of_clean_and_dirty_images(facts: Facts) -> None:
    facts.dirty = frozenset({"leaf"})
    plan = facts.plan()
    assert [reference.tag for reference in plan["child"].references[1:]] == ["main-1a2b3c4d5e6f", "main"]
    assert [reference.tag for reference in plan["leaf"].references[1:]] == ["main-1a2b3c4d5e6f-dirty", "main-dirty"]
    assert plan["leaf"].content.tag == "content-" + fingerprint("leaf").value[:32]


def test_a_plan_is_pure(facts: Facts) -> None:
    facts.in_engine("root")
    facts.in_registry("child")
    before = copy.deepcopy(facts)
    assert facts.plan() == facts.plan()
    assert facts == before


def test_the_document_for_programs(facts: Facts) -> None:
    document = facts.plan().as_json()
    assert document["revision"] == {"branch": "main", "commit": REVISION.commit, "dirty": False}
    assert [image["name"] for image in document["images"]] == ["root", "child", "leaf"]
    first, second, _ = document["images"]
    assert (first["parent"], second["parent"]) == (None, "root")
    assert set(first) == {"name", "parent", "fingerprint", "action", "reasons", "references", "published"}
    assert first["references"] == [str(reference) for reference in facts.plan()["root"].references]
    assert first["reasons"] == [{"kind": "new", "what": facts.plan()["root"].reasons[0].what}]


def dirty_of(root: Path, *changed: str, ignore: str = "", pinned: tuple[str, ...] = ()) -> frozenset[str]:
    hierarchy = read_hierarchy(read_config(root))
    for definition in hierarchy:
        (root / definition.context / ".dockerignore").write_text(ignore)
    contexts = {definition.name: read_context(root / definition.context) for definition in hierarchy}
    return find_dirty(hierarchy, changed, contexts, pinned)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ([], set()),
        (["README.md", "dockerfiles/other/x", "dockerfiles/leaf2/x", "images/other.yaml"], set()),
        (["dockerfiles/leaf/x"], {"leaf"}),
        (["dockerfiles/leaf/a/b/c"], {"leaf"}),
        (["images/leaf.yaml"], {"leaf"}),
        (["dockerfiles/child/Dockerfile"], {"child", "leaf"}),
        (["images/root.yaml"], {"root", "child", "leaf"}),
    ],
)
def test_a_change_dirties_the_image_and_what_is_made_from_it(facts: Facts, changed: list[str], expected: set[str]) -> None:
    assert dirty_of(facts.root, *changed) == expected


def test_what_the_context_leaves_out_dirties_nothing(facts: Facts) -> None:
    assert dirty_of(facts.root, "dockerfiles/leaf/x.log", ignore="*.log") == set()
    assert dirty_of(facts.root, "dockerfiles/leaf/.dockerignore", ignore="*") == {"leaf"}
    assert dirty_of(facts.root, "dockerfiles/leaf/Dockerfile", ignore="*") == {"leaf"}


def test_what_no_instruction_reads_dirties_nothing(facts: Facts) -> None:
    (facts.root / "dockerfiles/leaf/Dockerfile").write_text(DOCKERFILE + "COPY src/*.txt lib/x /\n")
    for path in ("README.md", "src/a.md", "src/a/b.txt", "lib/y", "libx"):
        assert dirty_of(facts.root, f"dockerfiles/leaf/{path}") == set()
    for path in ("src/a.txt", "src/a.txt/b", "lib", "lib/x", "lib/x/y"):  # a link in place of lib would be followed
        assert dirty_of(facts.root, f"dockerfiles/leaf/{path}") == {"leaf"}


def test_an_uncommitted_pin_dirties_what_it_pins(facts: Facts) -> None:
    assert dirty_of(facts.root, "pipeline.lock", pinned=("ubuntu:24.04",)) == {"root", "child", "leaf"}
    assert dirty_of(facts.root, "pipeline.lock", pinned=("other:1",)) == set()


def test_a_context_that_is_the_whole_project(project: MakeProject) -> None:
    config = "registry: r.example\nnamespace: t\nimages: [image.yaml]\n"
    root = project({"pipeline.yaml": config, "image.yaml": "from: x\nname: app", "Dockerfile": DOCKERFILE + "COPY . /\n"})
    assert dirty_of(root, "anything") == {"app"}
