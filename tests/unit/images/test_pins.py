"""How pins stand beside what is upstream, and what moving them changes; registry and engine are a table here."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pipeline.config import read_config
from pipeline.errors import ConfigurationError, ImageUnavailableError
from pipeline.images.bases import Base, Bases, read_bases, read_pins, remember_bases
from pipeline.images.context import read_context
from pipeline.images.definition import ReleaseParent
from pipeline.images.hierarchy import Hierarchy, read_hierarchy
from pipeline.images.pins import PinState, aged_bases, ask_pins, move_pins, pin_marks, pins_as_json, write_pins
from pipeline.images.plan import BuildPlan, make_fingerprints, plan_build
from pipeline.revision import Revision

MakeProject = Callable[[Mapping[str, str]], Path]
OLD, NEW, THIRD, IMAGE_ID = ("sha256:" + letter * 64 for letter in "1234")
BEFORE = "2026-01-02T03:04:05Z"
A, B, C = "registry.example.com/a:1", "registry.example.com/b:1", "registry.example.com/c:1"
DOCKERFILE = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n"


class World:
    """Registries that have `remote`, an engine that has `local`."""

    def __init__(
        self,
        remote: Mapping[str, str],
        local: Mapping[str, tuple[str, str]] | None = None,
        suite: str = "",
        released: Mapping[str, Base] | None = None,
    ) -> None:
        self.remote, self.local, self.suite, self.released = remote, local or {}, suite, released or {}

    def released_image(self, parent: ReleaseParent) -> Base:
        if parent.key not in self.released:
            raise ImageUnavailableError(f"there is no release of '{parent.track}'")
        return self.released[parent.key]

    def local_image(self, reference: str) -> tuple[str, str] | None:
        return self.local.get(reference)

    def remote_digest(self, reference: str) -> str:
        if reference not in self.remote:
            raise ImageUnavailableError("no way there")
        return self.remote[reference]

    def bootstrap_suite(self, suites: Mapping[str, str]) -> str:
        return self.suite


@pytest.fixture
def family(images: MakeProject) -> Hierarchy:
    """a ← a2 ← a3, b ← b2, and user, which is built on b2 and copies from A."""
    root = images({"a": f"from: {A}", "a2": "parent: a", "a3": "parent: a2", "b": f"from: {B}", "b2": "parent: b", "user": "parent: b2"})
    (root / "images/user.yaml").write_text(f"parent: b2\nuses: [{A}]")
    (root / "dockerfiles/user/Dockerfile").write_text(DOCKERFILE + f"COPY --from={A} /x /x\n")
    return read_hierarchy(read_config(root))


def pin(value: str = OLD, date: str = BEFORE) -> Base:
    return Base("digest", value, date)


def states(hierarchy: Hierarchy, pins: Mapping[str, Base], world: World) -> dict[str, str]:
    return {item.reference: item.state for item in ask_pins(hierarchy, pins, world)}


def test_what_moved_and_what_did_not(family: Hierarchy) -> None:
    assert states(family, {A: pin(), B: pin()}, World({A: OLD, B: NEW})) == {A: "current", B: "moved"}
    assert states(family, {A: pin()}, World({A: OLD, B: NEW})) == {A: "current", B: "unpinned"}
    assert states(family, {A: pin(), B: pin()}, World({A: OLD})) == {A: "current", B: "unknown"}


def test_of_a_pinned_digest_the_registry_alone_counts(family: Hierarchy) -> None:
    older = {A: (IMAGE_ID, THIRD), B: (IMAGE_ID, "")}  # pulled long ago, and built here under that name
    asked = ask_pins(family, {A: pin(), B: pin()}, World({B: NEW}, older, "debian trixie"))
    assert [(item.state, item.problem) for item in asked] == [("unknown", "no way there"), ("moved", "")]


def test_a_bootstrap_gives_way_to_the_image_and_else_says_that_nobody_knows(images: MakeProject) -> None:
    hierarchy = read_hierarchy(read_config(images({"a": f"from: {A}\nbootstrap: {{debian: trixie}}"})))
    pins = {A: Base("bootstrap", "debian trixie", BEFORE)}
    assert states(hierarchy, pins, World({A: NEW})) == {A: "moved"}
    assert states(hierarchy, pins, World({}, suite="debian trixie")) == {A: "unknown"}
    moved = move_pins(pins, ask_pins(hierarchy, pins, World({}, suite="debian trixie")))
    assert (moved[A].value, moved[A].date > BEFORE) == ("debian trixie", True)


def test_a_digest_never_becomes_a_bootstrap_because_the_network_is_down(images: MakeProject) -> None:
    hierarchy = read_hierarchy(read_config(images({"a": f"from: {A}\nbootstrap: {{debian: trixie}}"})))
    asked = ask_pins(hierarchy, {A: pin()}, World({}, suite="debian trixie"))
    with pytest.raises(ImageUnavailableError, match="cannot be asked for: no way there") as caught:
        move_pins({A: pin()}, asked)
    assert "pipeline.lock" in caught.value.hint


def test_a_digest_in_the_definition_cannot_move_but_its_packages_can(images: MakeProject) -> None:
    reference = f"registry.example.com/a@{OLD}"
    hierarchy = read_hierarchy(read_config(images({"a": f"from: {reference}"})))
    asked = ask_pins(hierarchy, {reference: pin()}, World({}))
    assert asked[0].state == "current"
    assert move_pins({reference: pin()}, asked)[reference].date > BEFORE


def test_one_pin_moves_and_the_others_stay_as_they_are(family: Hierarchy) -> None:
    pins = {A: pin(), B: pin(), "gone:1": pin()}
    moved = move_pins(pins, ask_pins(family, pins, World({A: NEW, B: NEW}), [A]), only=True)
    assert moved[A].value == NEW
    assert {name: moved[name] for name in (B, "gone:1")} == {name: pins[name] for name in (B, "gone:1")}


def test_all_pins_move_and_what_nobody_takes_goes(family: Hierarchy) -> None:
    pins = {A: pin(), "gone:1": pin()}
    moved = move_pins(pins, ask_pins(family, pins, World({A: OLD, B: NEW})))
    assert {name: base.value for name, base in moved.items()} == {A: OLD, B: NEW}
    assert all(base.date > BEFORE for base in moved.values())  # the same digest, and yet: its packages are installed anew


def test_a_reference_may_be_written_in_another_way(images: MakeProject) -> None:
    hierarchy = read_hierarchy(read_config(images({"a": "from: ubuntu:24.04"})))
    world = World({"ubuntu:24.04": NEW})
    assert [item.reference for item in ask_pins(hierarchy, {}, world, ["docker.io/library/ubuntu:24.04"])] == ["ubuntu:24.04"]
    with pytest.raises(ConfigurationError, match="--only ubuntu:24.4: no image takes that") as caught:
        ask_pins(hierarchy, {}, world, ["ubuntu:24.4"])
    assert caught.value.hint == "Did you mean 'ubuntu:24.04'?"


def test_an_optional_pin_that_cannot_be_asked_for_stays_unless_it_was_named(images: MakeProject) -> None:
    hierarchy = read_hierarchy(read_config(images({"a": f"from: {A}\noptional: true", "b": f"from: {B}"})))
    pins, world = {A: pin()}, World({B: NEW})
    moved = move_pins(pins, ask_pins(hierarchy, pins, world))
    assert (moved[A], moved[B].value) == (pins[A], NEW)
    with pytest.raises(ImageUnavailableError, match="no way there"):
        move_pins(pins, ask_pins(hierarchy, pins, world, [A]), only=True)


def test_nothing_moves_where_one_that_is_needed_cannot_be_asked_for(family: Hierarchy) -> None:
    with pytest.raises(ImageUnavailableError, match=f"^{B} cannot be asked for"):
        move_pins({}, ask_pins(family, {}, World({A: NEW})))


def test_what_only_the_engine_has_is_not_pinned(family: Hierarchy) -> None:
    asked = ask_pins(family, {}, World({B: NEW}, {A: (IMAGE_ID, "")}))
    assert set(move_pins({}, asked)) == {B}
    assert asked[0].describe_update() == f"{A}: known to the local engine only, not pinned"


def test_the_lock_is_sorted_and_only_what_changed_changes(tmp_path: Path) -> None:
    remember_bases(tmp_path, Bases({A: pin(NEW), C: pin(NEW)}))
    pins = {B: Base("bootstrap", "debian trixie", BEFORE), A: pin()}
    write_pins(tmp_path, pins)
    lock = tmp_path / "pipeline.lock"
    text = lock.read_text()
    assert text == (
        "# What the image hierarchy begins with. Written by `invoke pins.update`; commit it.\nbases:\n"
        f'  "{A}":\n    kind: digest\n    value: {OLD}\n    date: "{BEFORE}"\n'
        f'  "{B}":\n    kind: bootstrap\n    value: debian trixie\n    date: "{BEFORE}"\n'
    )
    assert read_pins(tmp_path) == pins
    assert read_bases(tmp_path).found == {**pins, C: pin(NEW)}  # what is not pinned is still remembered
    inode = lock.stat().st_ino
    write_pins(tmp_path, dict(sorted(pins.items())))
    assert lock.stat().st_ino == inode  # the same again is no write at all
    write_pins(tmp_path, {**pins, A: pin(NEW)})
    changed = [pair for pair in zip(text.splitlines(), lock.read_text().splitlines(), strict=True) if pair[0] != pair[1]]
    assert changed == [(f"    value: {OLD}", f"    value: {NEW}")]


def test_a_lock_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pins(tmp_path, {A: pin()})
    before = (tmp_path / "pipeline.lock").read_bytes()

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_pins(tmp_path, {A: pin(NEW)})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"pipeline.lock": before}


def plan(hierarchy: Hierarchy, bases: Bases, registry: Mapping[str, str], context: Path) -> BuildPlan:
    """A plan in which every image has the same context, and the engine nothing."""
    contexts = dict.fromkeys(hierarchy.names, read_context(context))
    fingerprints = make_fingerprints(hierarchy, bases, contexts)
    return plan_build(hierarchy, Revision("main", "1" * 40), bases, contexts, fingerprints, (), {}, registry, {})


@pytest.mark.parametrize(
    ("moved", "rebuilt"),
    [
        ({A: pin(NEW)}, {"a", "a2", "a3", "user"}),
        ({A: pin(OLD, "2026-01-02T03:04:06Z")}, {"a", "a2", "a3", "user"}),
        ({B: pin(NEW)}, {"b", "b2", "user"}),
        ({B: pin(OLD, "2026-06-01T00:00:00Z")}, {"b", "b2", "user"}),
        ({}, set()),
    ],
)
def test_moving_a_pin_rebuilds_exactly_what_is_made_from_it(
    tmp_path: Path, family: Hierarchy, moved: dict[str, Base], rebuilt: set[str]
) -> None:
    context = tmp_path / "project/dockerfiles/a"
    pins = {A: pin(), B: pin()}
    built = {str(step.content): NEW for step in plan(family, Bases(pins, frozenset(pins)), {}, context).steps}
    after = {**pins, **moved}
    steps = plan(family, Bases(after, frozenset(after)), built, context).steps
    assert {step.name for step in steps if step.action == "build"} == rebuilt


def test_a_base_that_is_found_anew_and_not_pinned_rebuilds_nothing(tmp_path: Path, family: Hierarchy) -> None:
    context = tmp_path / "project/dockerfiles/a"
    built = {str(step.content): NEW for step in plan(family, Bases({A: pin(), B: pin()}), {}, context).steps}
    later = {name: pin(date="2026-06-01T00:00:00Z") for name in (A, B)}
    assert not [step for step in plan(family, Bases(later), built, context).steps if step.action == "build"]


def test_builds_bear_the_mark_of_every_pin_they_are_made_from(family: Hierarchy) -> None:
    pins = {A: pin(), B: pin()}
    marks = pin_marks(family, Bases(pins, frozenset(pins)))
    assert marks["a"] == marks["a2"] == marks["a3"]
    assert marks["b"] == marks["b2"]
    assert len(set(marks.values())) == 3  # user has both
    later = {**pins, A: pin(date="2026-06-01T00:00:00Z")}
    moved = pin_marks(family, Bases(later, frozenset(later)))
    assert {name for name in marks if marks[name] != moved[name]} == {"a", "a2", "a3", "user"}
    assert set(pin_marks(family, Bases(pins)).values()) == {""}


def days_ago(days: int) -> str:
    return (datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_the_old_ones_are_named_with_age_and_remedy(family: Hierarchy) -> None:
    bases = {A: pin(date=days_ago(50)), B: pin(date=days_ago(45))}
    assert aged_bases(family, Bases(bases, frozenset(bases)), 45) == [
        f"a, user: {A} was pinned 50 days ago (max_pin_age: 45), and its packages are as old; invoke pins.update --only {A}"
    ]
    assert "was found (and not pinned) 50 days ago" in aged_bases(family, Bases(bases), 45)[0]
    gone = {A: Base("absent", "x", days_ago(50)), B: Base("local", IMAGE_ID, days_ago(50))}
    assert aged_bases(family, Bases(gone), 45) == []


def test_what_people_and_programs_are_told(family: Hierarchy) -> None:
    pins = {A: pin(date=days_ago(50)), B: pin(date=days_ago(1))}
    first, second = ask_pins(family, pins, World({A: NEW}))
    assert first.describe(45) == f"{A}: moved, {OLD} → {NEW} (pinned 50 days ago, longer than max_pin_age: 45)"
    assert second.describe(45) == f"{B}: unknown, {OLD}: no way there (pinned 1 day ago)"
    assert first.describe_update() == f"{A}: {OLD} → {NEW}, packages are installed anew (was pinned 50 days ago)"
    assert PinState(A, ("a",), False, None, pin(NEW)).describe() == f"{A}: not pinned; now {NEW}"
    document = pins_as_json([first, second], ["gone:1"], 45)
    assert document["unused"] == ["gone:1"]
    assert document["pins"][0]["upstream"]["value"] == NEW
    assert [(item["state"], item["age_days"], item["too_old"], item["problem"]) for item in document["pins"]] == [
        ("moved", 50, True, None),
        ("unknown", 1, False, "no way there"),
    ]
