"""A database, its container and a clock that follow a script: hours of waiting in a moment, the same each time.

The clock is the event loop's own: it jumps to whatever is due next. So the code that waits runs as it is.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from pipeline.databases.engine import Answer, Phase
from pipeline.databases.readiness import HealthCheck, Waited, until_ready
from pipeline.errors import DatabaseNotReadyError

T = TypeVar("T")

INSTANT = 0.001  # seconds that an answer takes at least
LOGIN = 0.025  # seconds that a login takes; what it takes on the stand-in
LOCKED_AFTER = 10  # refused logins; Oracle's default


class Case(Enum):
    """What the other side does for a while."""

    REFUSED = "connection refused"
    CLOSED = "accepted and closed"
    SILENT = "accepted, and this connection is never answered"
    UNKNOWN_SERVICE = "ORA-12514"
    BLOCKED = "ORA-12528"
    STARTING = "ORA-01033"
    WRONG_PASSWORD = "ORA-01017"
    SLOW = "a login takes seconds, and then the database is not open"
    SLOWLY_REFUSED = "a login is refused after seconds, ORA-01017"
    NO_ANSWER = "logged in, and the query is never answered"
    READY = "a login succeeds"
    SLOWLY_READY = "a login succeeds after seconds"
    DEAD = "the container ended with exit code 3"
    REMOVED = "the container was removed"


GONE = (Case.DEAD, Case.REMOVED)
ON_THE_WAY = (
    Case.REFUSED,
    Case.CLOSED,
    Case.SILENT,
    Case.UNKNOWN_SERVICE,
    Case.BLOCKED,
    Case.STARTING,
    Case.WRONG_PASSWORD,
    Case.SLOW,
    Case.SLOWLY_REFUSED,
)
SLOWLY = (Case.SLOW, Case.SLOWLY_READY, Case.SLOWLY_REFUSED)
REFUSING = (Case.WRONG_PASSWORD, Case.SLOWLY_REFUSED)
ENDINGS = {  # with the phase that a message must name
    Case.READY: None,
    Case.SLOWLY_READY: None,
    Case.DEAD: None,
    Case.REMOVED: None,
    Case.REFUSED: Phase.PORT,
    Case.CLOSED: Phase.LISTENER,
    Case.SILENT: Phase.LISTENER,
    Case.UNKNOWN_SERVICE: Phase.SERVICE,
    Case.STARTING: Phase.SERVICE,
    Case.WRONG_PASSWORD: Phase.LOGIN,
    Case.SLOWLY_REFUSED: Phase.LOGIN,
    Case.NO_ANSWER: Phase.QUERY,
}
_ANSWERS = {
    Case.REFUSED: Answer(False, Case.REFUSED.value, phase=Phase.PORT),
    Case.CLOSED: Answer(False, Case.CLOSED.value, phase=Phase.LISTENER),
    Case.UNKNOWN_SERVICE: Answer(False, Case.UNKNOWN_SERVICE.value, phase=Phase.SERVICE),
    Case.BLOCKED: Answer(False, Case.BLOCKED.value, phase=Phase.SERVICE),
    Case.STARTING: Answer(False, Case.STARTING.value, phase=Phase.SERVICE),
    Case.SLOW: Answer(False, Case.STARTING.value, phase=Phase.SERVICE),
    Case.WRONG_PASSWORD: Answer(False, Case.WRONG_PASSWORD.value, refused=True),
    Case.SLOWLY_REFUSED: Answer(False, Case.WRONG_PASSWORD.value, refused=True),
    Case.READY: Answer(True),
    Case.SLOWLY_READY: Answer(True),
}


@dataclass(frozen=True)
class Script:
    """What happens in turn, each for so many seconds; the last for ever."""

    cases: Sequence[tuple[Case, float]]
    deadline: float
    announced: float = float("inf")  # when the ready line is in the log
    slowness: float = 1.0  # seconds that a slow login takes
    engine: float = 0.002  # seconds that a look at the container takes

    @property
    def ending(self) -> Case:
        return self.cases[-1][0]

    @property
    def ending_begins(self) -> float:
        return sum(seconds for _, seconds in self.cases[:-1])

    def at(self, now: float) -> Case:
        return self._turn(now)[0]

    def left(self, now: float) -> float:
        """For how long it stays as it is."""
        return self._turn(now)[1]

    def _turn(self, now: float) -> tuple[Case, float]:
        for case, seconds in self.cases:
            if now < seconds:
                return case, seconds - now
            now -= seconds
        raise AssertionError("the last case is for ever")


@dataclass
class World:
    """Plays a script from the moment it is first asked, and counts what is done to it."""

    script: Script
    logins: list[float] = field(default_factory=list)  # when each was begun
    knocks: int = 0
    refused: int = 0  # as the database counts it, whether or not anybody still listens
    most_open: int = 0
    patience: list[float] = field(default_factory=list)
    _open: int = 0

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def case(self) -> Case:
        return self.script.at(self.now)

    async def log_in(self, patience: float) -> Answer:
        self.logins.append(self.now)
        self.patience.append(patience)
        self._open += 1
        await asyncio.sleep(INSTANT / 2)  # one that gave way in the same moment is over only now
        self.most_open = max(self.most_open, self._open)
        try:
            async with asyncio.timeout(patience):
                return await self._log_in()
        except TimeoutError:
            phase = Phase.QUERY if self.case is Case.NO_ANSWER else Phase.LOGIN
            return Answer(False, f"{phase} not answered for {patience:.1f} s", phase=phase)
        finally:
            self._open -= 1

    async def _log_in(self) -> Answer:
        case = self.case
        if case in SLOWLY:
            case = await self._be_slow()
        if case in (Case.SILENT, Case.NO_ANSWER):
            await asyncio.Event().wait()
        await asyncio.sleep(LOGIN if case in (Case.READY, *REFUSING) else INSTANT)
        if case in GONE or self.case in GONE:
            return _ANSWERS[Case.REFUSED]
        if case in REFUSING:
            self.refused += 1
        if self.refused >= LOCKED_AFTER:
            return Answer(False, "ORA-28000", final=True)
        return _ANSWERS[case]

    async def _be_slow(self) -> Case:
        """What is under way is as slow as the database is, and no slower: its answer is that of the moment it is made.

        But what refuses has made up its mind, and does so whether or not anybody still listens.
        """
        case = self.case
        if case is not Case.SLOWLY_REFUSED:
            await asyncio.sleep(min(self.script.slowness, self.script.left(self.now) + INSTANT))
            return self.case
        try:
            await asyncio.sleep(self.script.slowness)
        except asyncio.CancelledError:
            self.refused += 1
            raise
        return case

    async def knock(self) -> Answer:
        self.knocks += 1
        case = self.case
        if case is Case.SILENT:
            await asyncio.Event().wait()
        await asyncio.sleep(INSTANT)
        if case in GONE:
            return _ANSWERS[Case.REFUSED]
        return _ANSWERS[case] if case in (Case.REFUSED, Case.CLOSED) else Answer(True)

    async def look(self) -> None:
        await asyncio.sleep(self.script.engine)
        if self.case in GONE:
            raise DatabaseNotReadyError(self.case.value)

    async def announced(self) -> bool:
        await asyncio.sleep(self.script.engine)
        return self.now >= self.script.announced


@dataclass(frozen=True)
class Outcome:
    """How a scripted start went."""

    world: World
    ended: float  # on the world's clock
    waited: Waited | None = None
    error: DatabaseNotReadyError | None = None


def start(script: Script, check: HealthCheck | None = None) -> Outcome:
    """Wait for the scripted database, from the script's beginning on."""
    world = World(script)

    async def wait() -> Outcome:
        try:
            waited = await until_ready(world.log_in, world.look, world.announced, world.knock, check or HealthCheck(script.deadline))
        except DatabaseNotReadyError as error:
            return Outcome(world, world.now, error=error)
        return Outcome(world, world.now, waited=waited)

    return on_scripted_clock(wait)


def draw(seed: int) -> Script:
    """A start as it might happen: some cases in any order, then one that lasts."""
    chance = random.Random(seed)
    ending = chance.choice((*[Case.READY] * 6, *ENDINGS))
    deadline = 60.0 if ending in REFUSING else chance.choice((6.0, 9.0))
    way = tuple(
        (chance.choice(ON_THE_WAY), chance.choice((0.1, 0.4, deadline / 8)) * chance.uniform(0.5, 1.5)) for _ in range(chance.randrange(6))
    )
    begins = sum(seconds for _, seconds in way)
    return Script(
        cases=(*way, (ending, float("inf"))),
        deadline=deadline,
        announced=chance.choice((0.0, begins * chance.random(), begins, float("inf"))),
        slowness=chance.uniform(0.2, deadline / 4),
        engine=chance.choice((0.002, 0.002, 0.02)),
    )


def on_scripted_clock(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What `work` returns, on a loop whose time begins at 0 and never passes while something is being done."""
    loop = _ScriptedLoop()
    try:
        return loop.run_until_complete(work())
    finally:
        loop.close()


class _Jump(selectors.SelectSelector):
    """Waits for nothing: the time it would have waited for has passed at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everything waits for something that no clock brings"
        self.now += max(timeout, 0.0)
        return []


class _ScriptedLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now
