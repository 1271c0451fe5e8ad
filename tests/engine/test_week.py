"""A week of two repositories: base images, and an application that is built on a release of them, each with the installed toolkit."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from pipeline.adapters.registry import Registry
from tests.engine.conftest import Project, RegistryContainer
from tests.engine.published import read_release
from tests.engine.toolkit import Toolkit


@dataclass
class Installed(Project):
    """A project that is used with an installed toolkit, in an environment that knows nothing of this checkout."""

    program: Path = Path()

    def command(self, *arguments: str) -> list[str]:
        return [str(self.program), *arguments]


@pytest.fixture
def repositories(
    make_project: Callable[[str], Project],
    toolkit: Toolkit,
    tiny_image: str,
    registry: RegistryContainer,
) -> tuple[Installed, Installed]:
    """(base images, application): base → server and base → broker there; ledger on the release's server, and report on ledger, here."""
    base, shop = (
        Installed(made.root, made.registry, made.namespace, {"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}, toolkit.invoke)
        for made in map(make_project, ("base-images", "shop"))
    )
    base.image("base", f"from: {tiny_image}\n", "COPY base.txt /base.txt\n")
    base.image("server", "parent: base\n", "COPY server.txt /server.txt\n")
    base.image("broker", "parent: base\nrepository: messaging/broker\n", "COPY broker.txt /broker.txt\n")
    for name in ("base", "server", "broker"):
        base.write(f"dockerfiles/{name}/{name}.txt", "monday\n")
    base.commit("monday")
    shop.image("ledger", f"parent: {{release: {base.namespace}, image: server}}\n", "COPY ledger.txt /ledger.txt\n")
    shop.image("report", "parent: ledger\n", "COPY report.txt /report.txt\n")
    shop.image("relay", f"parent: {{release: {base.namespace}, image: broker}}\n", "COPY relay.txt /relay.txt\n")
    for name in ("ledger", "report", "relay"):
        shop.write(f"dockerfiles/{name}/{name}.txt", f"{name}\n")
    shop.commit("begin")
    return base, shop


def published(project: Project, tag: str = "main") -> dict[str, str]:
    """Image → digest of a release, as the registry has it."""
    with closing(Registry(project.registry)) as registry:
        release = read_release(registry, project.namespace, tag)
    return {name: image["digest"] for name, image in release["images"].items()}


def layers(engine: docker.DockerClient, image: str) -> list[str]:
    return list(engine.images.get(image).attrs["RootFS"]["Layers"])


def actions(document: Any) -> dict[str, str]:
    return {image["name"]: image["action"] for image in document["images"]}


def test_a_week(repositories: tuple[Installed, Installed], engine: docker.DockerClient, registry: RegistryContainer) -> None:
    base, shop = repositories
    key = f"{base.namespace}/server@main"

    # Before there is a release, the application says what it waits for.
    early = shop.run("plan")
    assert early.returncode == 22
    assert f"images/ledger.yaml: the image '{key}' cannot be had: release {base.namespace}@main" in early.stderr
    assert "invoke build push" in early.stderr

    # Monday: bases released, application built on them and released.
    base.invoke("build", "push")
    monday = published(base)
    assert "pinned to release main-" in shop.invoke("pins.update")
    lock = (shop.root / "pipeline.lock").read_text()
    assert monday["server"] in lock
    assert base.json("release.show")["revision"]["commit"][:12] in lock
    assert shop.registry not in lock  # it is right wherever the images are pulled from
    pinned_on = shop.commit("pinned")
    shop.invoke("build", "push")
    first = published(shop)
    server = f"{base.registry}/{base.namespace}/server:main"
    ledger = f"{shop.registry}/{shop.namespace}/ledger:main"
    assert layers(engine, ledger)[: len(layers(engine, server))] == layers(engine, server)

    # Tuesday: the server image is patched. The application stays where its pin is, until that is moved.
    base.write("dockerfiles/server/server.txt", "tuesday\n")
    base.commit("tuesday")
    base.invoke("build", "push")
    tuesday = published(base)
    assert tuesday["server"] != monday["server"]
    assert tuesday["broker"] == monday["broker"]
    assert set(shop.actions().values()) == {"none"}
    assert "server@main: moved, release main-" in shop.invoke("pins.update", "--check")
    old = shop.json("release.users", "ledger")
    assert [(use["image"], use["current"]) for use in old] == [("report", True)]
    stranger = f"{shop.registry}/somebody/releases:main"  # another team's repository of that name, which holds an image
    engine.images.get(server).tag(stranger)
    subprocess.run(["docker", "push", "--quiet", stranger], check=True, capture_output=True)
    engine.images.remove(stranger)
    uses = base.json("release.users", "server")
    assert [(use["namespace"], use["image"], use["current"]) for use in uses] == [
        (shop.namespace, "ledger", False),
        (shop.namespace, "report", False),
    ]
    assert uses[0]["base"].startswith("main-")
    assert "warning: somebody/releases is left out" in base.run("release.users", "server").stderr
    assert base.run("release.users", "server", "--namespace", "somebody").returncode == 31
    assert f"{shop.namespace} main-{pinned_on[:12]}: ledger stands on main-" in base.invoke("release.users", "server")

    # Wednesday: the pin is moved; what descends from what moved is rebuilt, and nothing else.
    moved = shop.invoke("pins.update")
    assert "server@main: release main-" in moved
    assert "the same image" in moved  # of broker
    explained = {image["name"]: image for image in shop.json("plan", "--explain")["images"]}
    assert {name: image["action"] for name, image in explained.items()} == {"ledger": "build", "report": "build", "relay": "tag"}
    (cause,) = explained["ledger"]["causes"]
    assert cause["kind"] == "base"
    assert cause["what"].startswith(f"{base.namespace}/server changed: release main-")
    shop.commit("moved")
    shop.invoke("build", "push")
    second = published(shop)
    assert {name for name in first if first[name] != second[name]} == {"ledger", "report"}
    assert all(use["current"] for use in base.json("release.users", "server"))

    # Thursday: back to Monday's base by the old lock file. Nothing is built: what it made is in the registry.
    subprocess.run(["git", "revert", "--no-edit", "HEAD"], cwd=shop.root, check=True, capture_output=True)
    assert (shop.root / "pipeline.lock").read_text() == lock
    assert "build" not in shop.actions().values()
    shop.invoke("build", "push")
    assert published(shop) == first

    # Friday: a release for ever, by its digest or its commit's tag, in place of a branch that moves.
    document = base.json("release.list")
    oldest = document[-1]["tag"]
    digest = registry.digest(f"{base.namespace}/releases:{oldest}")
    for name, image, track in (("ledger", "server", digest), ("relay", "broker", oldest)):
        shop.write(f"images/{name}.yaml", f"parent: {{release: {base.namespace}, image: {image}, track: '{track}'}}\n")
    shop.invoke("pins.update")
    shop.commit("for ever")
    base.write("dockerfiles/base/base.txt", "friday\n")
    base.commit("friday")
    base.invoke("build", "push")
    assert "moved" not in shop.invoke("pins.update", "--check")
    assert "as before" in shop.invoke("pins.update")  # and nothing to commit
    shop.invoke("build", "push")
    assert published(shop) == first
    assert [use["current"] for use in base.json("release.users", "base") if use["namespace"] == shop.namespace] == [False] * 3
