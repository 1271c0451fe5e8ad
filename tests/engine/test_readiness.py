"""Readiness against the real driver: a listener that plays each way to be not ready, in front of a real database."""

from __future__ import annotations

import asyncio
import random
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import docker
import pytest

from pipeline.databases.engine import Account, Address, Answer, Password, Phase
from pipeline.databases.knock import knock
from pipeline.databases.readiness import HealthCheck, NotReadyError, Waited, wait_until_ready
from pipeline.errors import DatabaseNotReadyError
from pipeline.plugins import ORACLE
from tests.engine.conftest import RUN, TEST_LABEL, wait_for
from tests.engine.scripted_listener import (
    CLOSED,
    NO_ANSWER,
    READY,
    REFUSED,
    SILENT,
    Case,
    Recording,
    ScriptedListener,
    failing_login,
    record_login,
    refusal,
    scripted_listener,
    slow,
)

BY_LISTENER = (12514, 12505, 12528, 12526, 12518, 12541)
NOT_OPEN = (1033, 1034, 1089, 1109)
BUSY = 1.0  # seconds that a busy machine may add to what is promised
SHORT, LONG = 10, 300  # starts in any order


@dataclass(frozen=True)
class Database:
    """A database in a container, ready, with what it says when it refuses a login."""

    address: Address
    user: Account
    refused: Recording


@pytest.fixture(scope="module")
def database(engine: docker.DockerClient, standin_image: str) -> Iterator[Database]:
    user = Account("app", Password("Pw" + secrets.token_hex(8)))
    containers: Any = engine.containers  # its types know no free port on one address
    container = containers.run(
        standin_image,
        detach=True,
        labels={TEST_LABEL: RUN},
        ports={"1521/tcp": ("127.0.0.1", None)},
        environment={"ORACLE_PASSWORD": secrets.token_hex(8), "APP_USER": user.name, "APP_USER_PASSWORD": user.password.value},
    )

    def port() -> int:
        container.reload()
        return int((container.ports.get("1521/tcp") or [{}])[0].get("HostPort", 0))

    address = Address("127.0.0.1", wait_for(port, "the port is published"), "FREEPDB1")
    wait(address, user, HealthCheck(60.0))
    stranger = Account("nobody", Password("no"))
    yield Database(address, user, record_login(address, lambda listened: log_in(listened, stranger)))
    container.remove(force=True, v=True)


@pytest.fixture
def listener(database: Database) -> Iterator[ScriptedListener]:
    with scripted_listener(database.address, database.refused) as found:
        yield found


def log_in(address: Address, user: Account, patience: float = 10.0) -> Answer:
    return asyncio.run(ORACLE.log_in(address, user, patience))


def wait(address: Address, user: Account, check: HealthCheck, look: Look | None = None) -> Waited:
    return wait_until_ready(
        lambda patience: ORACLE.log_in(address, user, patience),
        look or Look(),
        lambda: False,
        lambda: knock(address, ORACLE.knock),
        check,
    )


class Look:
    """A container that lives until it is told to be dead."""

    def __init__(self) -> None:
        self.dead_since = float("inf")

    def __call__(self) -> None:
        if self.dead_since <= time.monotonic():
            raise DatabaseNotReadyError("the container ended")


class Script(threading.Thread):
    """Plays cases, each for so many seconds, then the last."""

    def __init__(self, listener: ScriptedListener, cases: Sequence[tuple[Case, float]], last: Case) -> None:
        super().__init__(daemon=True)
        self._listener, self._cases, self._last = listener, cases, last
        self.last_since = float("inf")

    def run(self) -> None:
        for case, seconds in self._cases:
            self._listener.play(case)
            if self._listener.over.wait(seconds):
                return
        self._listener.play(self._last)
        self.last_since = time.monotonic()


# One attempt: what the driver says, and which phase that is


@pytest.mark.parametrize("code", BY_LISTENER)
def test_what_a_listener_refuses_is_about_the_service(listener: ScriptedListener, database: Database, code: int) -> None:
    listener.play(refusal(code))
    answer = log_in(listener.address, database.user)
    assert (answer.phase, answer.refused, answer.final) == (Phase.SERVICE, False, False), answer
    assert str(code) in answer.reason


@pytest.mark.parametrize("code", NOT_OPEN)
def test_a_database_that_is_not_open_is_about_the_service(listener: ScriptedListener, database: Database, code: int) -> None:
    listener.play(failing_login(code))
    answer = log_in(listener.address, database.user)
    assert (answer.phase, answer.refused, answer.final) == (Phase.SERVICE, False, False), answer


@pytest.mark.parametrize(("code", "refused", "final"), [(1017, True, False), (28000, False, True), (1045, False, False)])
def test_a_login_that_fails_is_about_the_login(
    listener: ScriptedListener, database: Database, code: int, refused: bool, final: bool
) -> None:
    listener.play(failing_login(code))
    answer = log_in(listener.address, database.user)
    assert (answer.phase, answer.refused, answer.final) == (Phase.LOGIN, refused, final), answer
    assert f"ORA-{code:05}" in answer.reason


@pytest.mark.parametrize(
    ("case", "phase"), [(REFUSED, Phase.PORT), (CLOSED, Phase.LISTENER), (SILENT, Phase.LOGIN), (NO_ANSWER, Phase.QUERY)]
)
def test_how_far_an_attempt_got(listener: ScriptedListener, database: Database, case: Case, phase: Phase) -> None:
    listener.play(case)
    answer = log_in(listener.address, database.user, patience=1.0)
    assert (answer.phase, answer.refused, answer.final) == (phase, False, False), answer


def test_a_login_with_the_right_password_is_an_answer(listener: ScriptedListener, database: Database) -> None:
    listener.play(READY)
    assert log_in(listener.address, database.user) == Answer(True)


def test_a_listener_is_heard_and_a_closed_port_is_not(listener: ScriptedListener, database: Database) -> None:
    def ask() -> Answer:
        return asyncio.run(asyncio.wait_for(knock(listener.address, ORACLE.knock), 10.0))

    listener.play(READY)
    assert ask() == Answer(True)
    listener.play(refusal(12514))
    assert ask() == Answer(True)
    listener.play(CLOSED)
    assert ask().phase is Phase.LISTENER
    listener.play(REFUSED)
    assert ask().phase is Phase.PORT
    listener.play(SILENT)
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(knock(listener.address, ORACLE.knock), 0.5))


# A whole wait


@pytest.mark.parametrize(
    ("case", "phase"),
    [
        (REFUSED, Phase.PORT),
        (CLOSED, Phase.LISTENER),
        (SILENT, Phase.LISTENER),
        (refusal(12514), Phase.SERVICE),
        (failing_login(1033), Phase.SERVICE),
        (slow(60.0), Phase.LISTENER),
        (NO_ANSWER, Phase.QUERY),
    ],
    ids=str,
)
def test_a_wait_ends_with_its_deadline_and_names_the_phase(
    listener: ScriptedListener, database: Database, case: Case, phase: Phase
) -> None:
    listener.play(case)
    began = time.monotonic()
    with pytest.raises(NotReadyError) as raised:
        wait(listener.address, database.user, HealthCheck(1.5))
    assert 1.4 < time.monotonic() - began < 1.5 + BUSY
    assert raised.value.phase is phase, raised.value


@pytest.mark.parametrize(
    "case", [REFUSED, CLOSED, SILENT, refusal(12514), refusal(12528), failing_login(1033), failing_login(1017), slow(0.3)], ids=str
)
def test_whatever_came_before_a_login_that_succeeds_is_found(listener: ScriptedListener, database: Database, case: Case) -> None:
    listener.play(case)
    script = Script(listener, [(case, 0.6)], READY)
    script.start()
    waited = wait(listener.address, database.user, HealthCheck(30.0))
    pause = 1.0 if "01017" in str(case) else 0.0
    assert time.monotonic() - script.last_since < pause + BUSY or case.name.startswith("answers after")
    assert waited.refused == (1 if pause else 0)


@pytest.mark.parametrize("case", [REFUSED, SILENT, NO_ANSWER, failing_login(1017)], ids=str)
def test_a_container_that_dies_is_reported_whatever_is_under_way(listener: ScriptedListener, database: Database, case: Case) -> None:
    listener.play(case)
    look = Look()
    look.dead_since = time.monotonic() + 0.7
    with pytest.raises(DatabaseNotReadyError, match="the container ended"):
        wait(listener.address, database.user, HealthCheck(30.0), look)
    assert 0 <= time.monotonic() - look.dead_since < 0.3 + BUSY


def test_starts_in_any_order(database: Database, long_run: bool) -> None:
    with ThreadPoolExecutor(5) as pool:
        for outcome in pool.map(lambda seed: _start(seed, database), range(LONG if long_run else SHORT)):
            assert not outcome


def _start(seed: int, database: Database) -> str:
    """What was wrong with one start; nothing, if all is well."""
    chance = random.Random(seed)
    on_the_way = [REFUSED, CLOSED, SILENT, *map(refusal, BY_LISTENER), *map(failing_login, (1033, 1034)), slow(0.2), failing_login(1017)]
    cases = [(chance.choice(on_the_way), chance.uniform(0.05, 0.7)) for _ in range(chance.randrange(1, 5))]
    endings = {CLOSED: Phase.LISTENER, SILENT: Phase.LISTENER, refusal(12514): Phase.SERVICE, NO_ANSWER: Phase.QUERY}
    last = chance.choice([READY] * 6 + list(endings))
    deadline = sum(seconds for _, seconds in cases) + (20.0 if last is READY else 2.0)
    shown = f"seed {seed}: {', '.join(f'{case} {seconds:.2f} s' for case, seconds in cases)}, then {last}: "
    with scripted_listener(database.address, database.refused) as listener:
        listener.play(cases[0][0])
        script = Script(listener, cases, last)
        script.start()
        began = time.monotonic()
        try:
            waited = wait(listener.address, database.user, HealthCheck(deadline))
        except NotReadyError as error:
            if time.monotonic() - began > deadline + BUSY:
                return f"{shown}ended {time.monotonic() - began - deadline:.1f} s after its deadline"
            expected = last is not READY and (error.phase is endings[last] or error.waited.refused > 0)
            return "" if expected and error.waited.refused <= 5 else f"{shown}{error}"
        could = last is READY or slow(0.2).name in shown  # what is slow lets in whom it has accepted
        if not could:
            return f"{shown}false ready"
        if not waited.refused and time.monotonic() - script.last_since > BUSY and script.last_since < float("inf"):
            return f"{shown}found only {time.monotonic() - script.last_since:.1f} s later: {waited}"
    return ""
