"""A fingerprint names what an image is made of: it changes with each input, and with nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import read_config
from pipeline.images.bases import Base, Bases
from pipeline.images.context import read_contexts
from pipeline.images.fingerprint import Fingerprint, Input, changes, make_fingerprint
from pipeline.images.hashes import HashCache
from pipeline.images.hierarchy import read_hierarchy
from pipeline.images.plan import make_fingerprints

MakeProject = Callable[[Mapping[str, str]], Path]
DOCKERFILE = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY *.txt /\n"
BASES = Bases({"ubuntu:24.04": Base("digest", "sha256:" + "1" * 64, "2026-01-01"), "node:1": Base("local", "sha256:" + "2" * 64)})


def fingerprints_of(root: Path, bases: Bases = BASES) -> dict[str, Fingerprint]:
    hierarchy = read_hierarchy(read_config(root))
    return make_fingerprints(hierarchy, bases, read_contexts(root, hierarchy, HashCache(root)))


def changed(before: dict[str, Fingerprint], after: dict[str, Fingerprint]) -> set[str]:
    return {name for name in before if before[name].value != after[name].value}


def family(images: MakeProject) -> Path:
    root = images(
        {
            "root": "from: ubuntu:24.04",
            "jdk": "parent: root",
            "tool": "parent: root\nuses: [jdk, node:1]\nargs: {A: 1}",
            "leaf": "parent: tool",
        }
    )
    (root / "dockerfiles/tool/Dockerfile").write_text(DOCKERFILE + "FROM jdk\nFROM node:1\nARG A\n")
    return root


def test_a_parents_change_changes_its_children_and_users_and_nobody_else(images: MakeProject) -> None:
    root = family(images)
    before = fingerprints_of(root)
    (root / "dockerfiles/jdk/new.txt").write_text("")
    assert changed(before, fingerprints_of(root)) == {"jdk", "tool", "leaf"}
    (root / "dockerfiles/jdk/new.txt").unlink()
    assert changed(before, fingerprints_of(root)) == set()
    (root / "dockerfiles/leaf/Dockerfile").write_text(DOCKERFILE + "RUN true\n")
    assert changed(before, fingerprints_of(root)) == {"leaf"}


def test_the_digest_of_the_base_moved(images: MakeProject) -> None:
    root = family(images)
    moved = Bases({**BASES.found, "ubuntu:24.04": Base("digest", "sha256:" + "3" * 64)})
    assert changed(fingerprints_of(root), fingerprints_of(root, moved)) == {"root", "jdk", "tool", "leaf"}


def test_the_same_digest_found_on_another_day_is_the_same_unless_it_is_pinned(images: MakeProject) -> None:
    root = family(images)
    again = {name: Base(base.kind, base.value, "2030-12-31") for name, base in BASES.found.items()}
    assert changed(fingerprints_of(root), fingerprints_of(root, Bases(again))) == set()
    pinned = frozenset({"node:1"})  # a new date of a pin is the decision to install packages anew
    assert changed(fingerprints_of(root, Bases(BASES.found, pinned)), fingerprints_of(root, Bases(again, pinned))) == {"tool", "leaf"}


def test_a_bootstrapped_base_is_another_than_a_pulled_one(images: MakeProject) -> None:
    root = family(images)
    made = Bases({**BASES.found, "ubuntu:24.04": Base("bootstrap", "debian trixie")})
    assert "root" in changed(fingerprints_of(root), fingerprints_of(root, made))


def test_a_used_image_from_elsewhere_moved(images: MakeProject) -> None:
    root = family(images)
    moved = Bases({**BASES.found, "node:1": Base("local", "sha256:" + "4" * 64)})
    assert changed(fingerprints_of(root), fingerprints_of(root, moved)) == {"tool", "leaf"}


def test_an_argument_and_the_platform_are_inputs(images: MakeProject) -> None:
    root = family(images)
    before = fingerprints_of(root)
    definition = root / "images/tool.yaml"
    text = definition.read_text()
    definition.write_text(text.replace("A: 1", "A: 2"))
    assert changed(before, fingerprints_of(root)) == {"tool", "leaf"}
    definition.write_text(text + "\nplatform: linux/arm64\n")
    assert changed(before, fingerprints_of(root)) == {"tool", "leaf"}


def test_a_comment_in_a_dockerfile_and_its_mode_are_no_inputs(images: MakeProject) -> None:
    root = family(images)
    path = root / "dockerfiles/leaf/Dockerfile"
    path.write_text(DOCKERFILE)
    before = fingerprints_of(root)
    path.write_text(DOCKERFILE.replace("FROM", "# a comment\n\nFROM"))
    path.chmod(0o755)
    assert changed(before, fingerprints_of(root)) == set()


def test_a_dockerfile_that_is_copied_is_a_file_like_any_other(images: MakeProject) -> None:
    root = family(images)
    path = root / "dockerfiles/leaf/Dockerfile"
    path.write_text(DOCKERFILE + "COPY D* /\n")
    before = fingerprints_of(root)
    path.write_text(path.read_text() + "# a comment\n")
    after = fingerprints_of(root)
    assert changes(before["leaf"].inputs, after["leaf"].inputs) == [("file", "Dockerfile changed")]


def test_a_comment_in_the_definition_is_no_input(images: MakeProject) -> None:
    root = family(images)
    before = fingerprints_of(root)
    path = root / "images/leaf.yaml"
    path.write_text("# why\n" + path.read_text())
    assert changed(before, fingerprints_of(root)) == set()


PARTS = st.text(max_size=6)
INPUTS = st.lists(st.builds(Input, PARTS, PARTS, PARTS), max_size=5, unique=True)


@given(INPUTS, st.randoms())
def test_the_order_of_inputs_does_not_matter(inputs: list[Input], random: object) -> None:
    shuffled = list(inputs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert make_fingerprint(inputs) == make_fingerprint(shuffled)


@given(INPUTS, INPUTS)
def test_different_inputs_have_different_fingerprints(one: list[Input], two: list[Input]) -> None:
    assert (make_fingerprint(one).value == make_fingerprint(two).value) == (set(one) == set(two))


def test_parts_cannot_run_into_each_other() -> None:
    assert make_fingerprint([Input("a", "b", "c")]).value != make_fingerprint([Input("a", "bc", "")]).value
    assert make_fingerprint([Input("a", "1:b", "")]).value != make_fingerprint([Input("a", "", "1:b")]).value


def test_a_name_that_is_no_text_is_hashed() -> None:
    assert len(make_fingerprint([Input("file", "\udcff", "x")]).value) == 64


def test_changes_in_words() -> None:
    before = inputs(
        "file a file:-:1", "file b file:-:1", "file c file:-:1", "file e file:x:1", "file f link:-:x", "file g file:-:1", "file h file:-:1",
        "base x digest", "argument A 1", "argument B 1", "dockerfile Dockerfile 1", "parent p 1", "uses u 1", "schema  1", "platform  a/b",
        "description  one",
    )  # fmt: skip
    after = inputs(
        "file a file:x:1", "file b file:-:2", "file d file:-:1", "file e file:-:1", "file f link:-:y", "file g link:-:y", "file h file:x:2",
        "base x " + "2" * 41, "argument A 2", "argument C 1", "dockerfile Dockerfile 2", "parent p 2", "uses u 2", "schema  2", "platform  a/c",
        "description  two",
    )  # fmt: skip
    assert changes(before, after) == [
        ("argument", "A changed: 1 → 2"),
        ("argument", "B removed"),
        ("argument", "C added"),
        ("base", f"x changed: digest → {'2' * 39}…"),
        ("description", "description changed"),
        ("dockerfile", "Dockerfile changed"),
        ("file", "a changed mode: executable"),
        ("file", "b changed"),
        ("file", "c removed"),
        ("file", "d added"),
        ("file", "e changed mode: not executable any more"),
        ("file", "f changed target: x → y"),
        ("file", "g changed kind: file → link"),
        ("file", "h changed, and changed mode: executable"),
        ("parent", "p changed"),
        ("platform", "platform changed: a/b → a/c"),
        ("schema", "schema version changed: 1 → 2"),
        ("uses", "u changed"),
    ]
    assert changes(before, before) == []


def inputs(*lines: str) -> list[Input]:
    return [Input(*line.split(" ")) for line in lines]


def test_an_argument_that_is_empty_or_strange_is_shown() -> None:
    assert changes([Input("argument", "A", "")], [Input("argument", "A", "a\nb")]) == [("argument", r"A changed: (empty) → a\nb")]


def test_reasons_stay_on_one_line_of_any_terminal() -> None:
    (_, what), (_, other) = changes([], [Input("file", "a\nb", "x"), Input("file", "\udcff", "x")])
    assert what == r"a\nb added"
    assert other.encode()
