"""Several servers publish to one registry at the same time: nobody is hurt, and nobody who reads sees half of anything."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import git
import pytest

from pipeline.adapters.registry import Registry
from tests.engine.conftest import Project, RegistryContainer, remove_images, wait_for
from tests.engine.effects import Effect, Effects, HttpProxy, Request, Side, registry_effects
from tests.engine.published import check_published, check_release, read_release, reading
from tests.engine.second_engine import second_engine

SEED = 20_240_229
IMAGES = ("base", "middle", "leaf")
TAGS = ("content-CONTENT", "main-COMMIT", "main")
MEETINGS = [f"PUT /{name}/manifests/{tag}" for name in IMAGES for tag in TAGS]
MEETINGS += ["PUT /releases/manifests/main-COMMIT", "PUT /releases/manifests/main"]
ORDER = [  # one after the other in each run
    "PUT /base/manifests/content-CONTENT",
    "PUT /releases/manifests/main-COMMIT",
    "PUT /releases/manifests/main",
    "PUT /leaf/manifests/main",
]
PATIENCE = 3.0  # seconds that one publisher is held until the other is as far; it may be that it never does the same


class Meeting:
    """Holds the first publisher that is about to do something until the second one is, too; then both do it at once."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._barrier = threading.Barrier(2)
        self.took_place = False

    def meet(self, effect: Effect, side: Side, _request: Request) -> None:
        if effect.what != self._what or side != "before" or effect.number > 2:
            return
        try:
            self._barrier.wait(PATIENCE)
            self.took_place = True
        except threading.BrokenBarrierError:
            pass


class Overtaking:
    """Holds the first publisher that is about to do `early`, until the other one is about to do `late`; then that one is held,
    until the first one is through with everything.
    """

    def __init__(self, early: str, late: str) -> None:
        self._early, self._late = early, late
        self._overtaken, self._through = threading.Event(), threading.Event()
        self.took_place = False

    def meet(self, effect: Effect, side: Side, _request: Request) -> None:
        if side != "before" or effect.number > 1:
            return
        if effect.what == self._early:
            self._overtaken.wait(PATIENCE)
        elif effect.what == self._late and not self._overtaken.is_set():
            self._overtaken.set()
            self.took_place = self._through.wait(PATIENCE)

    def ended(self) -> None:
        """One of the two has ended."""
        self._through.set()


@dataclass
class Servers:
    """Two checkouts of one repository, each with an engine of its own, and the registry between them."""

    one: Project
    two: Project
    registry: str
    effects: Effects
    meetings: list[Meeting] = field(default_factory=list)
    overtakings: list[Overtaking] = field(default_factory=list)

    def change(self, project: Project, image: str, mark: str) -> str:
        project.write(f"dockerfiles/{image}/{image}.txt", f"{project.namespace} {mark}\n")
        return project.commit(mark)

    def fetch(self, merge: bool = True) -> None:
        """Let the second checkout, or only its history, be as far as the first; the first one knows the second's history then."""
        with closing(git.Repo(self.two.root)) as repository:
            repository.git.pull("--ff-only", "--quiet") if merge else repository.git.fetch("--quiet")

    def both(self, *commands: str, meeting: str = "", overtaking: tuple[str, str] = ("", "")) -> None:
        """Both run `invoke COMMANDS` at the same time, meet at an effect, or overtake each other between two."""
        self.effects.begin()
        if meeting:
            self.meetings.append(Meeting(meeting))
            self.effects.meet = self.meetings[-1].meet
        elif overtaking[0]:
            self.overtakings.append(Overtaking(*overtaking))
            self.effects.meet = self.overtakings[-1].meet
        processes = [
            subprocess.Popen(
                project.command(*commands),
                cwd=project.root,
                env={**os.environ, **project.environment},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for project in (self.one, self.two)
        ]
        try:
            wait_for(lambda: any(process.poll() is not None for process in processes), "one of the two ends", deadline=60)
            for overtaken in self.overtakings:
                overtaken.ended()
            said = [process.communicate(timeout=60)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.communicate()
            self.effects.meet = lambda *_: None
        assert [process.returncode for process in processes] == [0, 0], "\n".join([meeting, *overtaking, *said])

    @property
    def namespace(self) -> str:
        return self.one.namespace


@pytest.fixture(scope="module")
def other_engine(tiny_image: str) -> Iterator[str]:
    """The DOCKER_HOST of the second server."""
    with second_engine(tiny_image) as found:
        yield found.host


@pytest.fixture
def behind(hierarchy: Project, registry: RegistryContainer, engine: docker.DockerClient) -> Iterator[tuple[Effects, HttpProxy]]:
    """The project publishes through a proxy; no two builds of its middle image are the same."""
    effects = Effects()
    with registry_effects(registry.host, effects) as proxy:
        hierarchy.registry = proxy.address
        hierarchy.write("pipeline.yaml", f"registry: {proxy.address}\nnamespace: {hierarchy.namespace}\n")
        hierarchy.image("middle", "parent: base\n", "COPY middle.txt /middle.txt\nRUN head -c 16 /dev/urandom | od > /stamp\n")
        hierarchy.commit()
        try:
            yield effects, proxy
        finally:
            remove_images(engine, f"{proxy.address}/{hierarchy.namespace}/*")


@pytest.fixture
def servers(
    hierarchy: Project, behind: tuple[Effects, HttpProxy], registry: RegistryContainer, other_engine: str, tmp_path: Path
) -> Servers:
    git.Repo.clone_from(str(hierarchy.root), str(tmp_path / "two")).close()
    second = Project(tmp_path / "two", hierarchy.registry, hierarchy.namespace, {"DOCKER_HOST": other_engine})
    with closing(git.Repo(second.root)) as repository, repository.config_writer() as config:
        config.set_value("user", "name", "Test")
        config.set_value("user", "email", "test@example.com")
    return Servers(hierarchy, second, registry.host, behind[0])


def test_the_same_revision_twice_at_the_same_time(servers: Servers, long_run: bool) -> None:
    draw = random.Random(SEED)
    meetings = draw.sample(MEETINGS, len(MEETINGS) if long_run else 3)
    for number, what in enumerate(meetings * (4 if long_run else 1)):
        commit = servers.change(servers.one, draw.choice(IMAGES[:2]), f"round {number}")
        servers.fetch()
        servers.both("build")
        with reading(servers.registry, servers.namespace) as seen:
            servers.both("push", meeting=what)
        check_published(servers.registry, servers.namespace, commit)
        releases = [(server.root / ".pipeline/release.json").read_text() for server in (servers.one, servers.two)]
        assert releases[0] == releases[1], what
        check_whole(servers, seen)
    met = [meeting.took_place for meeting in servers.meetings]
    assert sum(met) >= len(met) / 2, met


def test_the_same_revision_while_one_overtakes_the_other(servers: Servers, long_run: bool) -> None:
    """The worst that can happen without compare-and-set: between one's look at a tag and its write, the other one writes."""
    draw = random.Random(SEED)
    pairs = [(early, late) for number, early in enumerate(ORDER) for late in ORDER[number + 1 :]]
    draw.shuffle(pairs)
    for number, pair in enumerate([(ORDER[0], ORDER[1]), *(pairs if long_run else [])]):
        commit = servers.change(servers.one, "base", f"round {number}")
        servers.fetch()
        servers.both("build")
        with reading(servers.registry, servers.namespace) as seen:
            servers.both("push", overtaking=pair)
        check_published(servers.registry, servers.namespace, commit)
        check_whole(servers, seen)
    assert servers.overtakings[0].took_place


@pytest.mark.parametrize("history", ["known", "unknown"])
def test_two_commits_of_a_branch_at_the_same_time(servers: Servers, history: str, long_run: bool) -> None:
    """The second server is one commit ahead. Where the first one does not have that commit, the commits' times tell."""
    draw = random.Random(f"{SEED}{history}")
    meetings = draw.sample(MEETINGS, len(MEETINGS)) * 2 if long_run else ["PUT /releases/manifests/main", draw.choice(MEETINGS)]
    later = 1_700_000_000
    servers.both("build", "push")
    for number, what in enumerate(meetings):
        later += 60
        older = commit_at(servers, servers.one, "middle", f"{history} {number}, older", later)
        servers.fetch()
        later += 60
        newer = commit_at(servers, servers.two, "leaf", f"{history} {number}, newer", later)
        if history == "known":
            with closing(git.Repo(servers.one.root)) as repository:
                repository.git.fetch("--quiet", str(servers.two.root), "main")
        with reading(servers.registry, servers.namespace) as seen:
            servers.both("build", "push", meeting=what)
        check_published(servers.registry, servers.namespace, newer)
        with closing(Registry(servers.registry)) as registry:
            check_release(registry, servers.namespace, older)
        check_whole(servers, seen)
        with closing(git.Repo(servers.one.root)) as repository:
            repository.git.pull("--ff-only", "--quiet", str(servers.two.root), "main")


def test_a_reader_sees_whole_releases_only(hierarchy: Project, registry: RegistryContainer, long_run: bool) -> None:
    commits = []
    with reading(registry.host, hierarchy.namespace) as seen:
        for number in range(40 if long_run else 3):
            for image in IMAGES:
                hierarchy.write(f"dockerfiles/{image}/{image}.txt", f"{hierarchy.namespace} {number}\n")
            commits.append(hierarchy.commit())
            hierarchy.invoke("build", "push")
        wait_for(lambda: len(seen) == len(commits), "the reader sees the last one")
    assert [release["revision"]["commit"] for release in seen] == commits
    digests = [image["digest"] for release in seen for image in release["images"].values()]
    assert len(set(digests)) == len(digests) == len(commits) * len(IMAGES)
    with closing(Registry(registry.host)) as shelf:
        assert [read_release(shelf, hierarchy.namespace, f"main-{commit[:12]}") for commit in commits] == seen


def commit_at(servers: Servers, project: Project, image: str, mark: str, seconds: int) -> str:
    """A change committed at a time of its own: two commits of one second could not be told apart by it."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GIT_COMMITTER_DATE", f"{seconds} +0000")
        return servers.change(project, image, mark)


def check_whole(servers: Servers, seen: list[Any]) -> None:
    """Each release that was read is that of one commit: every image in it is made of what that commit's is made of.

    Of two builds of the same content, one publisher's may have been there for a moment, before both agreed upon the other's.
    """
    with closing(Registry(servers.registry)) as registry:
        for release in seen:
            kept = read_release(registry, servers.namespace, f"main-{release['revision']['commit'][:12]}")
            assert {name: image["fingerprint"] for name, image in release["images"].items()} == {
                name: image["fingerprint"] for name, image in kept["images"].items()
            }
