"""When a fresh database is ready: the application's user logged in from here, and a SELECT answered.

The vendor's ready line and the container's health status prove less: the listener may not know the service yet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pipeline.databases.engine import Answer
from pipeline.errors import DatabaseNotReadyError

REFUSED_PAUSES = (1.0, 3.0, 9.0, 20.0)  # seconds after each refused login; one more refusal is the last: accounts get locked


@dataclass(frozen=True)
class HealthCheck:
    """How a database is waited for; all in seconds."""

    deadline: float  # until it must have answered a login
    interval: float = 0.1  # between two attempts, and between two looks at the container
    patience: float = 2.0  # for the first attempt; doubled after each attempt that found only silence
    max_patience: float = 16.0


Attempt = Callable[[float], Awaitable[Answer]]  # logs in within so many seconds


def wait_until_ready(attempt: Attempt, check_alive: Callable[[], None], announced: Callable[[], bool], check: HealthCheck) -> float:
    """Wait until `attempt` succeeds; the seconds that took.

    `check_alive` raises when the container has ended: it is called at every interval, also during an attempt. `announced`
    says whether the database claims to be ready; after a refused login that cuts the pause short. Raises
    DatabaseNotReadyError with the last reason at the deadline, or at once where waiting longer cannot help.
    """
    return asyncio.run(_Wait(attempt, check_alive, announced, check).run())


class _Wait:
    def __init__(self, attempt: Attempt, check_alive: Callable[[], None], announced: Callable[[], bool], check: HealthCheck) -> None:
        self._attempt = attempt
        self._check_alive = check_alive
        self._announced = announced
        self._check = check
        self._begun = time.monotonic()
        self._reason = "no login was tried"
        self._refusals = 0

    async def run(self) -> float:
        patience = self._check.patience
        while True:
            began = time.monotonic()
            answer = await self._guarded(patience)
            if answer.ready:
                return self._elapsed()
            self._reason = answer.reason
            if answer.final:
                raise DatabaseNotReadyError(f"the database refuses the application's user: {answer.reason}", "Waiting longer cannot help.")
            if answer.refused:
                await self._pause_after_refusal()
            elif time.monotonic() - began >= patience:
                patience = min(patience * 2, self._check.max_patience)
            await self._pause(self._check.interval)

    async def _guarded(self, patience: float) -> Answer:
        """One attempt, during which the container is watched."""
        attempt = asyncio.ensure_future(self._attempt(min(patience, max(self._left(), 0.1))))
        try:
            while True:
                done, _ = await asyncio.wait({attempt}, timeout=self._check.interval)
                if done:
                    return attempt.result()
                self._check_alive()
                self._check_deadline()
        finally:
            attempt.cancel()

    async def _pause_after_refusal(self) -> None:
        """Refused logins add up to a locked account, so they are few; early on they only mean that the user is not there yet."""
        if self._refusals == len(REFUSED_PAUSES):
            raise DatabaseNotReadyError(
                f"the database refused the application's login {self._refusals + 1} times: {self._reason}",
                "Does the image create APP_USER with the password of APP_USER_PASSWORD_FILE, in the service of `itest.service`?",
            )
        pause_ends = time.monotonic() + REFUSED_PAUSES[self._refusals]
        self._refusals += 1
        had_announced = self._announced()
        while time.monotonic() < pause_ends and (had_announced or not self._announced()):
            await self._pause(self._check.interval)

    async def _pause(self, seconds: float) -> None:
        self._check_alive()
        self._check_deadline()
        await asyncio.sleep(seconds)

    def _check_deadline(self) -> None:
        if self._left() <= 0:
            raise DatabaseNotReadyError(
                f"the database was not ready after {self._elapsed():.0f} s; the last attempt: {self._reason}",
                "Give it longer with `itest.deadline`, or see .pipeline/itest/database.log.",
            )

    def _elapsed(self) -> float:
        return time.monotonic() - self._begun

    def _left(self) -> float:
        return self._check.deadline - self._elapsed()
