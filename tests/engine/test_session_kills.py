"""Killed at any moment of a session: nothing of the dead is left, and nothing of the living is touched."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.adapters.docker_engine import Container
from pipeline.integration.lease import FOLDER, PREPARED, look
from pipeline.sessions import PROJECT, SESSION
from tests.engine.checkouts import WAITING, Checkout
from tests.engine.conftest import wait_for
from tests.engine.effects import Dropped, Effect, Effects, FileEffects, Request, Side, engine_effects

SEED = 20_261_123
TRIES = 5  # of a kill at an effect that does not take place in each run
PROMISED = 30.0  # seconds after the death of its process until nothing of a session is left
SHARES = ("itest", "start-oracle", "itest", "run-tests", "itest", "start-oracle", "itest", "stop-oracle")  # of the rounds
ONLY_OWN_ROW = """
import os, time
from pathlib import Path
import oracledb
with oracledb.connect(user=os.environ["DB_USER"], password=os.environ["DB_PASSWORD"], dsn=os.environ["DB_DSN"]) as connection:
    connection.cursor().execute("INSERT INTO customer VALUES ('{mark}')")
    connection.commit()
    rows = connection.cursor().execute("SELECT name FROM customer WHERE name LIKE 'build%'").fetchall()
assert rows == [("{mark}",)], rows
"""


@dataclass(frozen=True)
class Case:
    """A command that is killed at one side of an effect; `sent`: a request on its way is carried out all the same."""

    command: str
    effect: Effect
    side: Side
    sent: bool

    def __str__(self) -> str:
        way = ", which still got there" if self.sent and self.side == "before" and self.effect.place == "engine" else ""
        return f"{self.command} killed {self.side} {self.effect}{way}"


class Kill:
    """Kills a process at one side of an effect of the engine; `taken_place` once nothing more comes of what was asked."""

    def __init__(self, case: Case, pid: Callable[[], int]) -> None:
        self._case, self._pid = case, pid
        self._killed = False
        self.taken_place = threading.Event()

    def meet(self, effect: Effect, side: Side, _request: Request) -> None:
        if effect != self._case.effect:
            return
        if side == self._case.side and not self._killed:
            self._killed = True
            os.kill(self._pid(), signal.SIGKILL)
            if side == "before" and not self._case.sent:
                raise Dropped

    def over(self, effect: Effect) -> None:
        if effect == self._case.effect:
            self.taken_place.set()


@dataclass
class Ground:
    """A checkout whose commands are watched, beside sessions that live."""

    checkout: Checkout
    address: str  # of the engine, as the watched commands see it
    effects: Effects
    files: FileEffects
    neighbours: list[Container]
    said: str = ""

    def run(self, command: str, case: Case | None = None) -> int:
        """`invoke COMMAND`, killed as `case` says; its exit code."""
        self.effects.begin()
        self.files.begin()
        started: list[int] = []
        kill = Kill(case, lambda: wait_for(lambda: started, "the process has begun")[0]) if case and case.effect.place == "engine" else None
        self.effects.meet = kill.meet if kill else lambda *_: None
        self.effects.over = kill.over if kill else lambda _: None
        ordered = self.files.environment(case.effect if case and not kill else None, case.side if case else "before")
        process = self.checkout.begin(command, DOCKER_HOST=f"tcp://{self.address}", **ordered)
        started.append(process.pid)
        _, self.said = process.communicate(timeout=120)
        if kill and process.returncode == -signal.SIGKILL:
            wait_for(kill.taken_place.is_set, "the engine has done what it was asked for")
        self.effects.meet, self.effects.over = lambda *_: None, lambda _: None
        return process.returncode

    def record(self, command: str) -> list[Effect]:
        """What the command changes when nobody kills it."""
        assert self.run(command) == 0, self.said
        seen = [*self.effects.seen, *self.files.seen]
        return [effect for effect in seen if "junit.xml" not in effect.what]  # the test command's own

    def left(self) -> list[str]:
        """What there is beside the neighbours: names of containers, volumes and files."""
        living = {container.labels[SESSION] for container in self.neighbours}
        engine, mark = self.checkout.engine, {PROJECT: self.checkout.project}
        found = [container.name for container in engine.list_containers(mark) if container.labels[SESSION] not in living]
        found += [name for name, labels in engine.list_volumes(mark).items() if labels[SESSION] not in living]
        return found + [path.name for path in (self.checkout.root / ".pipeline").glob("database*") if "neighbour" not in path.name]

    def running(self) -> list[Container]:
        """The databases that were made, and were neither finished nor removed yet, come last."""
        living = {container.id for container in self.neighbours}
        return [container for container in self.checkout.containers if container.id not in living]

    def handed_over(self) -> bool:
        """Whether there is a database whose start got to its end."""
        return any(self.checkout.engine.read_file(found.id, f"{FOLDER}/{PREPARED}") is not None for found in self.running())

    def check_neighbours(self) -> None:
        for container in self.neighbours:
            found = look(self.checkout.engine, container.id)
            assert found, f"{container.name} is gone"
            assert found.state == "running"


@pytest.fixture
def ground(checkout: Checkout, make_checkout: Callable[[], Checkout], standin_image: str, tmp_path: Path) -> Iterator[Ground]:
    other = make_checkout()
    other.project = checkout.project
    other.configure(standin_image, "prepare: [{sql: sql}]")
    (other.root / "sql").symlink_to(checkout.root / "sql")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda each: each.start("--session", f"neighbour-{each.root.name}"), (checkout, other)))
    effects = Effects()
    (tmp_path / "watch").mkdir()
    with engine_effects(effects) as proxy:
        yield Ground(checkout, proxy.address, effects, FileEffects(tmp_path / "watch"), checkout.containers)


def test_killed_at_any_effect_nothing_is_left_and_nobody_else_is_touched(ground: Ground, long_run: bool) -> None:
    draw = random.Random(SEED)
    checkout = ground.checkout
    cases: dict[str, deque[Case]] = {}
    for command in ("itest", "start-oracle", "run-tests", "stop-oracle"):
        recorded = ground.record(command)
        assert recorded, command
        sides: tuple[Side, ...] = ("before", "after")
        drawn = [
            Case(command, effect, side, sent)
            for effect in recorded
            for side in sides
            for sent in ((True, False) if side == "before" and effect.place == "engine" else (True,))  # else nothing is on its way
        ]
        draw.shuffle(drawn)
        cases[command] = deque(drawn)
    seen = {str(case.effect) for drawn in cases.values() for case in drawn}
    for part in (
        "POST /containers/create",
        "PUT /containers/DIGEST/archive",
        "POST /containers/DIGEST/start",
        "DELETE /containers/",
        "files:",
    ):
        assert any(part in effect for effect in seen), (part, seen)

    slowest, missed = 0.0, list[Case]()
    tried: Counter[Case] = Counter()
    rounds = 500 if long_run else len(SHARES)
    queue = deque(itertools.islice(itertools.cycle(SHARES), rounds))
    while queue:
        command = queue.popleft()
        case = cases[command][0]
        cases[command].rotate(-1)
        tried[case] += 1
        what = f"seed {SEED}, round {tried.total()}: {case}"
        if command in ("run-tests", "stop-oracle"):
            checkout.start()
        code = ground.run(command, case)
        begun = time.monotonic()
        assert code in (0, -signal.SIGKILL), (what, code, ground.said)
        if code == 0:
            queue.append(command)
            cases[command].rotate(1)
            if tried[case] == TRIES:  # what lasts for microseconds is not always met
                cases[command].popleft()
                missed.append(case)
                assert len(missed) <= 3, missed
        elif command == "run-tests":
            assert ground.handed_over(), f"{what}: the session of three steps is gone"
        elif command != "stop-oracle":
            if command == "itest" or not ground.handed_over():  # else it was killed when its work was done
                wait_for(lambda: not ground.left(), f"{what}: nothing is left", deadline=PROMISED)
            slowest = max(slowest, time.monotonic() - begun)
        if ground.left():
            assert command != "itest", (what, ground.left())
            stopped = checkout.invoke("stop-oracle")
            assert stopped.code == 0, (what, stopped.err)
        wait_for(lambda: not ground.left(), f"{what}: nothing is left after that, either", deadline=PROMISED)
        ground.check_neighbours()
    print(
        f"{rounds} kills in {tried.total()} runs; the slowest cleaning up took {slowest:.1f} s; not met: {[str(case) for case in missed]}"
    )
    for neighbour in ground.neighbours:
        where = checkout.root if neighbour.labels[SESSION].endswith(checkout.root.name) else checkout.root.with_name("checkout-1")
        living = Checkout(where, checkout.project)
        living.write("tests.py", (checkout.root / "tests.py").read_text())
        tested = living.invoke("run-tests", "--session", neighbour.labels[SESSION])
        assert tested.code == 0, tested.err
        assert living.invoke("stop-oracle", "--session", neighbour.labels[SESSION]).code == 0
    assert checkout.containers == []


def test_many_builds_of_one_project_share_an_engine(
    checkout: Checkout, make_checkout: Callable[[], Checkout], standin_image: str, long_run: bool
) -> None:
    """Half of them in one checkout, as the executors of one agent that share a workspace; half in their own."""
    builds = 20 if long_run else 4

    def build(number: int) -> tuple[int, str]:
        shared = number % 2 == 0
        here = checkout if shared else others[number]
        tests = f"tests-{number}.py"
        here.write(tests, ONLY_OWN_ROW.format(mark=f"build{number}"))
        environment = {"BUILD_TAG": f"jenkins-{number if shared else 'other'}", "EXECUTOR_NUMBER": str(number)}
        started = here.invoke("start-oracle", "--json", **environment)
        assert started.code == 0, started.err
        said = json.loads(started.out)
        if shared:  # the results of two runs would mix in one folder, so that they are refused; the builds' databases are their own
            session = here.invoke("start-oracle", "--keep", "1", **environment)
            assert session.code == 0, session.err
        else:
            here.configure(standin_image, "prepare: [{sql: sql}]", run=("python", tests))
            ran = here.invoke("run-tests", **environment)
            assert ran.code == 0, ran.err
        stopped = here.invoke("stop-oracle", **environment)
        assert "database: stopped" in stopped.err
        return said["port"], said["session"]

    others = {number: make_checkout() for number in range(1, builds, 2)}
    for other in others.values():
        other.project = checkout.project
        other.configure(standin_image, "prepare: [{sql: sql}]", "deadline: 300")
        (other.root / "sql").symlink_to(checkout.root / "sql")
    checkout.configure(standin_image, "prepare: [{sql: sql}]", "deadline: 300")
    checkout.start("--session", "bystander")
    (bystander,) = checkout.containers
    with ThreadPoolExecutor(builds) as pool:
        done = list(pool.map(build, range(builds)))
    assert len({session for _, session in done}) == builds
    assert [container.id for container in checkout.containers] == [bystander.id]
    assert checkout.invoke("run-tests", "--session", "bystander").code == 0


def test_a_killed_build_that_shares_its_workspace_takes_nobody_with_it(checkout: Checkout) -> None:
    checkout.start("--session", "neighbour")
    (neighbour,) = checkout.containers
    checkout.write("tests.py", WAITING)
    process = checkout.begin("itest")
    wait_for((checkout.root / "testing").exists, "the tests run")
    process.kill()
    process.wait(30)
    begun = time.monotonic()
    wait_for(lambda: len(checkout.containers) == 1, "the killed run's database is gone", deadline=PROMISED)
    print(f"gone after {time.monotonic() - begun:.2f} s")
    checkout.write("go", "")  # its tests run on, without a database
    process.communicate(timeout=30)
    assert [container.id for container in checkout.containers] == [neighbour.id]
    own = {"database-neighbour.properties", "database-neighbour.sh"}
    wait_for(lambda: {path.name for path in (checkout.root / ".pipeline").glob("database*")} == own, "its address is gone, too")
