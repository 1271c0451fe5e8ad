"""Where a hierarchy begins: asked once, remembered, pinned."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pipeline.config import read_config
from pipeline.errors import ConfigurationError, ImageUnavailableError
from pipeline.images.bases import Base, Bases, read_bases, remember_bases, resolve_bases
from pipeline.images.definition import ReleaseParent
from pipeline.images.hierarchy import Hierarchy, read_hierarchy
from pipeline.reference import parse_reference

MakeProject = Callable[[Mapping[str, str]], Path]
DIGEST, OTHER, IMAGE_ID = ("sha256:" + letter * 64 for letter in "123")
TODAY = datetime.datetime.now(datetime.UTC).date().isoformat()


class World:
    """An engine and a registry that have these images."""

    def __init__(self, local: tuple[str, str] | None = None, remote: str = "", suite: str = "") -> None:
        self.local, self.remote, self.suite = local, remote, suite
        self.asked: list[str] = []

    def local_image(self, reference: str) -> tuple[str, str] | None:
        return self.local

    def remote_digest(self, reference: str) -> str:
        self.asked.append(reference)
        if not self.remote:
            raise ImageUnavailableError("no way there")
        return self.remote

    def released_image(self, parent: ReleaseParent) -> Base:
        raise AssertionError(parent)

    def bootstrap_suite(self, suites: Mapping[str, str]) -> str:
        if self.suite == "no program":
            raise ImageUnavailableError("mmdebstrap is not installed", "install it")
        return self.suite


@pytest.fixture
def hierarchy(images: MakeProject) -> Callable[[str], Hierarchy]:
    return lambda root: read_hierarchy(read_config(images({"root": f"from: ubuntu:24.04\n{root}"})))


def base_of(hierarchy: Hierarchy, known: Bases, world: World) -> Base:
    return resolve_bases(hierarchy, known, world)["ubuntu:24.04"]


NOTHING = Bases({})


@pytest.mark.parametrize(
    ("world", "root", "kind", "value"),
    [
        (World(remote=DIGEST), "", "digest", DIGEST),
        (World(remote=DIGEST, local=(IMAGE_ID, OTHER)), "", "digest", DIGEST),
        (World(local=(IMAGE_ID, OTHER)), "", "digest", OTHER),
        (World(remote=DIGEST, local=(IMAGE_ID, "")), "", "local", IMAGE_ID),
        (World(suite="debian trixie"), "bootstrap: {debian: trixie}", "bootstrap", "debian trixie"),
        (World(remote=DIGEST, suite="debian trixie"), "bootstrap: {debian: trixie}", "digest", DIGEST),
        (World(), "optional: true", "absent", "no way there"),
        (World(suite="no program"), "optional: true\nbootstrap: {debian: trixie}", "absent", "no way there; mmdebstrap is not installed"),
    ],
)
def test_what_a_base_turns_out_to_be(hierarchy: Callable[[str], Hierarchy], world: World, root: str, kind: str, value: str) -> None:
    base = base_of(hierarchy(root), NOTHING, world)
    assert (base.kind, base.value, base.date[:10]) == (kind, value, TODAY)


def test_a_base_that_cannot_be_had_is_an_error_with_three_ways_out(hierarchy: Callable[[str], Hierarchy]) -> None:
    with pytest.raises(ImageUnavailableError, match=r"images/root\.yaml: the image 'ubuntu:24.04' cannot be had: no way there") as caught:
        base_of(hierarchy(""), NOTHING, World())
    assert all(way in caught.value.hint for way in ("bootstrap:", "optional: true", "docker pull ubuntu:24.04"))


def test_a_missing_program_is_named(hierarchy: Callable[[str], Hierarchy]) -> None:
    with pytest.raises(ImageUnavailableError, match="mmdebstrap is not installed"):
        base_of(hierarchy("bootstrap: {debian: trixie}"), NOTHING, World(suite="no program"))


def test_what_is_known_is_not_asked_again(hierarchy: Callable[[str], Hierarchy]) -> None:
    world = World(remote=OTHER)
    known = Bases({"ubuntu:24.04": Base("digest", DIGEST, "2026-01-01")})
    assert base_of(hierarchy(""), known, world).value == DIGEST
    assert world.asked == []


def test_a_local_base_is_asked_for_each_time(hierarchy: Callable[[str], Hierarchy]) -> None:
    known = Bases({"ubuntu:24.04": Base("local", "sha256:" + "9" * 64)})
    assert base_of(hierarchy(""), known, World(local=(IMAGE_ID, ""))).value == IMAGE_ID


@pytest.mark.parametrize(
    ("date", "root", "local", "asked"),
    [
        (TODAY, "optional: true", None, False),
        ("2026-01-01", "optional: true", None, True),
        (TODAY, "", None, True),
        (TODAY, "optional: true", (IMAGE_ID, OTHER), True),
    ],
)
def test_absence_is_believed_for_a_day_at_most(
    hierarchy: Callable[[str], Hierarchy], date: str, root: str, local: tuple[str, str] | None, asked: bool
) -> None:
    world = World(remote=DIGEST, local=local)
    base = base_of(hierarchy(root), Bases({"ubuntu:24.04": Base("absent", "no way there", date)}), world)
    assert bool(world.asked) == asked
    assert (base.kind == "digest") == asked


def test_a_reference_that_one_needs_and_another_may_lack_is_needed(images: MakeProject) -> None:
    root = images({"a": "from: ubuntu:24.04\noptional: true", "b": "from: ubuntu:24.04"})
    with pytest.raises(ImageUnavailableError, match=r"images/b\.yaml"):
        resolve_bases(read_hierarchy(read_config(root)), NOTHING, World())


def test_a_digest_in_the_definition_asks_nobody(images: MakeProject) -> None:
    reference = f"ubuntu@{DIGEST}"
    root = images({"a": f"from: {reference}"})
    world = World()
    assert resolve_bases(read_hierarchy(read_config(root)), NOTHING, world)[reference].value == DIGEST
    assert world.asked == []


def test_remembered_bases_say_that_they_are_not_pinned(tmp_path: Path) -> None:
    bases = Bases({"a": Base("digest", DIGEST, TODAY), "b": Base("local", IMAGE_ID), "c": Base("digest", OTHER)}, frozenset({"c"}))
    remember_bases(tmp_path, bases)
    assert read_bases(tmp_path).found == {"a": Base("digest", DIGEST, TODAY)}
    assert "not pinned" in (tmp_path / ".pipeline/bases.json").read_text()


def test_pins_win_over_memory(tmp_path: Path) -> None:
    remember_bases(tmp_path, Bases({"a": Base("digest", OTHER, TODAY), "b": Base("digest", OTHER, TODAY)}))
    write_lock(tmp_path, DIGEST)
    known = read_bases(tmp_path)
    assert known.found == {"a": Base("digest", DIGEST, "2026-05-17T14:05:09Z"), "b": Base("digest", OTHER, TODAY)}
    assert known.pinned == {"a"}


def write_lock(root: Path, value: str, kind: str = "digest", date: str = '"2026-05-17T14:05:09Z"') -> None:
    (root / "pipeline.lock").write_text(f"# pins\nbases:\n  a:\n    kind: {kind}\n    value: {value}\n    date: {date}\n")


@pytest.mark.parametrize("text", ["{", '{"bases": {"a": {"kind": "digest", "value": "x", "date": "yesterday"}}}'])
def test_a_spoilt_memory_is_asked_again(tmp_path: Path, text: str) -> None:
    (tmp_path / ".pipeline").mkdir()
    (tmp_path / ".pipeline/bases.json").write_text(text)
    assert read_bases(tmp_path).found == {}


@pytest.mark.parametrize(
    ("kind", "value", "date", "said"),
    [
        ("local", IMAGE_ID, '"2026-05-17"', r"pipeline\.lock:4: "),
        ("digest", "sha256:12", '"2026-05-17"', r"pipeline\.lock:5: 'a': 'sha256:12' is no digest"),
        ("digest", DIGEST, '"17 May"', r"pipeline\.lock:6: 'a': '17 May' is no date"),
        ("digest", DIGEST, '"2026-02-31"', r"pipeline\.lock:6: 'a': '2026-02-31' is no date"),
        ("digest", DIGEST, "2026-05-17", r"pipeline\.lock:6: "),  # without quotes, YAML makes something else of it
        ("digest", DIGEST, '""\n  a: {}', r"pipeline\.lock:7: key 'a' stands twice"),
        ("digest", DIGEST, '""\n<<<<<<< main', r"pipeline\.lock:"),
    ],
)
def test_a_damaged_lock_is_an_error_that_says_where_and_how_to_mend_it(tmp_path: Path, kind: str, value: str, date: str, said: str) -> None:
    write_lock(tmp_path, value, kind, date)
    with pytest.raises(ConfigurationError, match=said) as caught:
        read_bases(tmp_path)
    assert "git checkout -- pipeline.lock" in caught.value.hint


def test_a_lock_with_days_only_and_a_bootstrap_is_whole(tmp_path: Path) -> None:
    write_lock(tmp_path, "debian trixie", "bootstrap", '"2026-05-17"')
    assert read_bases(tmp_path).found == {"a": Base("bootstrap", "debian trixie", "2026-05-17")}


def test_several_unknown_bases_are_asked_for_at_the_same_time(images: MakeProject) -> None:
    names = [f"registry.example.com/base{number}:1" for number in range(20)]
    root = images({f"root{number}": f"from: {name}" for number, name in enumerate(names)})
    world = CrowdedWorld(at_once=4)
    found = resolve_bases(read_hierarchy(read_config(root)), NOTHING, world).found
    assert set(found) == set(names)
    assert world.most > 3


class CrowdedWorld(World):
    """A registry whose first answers come only when this many are asked for together."""

    def __init__(self, at_once: int) -> None:
        super().__init__(remote=DIGEST)
        self.gate = threading.Barrier(at_once, timeout=20)
        self.most = self.now = 0
        self.lock = threading.Lock()

    def remote_digest(self, reference: str) -> str:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.gate.wait()
        with self.lock:
            self.now -= 1
        return super().remote_digest(reference)


def test_the_first_of_several_errors_is_told(images: MakeProject) -> None:
    root = images({"b": "from: b:1", "a": "from: a:1"})
    with pytest.raises(ImageUnavailableError, match=r"images/a\.yaml: the image 'a:1'"):
        resolve_bases(read_hierarchy(read_config(root)), NOTHING, World())


def test_what_an_image_is_made_of_has_the_date_of_a_pin_only() -> None:
    found = {"a": Base("digest", DIGEST, "2026-05-17"), "b": Base("bootstrap", "debian trixie", "2026-05-17T14:05:09Z")}
    assert [Bases(found).identity(name) for name in "ab"] == [f"digest {DIGEST}", "bootstrap debian trixie"]
    pinned = Bases(found, frozenset("ab"))
    assert [pinned.identity(name) for name in "ab"] == [f"digest {DIGEST} 2026-05-17", "bootstrap debian trixie 2026-05-17T14:05:09Z"]
    assert Bases({"a": Base("absent", "this reason")}).identity("a") == Bases({"a": Base("absent", "that")}).identity("a")


def test_a_pinned_bootstrap_is_another_local_image_for_each_date() -> None:
    base = Bases({"a": Base("bootstrap", "debian trixie", "2026-05-17T14:05:09Z")}, frozenset("a"))
    assert base.build_name("a") == "pipeline.local/bootstrap/20260517t140509z/debian:trixie"
    assert parse_reference(base.build_name("a")).tag == "trixie"


def test_names_to_build_on_and_words_for_labels() -> None:
    bases = Bases(
        {
            "ubuntu:24.04": Base("digest", DIGEST),
            "a:1": Base("local", IMAGE_ID),
            "b:1": Base("bootstrap", "debian trixie"),
            "c": Base("absent", "x"),
        }
    )
    assert bases.build_name("ubuntu:24.04") == f"docker.io/library/ubuntu@{DIGEST}"
    assert bases.build_name("a:1") == "a:1"
    assert bases.build_name("b:1") == "pipeline.local/bootstrap/debian:trixie"
    assert [bases.describe(name) for name in ("a:1", "b:1", "c")] == [
        "a:1, known to the local engine only",
        "debian trixie bootstrapped from distribution packages, in place of b:1",
        "none: x",
    ]
