"""Waiting for a database: what counts as ready, how long, and what is said when it does not come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from pipeline.databases import readiness
from pipeline.databases.engine import Answer
from pipeline.databases.readiness import HealthCheck, wait_until_ready
from pipeline.errors import DatabaseNotReadyError

READY = Answer(True)
REFUSED = Answer(False, "ORA-01017: invalid credential", refused=True)
CLOSED = Answer(False, "connection refused")


class Database:
    """Gives the answers in turn, the last one again and again."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.attempts: list[float] = []

    async def log_in(self, patience: float) -> Answer:
        self.attempts.append(time.monotonic())
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def wait(
    database: Database, deadline: float = 5.0, alive: Callable[[], None] = lambda: None, announced: Callable[[], bool] = lambda: False
) -> float:
    return wait_until_ready(database.log_in, alive, announced, HealthCheck(deadline=deadline, interval=0.01))


def test_ready_is_a_login_and_nothing_else() -> None:
    database = Database(CLOSED, CLOSED, READY)
    wait(database, announced=lambda: True)
    assert len(database.attempts) == 3


def test_the_time_out_says_how_long_and_the_last_reason() -> None:
    with pytest.raises(DatabaseNotReadyError, match=r"not ready after 0 s; the last attempt: connection refused"):
        wait(Database(CLOSED), deadline=0.1)


def test_an_attempt_that_hangs_hides_neither_deadline_nor_death() -> None:
    async def hang(_patience: float) -> Answer:
        await asyncio.sleep(60)
        return READY

    began = time.monotonic()
    with pytest.raises(DatabaseNotReadyError, match="not ready"):
        wait_until_ready(hang, lambda: None, lambda: False, HealthCheck(deadline=0.2, interval=0.01))

    def dead() -> None:
        raise DatabaseNotReadyError("ended with exit code 3")

    with pytest.raises(DatabaseNotReadyError, match="exit code 3"):
        wait_until_ready(hang, dead, lambda: False, HealthCheck(deadline=60, interval=0.05))
    assert time.monotonic() - began < 1


def test_refused_logins_are_few_because_accounts_get_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "REFUSED_PAUSES", (0.02, 0.04, 0.08, 0.16))
    database = Database(REFUSED)
    with pytest.raises(DatabaseNotReadyError, match="refused the application's login 5 times: ORA-01017"):
        wait(database)
    assert len(database.attempts) == 5
    pauses = [later - earlier for earlier, later in zip(database.attempts, database.attempts[1:], strict=False)]
    assert pauses == sorted(pauses)


def test_the_real_limit_is_five_with_growing_pauses() -> None:
    assert len(readiness.REFUSED_PAUSES) + 1 <= 5
    assert list(readiness.REFUSED_PAUSES) == sorted(readiness.REFUSED_PAUSES)


def test_the_ready_line_cuts_the_pause_after_a_refusal_short() -> None:
    began = time.monotonic()
    wait(Database(REFUSED, READY), announced=lambda: time.monotonic() - began > 0.1)
    assert 0.1 < time.monotonic() - began < 0.5  # the whole pause is 1 s


def test_a_locked_account_ends_the_waiting_at_once() -> None:
    database = Database(Answer(False, "ORA-28000: the account is locked", final=True))
    with pytest.raises(DatabaseNotReadyError, match="ORA-28000"):
        wait(database)
    assert len(database.attempts) == 1


def test_silence_is_given_more_time_with_every_attempt() -> None:
    given: list[float] = []

    async def silent(patience: float) -> Answer:
        given.append(patience)
        if len(given) == 4:
            return READY
        await asyncio.sleep(patience)
        return Answer(False, "silent")

    wait_until_ready(silent, lambda: None, lambda: False, HealthCheck(deadline=10, interval=0.001, patience=0.01, max_patience=0.03))
    assert given == [0.01, 0.02, 0.03, 0.03]
