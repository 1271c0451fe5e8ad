"""release.users beside other teams' repositories: what cannot be read is left out and said, unless it was asked for by name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import RegistryRefusedError
from pipeline.images.bases import Foundation
from pipeline.images.release import Release, ReleasedImage, ReleaseRevision
from pipeline.images.users import Wanted
from pipeline.tasks import release_users
from pipeline.tasks.release_users import find_release_users

DIGEST = "sha256:" + "1" * 64


def release(letter: str, **images: Foundation) -> Release:
    made = {name: ReleasedImage(digest=DIGEST, stands_on=(on,)) for name, on in images.items()}
    return Release(ReleaseRevision("main", letter * 40, False, 0), made)


class Kept:
    """A repository of releases; without any it is somebody else's."""

    def __init__(self, *found: Release) -> None:
        self._found = found

    def promoted(self) -> tuple[Release, ...]:
        return self._found or self._refuse()

    def read(self, _tag: str) -> Release | None:
        return next(iter(self._found), None) or self._refuse()

    def _refuse(self) -> Any:
        raise RegistryRefusedError("'main' is no release")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def project(said: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """shop stands on server, and on what somebody else has released; somebody's repository holds no release."""
    shop = release("a", ledger=Foundation("base/server", DIGEST, "main-1"), other=Foundation("somebody/x", DIGEST, "main-2"))
    places = {"shop": Kept(shop), "base": Kept(release("b", server=Foundation("ubuntu:24.04", DIGEST))), "somebody": Kept()}
    monkeypatch.setattr(release_users, "_wanted", lambda _project, _image: Wanted("base/server", DIGEST, True))
    registry = SimpleNamespace(repositories=lambda: [f"{place}/releases" for place in places])
    config = SimpleNamespace(registry="r.example.com", pull_from="r.example.com")
    return SimpleNamespace(config=config, registry=registry, releases_of=places.__getitem__, say=said.append)


def test_what_is_no_release_is_left_out_and_said(project: Any, said: list[str]) -> None:
    found = find_release_users(project, "server", [], all_of_them=False)
    assert [(use.namespace, use.image) for use in found] == [("shop", "ledger")]
    assert said == [
        "warning: somebody/releases is left out: 'main' is no release",
        "warning: release main-2 of somebody is left out: 'main' is no release",
    ]


def test_what_was_asked_for_by_name_is_an_error(project: Any) -> None:
    with pytest.raises(RegistryRefusedError):
        find_release_users(project, "server", ["shop", "somebody"], all_of_them=False)
