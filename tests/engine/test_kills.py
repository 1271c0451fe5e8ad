"""Killed at any moment of `invoke build push`: the next run brings to an end what was begun, and does nothing twice."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest

from pipeline.adapters.registry import Registry
from tests.engine.conftest import Project, RegistryContainer, remove_images, wait_for
from tests.engine.effects import Effect, Effects, FileEffects, Side, engine_effects, kill_at, registry_effects
from tests.engine.published import check_published, read_release

IMAGES = ("base", "middle", "leaf")
SEED = 20_240_229
TRIES = 5  # of a kill at an effect that does not take place in each run


@dataclass
class Ground:
    """The project of three images between proxies, through which all that it does is seen."""

    project: Project
    registry: str  # the real one's HOST:PORT
    engine: docker.DockerClient
    effects: Effects
    files: FileEffects
    said: str = ""  # by the last run
    expected: dict[str, set[str]] = field(default_factory=dict)  # repository → its tags

    def change(self, mark: str) -> str:
        """New content in every image, committed; the commit."""
        self.project.write("dockerfiles/base/base.txt", f"{self.project.namespace} {mark}\n")
        return self.project.commit(mark)

    def run(self, target: Effect | None = None, side: Side = "before") -> int:
        """`invoke build push`, killed at one side of `target`; its exit code."""
        self.effects.begin()
        self.files.begin()
        ordered = target if target and target.place == "files" else None
        started: list[int] = []
        if target and not ordered:
            self.effects.meet = kill_at(target, side, lambda: wait_for(lambda: started, "the process has begun")[0])
        process = subprocess.Popen(
            self.project.command("build", "push"),
            cwd=self.project.root,
            env={**os.environ, **self.project.environment, **self.files.environment(ordered, side)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process.pid)
        try:
            _, self.said = process.communicate(timeout=60)
        finally:
            process.kill()
            process.communicate()
        self.effects.meet = lambda *_: None
        return process.returncode

    def seen(self) -> list[Effect]:
        """The effects of the last run."""
        return [*self.effects.seen, *self.files.seen]

    def builds(self) -> int:
        """How many builds the last run began."""
        return len([effect for effect in self.files.seen if effect.what.startswith("open logs/")])

    def contents(self) -> set[str]:
        """The content references that the engine has."""
        found = self.engine.images.list(filters={"reference": f"{self.project.registry}/{self.project.namespace}/*:content-*"})
        return {tag for image in found for tag in image.tags if ":content-" in tag}

    def check_published(self, commit: str) -> None:
        """The registry is as if nobody had ever been killed: the release of this commit, and of every commit all tags and no more."""
        namespace, tag = self.project.namespace, f"main-{commit[:12]}"
        assert set(check_published(self.registry, namespace, commit)) == set(IMAGES)
        with closing(Registry(self.registry)) as registry:
            release = read_release(registry, namespace, tag)
            tags = {name: image["tags"] for name, image in release["images"].items()} | {"releases": [tag, "main"]}
            for name, new in tags.items():
                self.expected.setdefault(name, set()).update(new)
                assert set(registry.tags(f"{namespace}/{name}")) == self.expected[name]

    def left(self) -> set[str]:
        """The files below .pipeline, by name."""
        top = self.project.root / ".pipeline"
        return {str(path.relative_to(top)) for path in top.rglob("*")}


@pytest.fixture
def ground(hierarchy: Project, registry: RegistryContainer, engine: docker.DockerClient, tmp_path: Path) -> Iterator[Ground]:
    effects = Effects()
    (tmp_path / "watch").mkdir()
    with registry_effects(registry.host, effects) as shelf, engine_effects(effects) as socket:
        hierarchy.registry = shelf.address
        hierarchy.write("pipeline.yaml", f"registry: {shelf.address}\nnamespace: {hierarchy.namespace}\n")
        hierarchy.environment["DOCKER_HOST"] = f"tcp://{socket.address}"
        found = Ground(hierarchy, registry.host, engine, effects, FileEffects(tmp_path / "watch"))
        try:
            yield found
        finally:
            remove_images(engine, f"{shelf.address}/{hierarchy.namespace}/*")


def still_running(project: Project) -> list[str]:
    """Command lines of builds and pushes of this project."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if f"/{project.namespace}/" in line and "docker" in line:
                found.append(line)
    return found


def test_killed_at_any_effect_the_next_run_converges(ground: Ground, long_run: bool) -> None:
    draw = random.Random(SEED)
    first = ground.change("first")
    assert ground.run() == 0, ground.said
    ground.check_published(first)
    moved = ground.change("moved")  # now that there is a branch to be moved
    assert ground.run() == 0, ground.said
    ground.check_published(moved)
    files = ground.left() | {"hashes"}  # which are kept once the files are old enough
    recorded = ground.seen()
    for part in ("engine: POST /session", "registry: PUT /leaf/manifests/content", "releases/manifests/main #1", "files: rename"):
        assert any(part in str(effect) for effect in recorded), (part, [str(effect) for effect in recorded])

    cases: list[tuple[Effect, Side]] = [(effect, side) for effect in recorded for side in ("before", "after")]
    draw.shuffle(cases)
    rounds = max(200, len(cases)) if long_run else 9
    queue = deque((cases * (rounds // len(cases) + 1))[:rounds])
    missed: Counter[tuple[Effect, Side]] = Counter()
    number = rebuilt = 0
    while queue:
        effect, side = queue.popleft()
        number += 1
        what = f"seed {SEED}, round {number}: killed {side} {effect}"
        commit = ground.change(f"round {number}")
        elsewhere = draw.random() < 0.2
        if elsewhere or "hashes" in effect.what:  # which are written where there are new ones of files that are old enough
            shutil.rmtree(ground.project.root / ".pipeline", ignore_errors=True)  # another workspace of the CI server
        before = ground.contents()
        code = ground.run(effect, side)
        assert code in (0, -signal.SIGKILL), (what, ground.said)
        if code == 0:  # how layers are cut into requests differs a little from run to run
            missed[effect, side] += 1
            assert missed[effect, side] < TRIES, f"{what}: it did not take place again"
            queue.append((effect, side))
        quiet = draw.random() < 0.5  # else the next run meets what the engine is still doing for the dead one
        if quiet:
            wait_for(lambda: not still_running(ground.project), "what the killed process had started has ended")
        built = ground.contents() - before
        assert ground.run() == 0, (what, ground.said)
        # Fewer where the engine finished, after that look, what the killed process had it build.
        assert ground.builds() <= len(IMAGES) - len(built), (what, ground.said)
        rebuilt += ground.builds()
        ground.check_published(commit)
        assert ground.left() <= files, what
        wait_for(lambda: not still_running(ground.project), "nothing goes on running")
    assert rebuilt
