"""A parent in another repository's release: how it is written, pinned, and told; the other repository's registry is a table here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pipeline.config import read_config
from pipeline.errors import ConfigurationError, ImageUnavailableError
from pipeline.images.bases import Base, Bases, Foundation, read_bases, read_pins, resolve_bases
from pipeline.images.context import read_context
from pipeline.images.definition import ReleaseParent
from pipeline.images.explain import explain_plan
from pipeline.images.hierarchy import Hierarchy, read_hierarchy
from pipeline.images.pins import aged_bases, ask_pins, move_pins, write_pins
from pipeline.images.plan import BuildPlan, make_fingerprints, plan_build
from pipeline.images.release import Release, describe_release, encode_inputs, shortened
from pipeline.images.users import Wanted, find_users
from pipeline.revision import Revision
from tests.unit.images.test_pins import BEFORE, NEW, OLD, World, days_ago

MakeProject = Callable[[Mapping[str, str]], Path]
SERVER, BROKER = "base-images/server@main", "base-images/broker@main"


def of_release(digest: str, release: str, image: str = "server", date: str = BEFORE) -> Base:
    manifest = "sha256:" + release[-1] * 64
    return Base("release", digest, date, release, manifest, f"base-images/{image}")


FIRST = {SERVER: of_release(OLD, "main-aaaaaaaaaaaa"), BROKER: of_release(OLD, "main-aaaaaaaaaaaa", "messaging/broker")}
SECOND = {SERVER: of_release(NEW, "main-bbbbbbbbbbbb"), BROKER: of_release(OLD, "main-bbbbbbbbbbbb", "messaging/broker")}


@pytest.fixture
def shop(images: MakeProject) -> Hierarchy:
    """ledger on the release's server, report on ledger; relay on its broker."""
    parent = "parent: {release: base-images, image: "
    root = images({"ledger": parent + "server}", "report": "parent: ledger", "relay": parent + "broker}"})
    return read_hierarchy(read_config(root))


def plan(hierarchy: Hierarchy, bases: Bases, context: Path, registry: Mapping[str, str] | None = None) -> BuildPlan:
    contexts = dict.fromkeys(hierarchy.names, read_context(context))
    fingerprints = make_fingerprints(hierarchy, bases, contexts)
    return plan_build(hierarchy, Revision("main", "1" * 40), bases, contexts, fingerprints, (), {}, registry or {}, {})


def release_of(planned: BuildPlan) -> Release:
    inputs = {step.name: encode_inputs(step.fingerprint.inputs) for step in planned.steps}
    digests = {step.name: "sha256:" + step.fingerprint.value for step in planned.steps}
    return describe_release(planned, digests, {}, inputs, 0)


def test_it_is_pulled_by_digest_from_where_images_are_pulled(shop: Hierarchy, tmp_path: Path) -> None:
    bases = Bases(FIRST, frozenset(FIRST), "mirror.example.com/docker")
    planned = plan(shop, bases, tmp_path / "project/dockerfiles/ledger")
    assert planned["ledger"].base == f"mirror.example.com/docker/base-images/server@{OLD}"
    assert planned["relay"].base == f"mirror.example.com/docker/base-images/messaging/broker@{OLD}"
    elsewhere = Base("release", OLD, BEFORE, "main-aaaaaaaaaaaa", OLD, "other.example.com/base-images/server")
    assert Bases({SERVER: elsewhere}, frozenset(), "r.example.com").build_name(SERVER) == f"other.example.com/base-images/server@{OLD}"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{release: base-images}", "images/a.yaml:1: the key 'image' is missing"),
        ("{release: base-images, image: server, trak: main}", "unknown key 'trak'"),
        ("{release: Base, image: server}", "images/a.yaml:1: 'parent': 'Base' and 'server' name no image of a release"),
        ("{release: r.example.com/base, image: 'ser ver'}", "name no image of a release"),
        ("[base]", "images/a.yaml:1: 'parent': expected"),
    ],
)
def test_mistakes_are_told_where_they_stand(images: MakeProject, written: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_hierarchy(read_config(images({"a": f"parent: {written}"})))
    assert message in caught.value.message


def test_what_is_not_there_is_said_with_what_to_do(shop: Hierarchy) -> None:
    with pytest.raises(ImageUnavailableError, match=f"'{SERVER}' cannot be had: there is no release of 'main'") as caught:
        resolve_bases(shop, Bases({}), World({}))
    assert "Publish it there" in caught.value.hint


def test_what_to_do_is_what_the_registry_says_where_that_is_the_reason(shop: Hierarchy) -> None:
    class Unreachable(World):
        def released_image(self, parent: ReleaseParent) -> Base:
            raise ImageUnavailableError(f"release {parent.release}: no answer", "Start it.")

    with pytest.raises(ImageUnavailableError) as caught:
        resolve_bases(shop, Bases({}), Unreachable({}))
    assert caught.value.hint == "Start it."


def test_the_lock_names_the_release_and_no_registry(shop: Hierarchy, tmp_path: Path) -> None:
    moved = move_pins({}, ask_pins(shop, {}, World({}, released=FIRST)))
    write_pins(tmp_path, moved)
    text = (tmp_path / "pipeline.lock").read_text()
    assert f"    value: {OLD}\n" in text
    assert '    release: "main-aaaaaaaaaaaa"\n' in text
    assert '    manifest: "sha256:aaaa' in text
    assert read_pins(tmp_path) == moved
    assert read_bases(tmp_path, "r.example.com").build_name(SERVER) == f"r.example.com/base-images/server@{OLD}"
    (tmp_path / "pipeline.lock").write_text(text.replace('"base-images/server"', '"base images"'))
    with pytest.raises(ConfigurationError, match=r"pipeline.lock:\d+: 'base-images/server@main': 'base images' is no repository"):
        read_pins(tmp_path)


def test_images_of_one_release_move_together(shop: Hierarchy) -> None:
    for name in (SERVER, "base-images", "base-images@main"):
        assert [item.reference for item in ask_pins(shop, FIRST, World({}, released=SECOND), [name])] == [BROKER, SERVER]
    with pytest.raises(ConfigurationError, match="no image takes that from elsewhere"):
        ask_pins(shop, FIRST, World({}, released=SECOND), ["base-images@other"])


def test_what_moved_is_told_as_releases(shop: Hierarchy) -> None:
    broker, server = ask_pins(shop, FIRST, World({}, released=SECOND))
    assert (broker.state, server.state) == ("current", "moved")
    assert "server@main: moved, release main-aaaaaaaaaaaa → release main-bbbbbbbbbbbb (pinned" in server.describe()
    assert "release main-aaaaaaaaaaaa → release main-bbbbbbbbbbbb (was" in server.describe_update()
    assert "→ release main-bbbbbbbbbbbb, the same image (was" in broker.describe_update()
    again = ask_pins(shop, FIRST, World({}, released={key: of_release(base.value, base.release, date="") for key, base in FIRST.items()}))
    assert "release main-aaaaaaaaaaaa as before" in again[1].describe_update()
    assert move_pins(FIRST, again) == FIRST  # nothing to commit


def test_a_release_with_the_same_image_rebuilds_nothing(shop: Hierarchy, tmp_path: Path) -> None:
    context = tmp_path / "project/dockerfiles/ledger"
    built = {str(step.content): NEW for step in plan(shop, Bases(FIRST, frozenset(FIRST)), context).steps}
    steps = plan(shop, Bases(SECOND, frozenset(SECOND)), context, built).steps
    assert {step.name for step in steps if step.action == "build"} == {"ledger", "report"}


def test_an_explanation_names_the_releases(shop: Hierarchy, tmp_path: Path) -> None:
    context = tmp_path / "project/dockerfiles/ledger"
    before, now = (plan(shop, Bases(bases, frozenset(bases)), context) for bases in (FIRST, SECOND))
    inputs = {step.name: shortened(step.fingerprint.inputs) for step in before.steps}
    against = release_of(before)
    names = {image.inputs: name for name, image in against.images.items()}
    explained = explain_plan(now, against, lambda image: inputs[names[image.inputs]], map)
    causes = {image.name: [cause.what for cause in image.causes] for image in explained.images}
    assert causes["ledger"] == ["base-images/server changed: release main-aaaaaaaaaaaa → main-bbbbbbbbbbbb"]
    assert causes["report"] == ["ledger changed"]


def test_a_track_may_have_any_name_that_git_takes(images: MakeProject) -> None:
    root = images({"ledger": "parent: {release: base-images, image: server, track: 'me@work'}"})
    (key,) = [definition.base for definition in read_hierarchy(read_config(root))]
    assert Bases({key: FIRST[SERVER]}).name(key) == "base-images/server"


def test_an_old_pin_of_a_release_asks_for_a_newer_one(shop: Hierarchy) -> None:
    old = {key: of_release(base.value, base.release, date=days_ago(50)) for key, base in FIRST.items()}
    warning = aged_bases(shop, Bases(old, frozenset(old)), 45)[0]
    assert "was pinned 50 days ago (max_pin_age: 45), and its newest release may be newer; invoke pins.update --only" in warning


def test_users_are_found_through_releases_in_between(shop: Hierarchy, tmp_path: Path) -> None:
    """base → server in base-images; ledger → report on it in shop; kiosk in a third repository on shop's report."""
    planned = release_of(plan(shop, Bases(FIRST, frozenset(FIRST)), tmp_path / "project/dockerfiles/ledger"))
    server = planned.images["ledger"].stands_on[0]
    assert server == Foundation("base-images/server", OLD, "main-aaaaaaaaaaaa")
    bases = {
        tag: release_with(
            planned, letter, {"base": ((Foundation("ubuntu:24.04", THIRD),), THIRD), "server": ((Foundation("base"),), digest)}
        )
        for letter, tag, digest in (("a", "main-aaaaaaaaaaaa", OLD), ("b", "main-bbbbbbbbbbbb", NEW))
    }
    report = Foundation("shop/report", planned.images["report"].digest, planned.tag)
    third = release_with(planned, "c", {"kiosk": ((report,), NEW)})

    def read(namespace: str, tag: str) -> Release | None:
        return {"base-images": bases, "shop": {planned.tag: planned}}[namespace].get(tag)

    releases = {"base-images": [bases["main-bbbbbbbbbbbb"]], "shop": [planned], "kiosk": [third]}
    found = find_users(Wanted("base-images/server", NEW, True), releases, read, "r.example.com")
    assert [(use.namespace, use.image, use.current) for use in found] == [
        ("kiosk", "kiosk", False),
        ("shop", "ledger", False),
        ("shop", "report", False),
    ]
    assert str(found[1]) == "shop main-111111111111: ledger stands on main-aaaaaaaaaaaa, an old one"
    everything = find_users(Wanted("docker.io/library/ubuntu:24.04", THIRD, False), releases, read, "r.example.com")
    assert {use.image for use in everything} == {"base", "server", "ledger", "report", "kiosk"}
    assert all(use.current for use in everything)
    by_digest = {"base": ((Foundation(f"ubuntu:24.04@{THIRD}", THIRD),), NEW)}
    pinned = find_users(Wanted("ubuntu:24.04", OLD, False), {"x": [release_with(planned, "d", by_digest)]}, read, "r.example.com")
    assert [(use.image, use.digest, use.current) for use in pinned] == [("base", THIRD, False)]


THIRD = "sha256:" + "3" * 64


def release_with(like: Release, letter: str, images: Mapping[str, tuple[tuple[Foundation, ...], str]]) -> Release:
    import msgspec

    one = next(iter(like.images.values()))
    revision = msgspec.structs.replace(like.revision, commit=letter * 40)
    return Release(revision, {name: msgspec.structs.replace(one, stands_on=on, digest=digest) for name, (on, digest) in images.items()})
