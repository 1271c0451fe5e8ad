"""Images of other repositories' releases: where they are looked at and pulled from, whatever place they were pushed to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.images.bases import Base
from pipeline.images.definition import ReleaseParent
from pipeline.reference import Reference
from pipeline.tasks import external_images
from pipeline.tasks.external_images import ExternalImages

DIGEST = "sha256:" + "1" * 64


@pytest.mark.parametrize(
    ("release", "image", "pushed", "pulled"),
    [
        ("base", "tomcat", "push.example.com/base/tomcat", "mirror.example.com/docker/base/tomcat"),
        ("base", "broker", "push.example.com/team/base/messaging/broker", "mirror.example.com/docker/base/messaging/broker"),
        ("images", "tomcat", "push.example.com/images/images/tomcat", "mirror.example.com/docker/images/tomcat"),
        ("images", "tool", "push.example.com/images/images/tomcat", "mirror.example.com/docker/images/images/tomcat"),
        ("other.example.com/base", "tomcat", "push.example.com/base/tomcat", "other.example.com/base/tomcat"),
    ],
)
def test_it_is_asked_where_it_is_pulled_from(monkeypatch: pytest.MonkeyPatch, release: str, image: str, pushed: str, pulled: str) -> None:
    asked: list[str] = []

    def read_platform(reference: Reference) -> tuple[str, ...]:
        asked.append(str(reference))
        return ()

    monkeypatch.setattr(external_images, "_read_platform", read_platform)
    found = SimpleNamespace(tag="main-1", present={image: SimpleNamespace(repository=pushed, digest=DIGEST)})
    releases: Any = SimpleNamespace(locate=lambda _track: ("sha256:2", found))
    hierarchy: Any = ()
    engine: Any = None
    images = ExternalImages(engine, hierarchy, lambda _release: releases, "mirror.example.com/docker")
    base = images.released_image(ReleaseParent(release, image, "main"))
    assert asked == [f"{pulled}@{DIGEST}"]
    path = pulled.removeprefix("mirror.example.com/docker/")
    assert base == Base("release", DIGEST, release="main-1", manifest="sha256:2", repository=path)
