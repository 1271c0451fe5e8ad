"""What a registry says is published, asked of the registry itself."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from pipeline.adapters.registry import Registry
from pipeline.reference import Reference


def read_release(registry: Registry, namespace: str, tag: str) -> Any:
    """The document of the release that a tag or digest names."""
    path = f"{namespace}/releases"
    name = Reference(registry.host, path, digest=tag) if ":" in tag else Reference(registry.host, path, tag)
    return json.loads(registry.blob(path, json.loads(registry.manifest(name).content)["config"]["digest"]))


def check_published(host: str, namespace: str, commit: str) -> dict[str, str]:
    """The release of main is that of `commit`, and every tag of its images names what the release names; image → digest."""
    with closing(Registry(host)) as registry:
        release = read_release(registry, namespace, "main")
        assert release["revision"]["commit"] == commit
        check_release(registry, namespace, commit)
        assert release == read_release(registry, namespace, f"main-{commit[:12]}")
        for name, image in release["images"].items():
            assert registry.digests([Reference(host, f"{namespace}/{name}", "main")]) == [image["digest"]], name
    return {name: image["digest"] for name, image in release["images"].items()}


def check_release(registry: Registry, namespace: str, commit: str) -> None:
    """The release of a commit is there, and content and commit tags name what it names."""
    tag = f"main-{commit[:12]}"
    release = read_release(registry, namespace, tag)
    assert release["revision"]["commit"] == commit
    for name, image in release["images"].items():
        content, *others = image["tags"]
        assert content.startswith("content-")
        assert others == [tag, "main"]
        references = [Reference(registry.host, f"{namespace}/{name}", kept) for kept in (content, tag)]
        assert set(registry.digests(references)) == {image["digest"]}, (name, commit)


@contextlib.contextmanager
def reading(host: str, namespace: str) -> Iterator[list[Any]]:
    """A reader of main's release, again and again meanwhile: each release that it saw, once.

    Whatever it sees has to be whole: every image it names is there at that moment.
    """
    seen: list[Any] = []
    missing: list[str] = []
    end = threading.Event()

    def read() -> None:
        last = ""
        with closing(Registry(host)) as registry:
            while not end.wait(0.02):
                (digest,) = registry.digests([Reference(host, f"{namespace}/releases", "main")])
                if digest == last:
                    continue
                last, release = digest, read_release(registry, namespace, digest)
                seen.append(release)
                for name, image in release["images"].items():
                    if not registry.find_manifest(Reference(host, f"{namespace}/{name}", digest=image["digest"])):
                        missing.append(f"{name}@{image['digest']}")

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        end.set()
        thread.join()
    assert not missing
