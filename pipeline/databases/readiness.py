"""When a fresh database is ready: the application's user logged in from here, and a SELECT answered.

The vendor's ready line and the container's health status prove less: the listener may not know the service yet.

A login that fails at once costs half a millisecond, so one follows another closely: what could log in does so within some
30 ms. One that is not answered is never waited for alone. The listener is knocked at meanwhile, and when it comes back
another login is begun beside the first, which is left to its own patience: a slow database is not made to begin again.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline.databases.engine import Answer, Phase
from pipeline.errors import DatabaseNotReadyError, PipelineError

T = TypeVar("T")

REFUSED_PAUSES = (1.0, 3.0, 9.0, 20.0)  # seconds after each refused login; one more refusal is the last: accounts get locked
# The same before the database has said to be ready, as parts of the time a login may take: an image that makes its user late, after
# minutes, is not given up after half of one. When it says to be ready, it is asked at once.
EARLY_PAUSES = (0.02, 0.06, 0.2, 0.6)
MOST_REFUSED = len(REFUSED_PAUSES) + 1  # logins of one start, those included that may yet be refused
MOST_OPEN = 3  # logins at a time: each costs the database a process
BESIDE = (1.0, 2.0, 4.0, 8.0)  # seconds until another login is begun beside one that is not answered
UNANSWERED = 0.1  # seconds after which the listener is knocked at beside a login
KNOCKS = 0.05  # seconds between two knocks
KNOCK_PATIENCE = 1.0  # seconds that one knock may take on a busy machine
SILENCE = 0.25  # seconds without any answer to a knock, after which the listener counts as silent
ENGINE_PATIENCE = 5.0  # seconds for a look at the container, after which a message says that the engine is slow
TICK = 0.001  # seconds; the shortest wait, so that no rounding makes it none at all
ENDING = 0.2  # seconds that what is no longer needed gets for closing its connections

# The part of the deadline that a phase may take. An image that creates its database at the first start may spend nearly all of
# it before its listener knows the service; a user who is refused, or a query that hangs, is something else.
SHARES = {Phase.CONTAINER: 0.25, Phase.PORT: 1.0, Phase.LISTENER: 1.0, Phase.SERVICE: 1.0, Phase.LOGIN: 0.5, Phase.QUERY: 0.25}
LEAST_WAIT = 0.5  # seconds, even where creating the container took the whole deadline
LEAST_LIMIT = 40.0  # seconds; the pauses after refused logins fit into it, as do the parts above

_WANTING = {
    Phase.CONTAINER: "its container was not seen running",
    Phase.PORT: "its port does not accept connections",
    Phase.LISTENER: "nothing behind its port speaks the database's protocol",
    Phase.SERVICE: "its listener does not serve the service, or the database behind it is not open",
    Phase.LOGIN: "it does not let the application's user in",
    Phase.QUERY: "it lets the application's user in and does not answer a query",
}
_LONGER = "Give it longer with `itest.deadline`, or see .pipeline/itest/database.log."
_HINTS = {
    Phase.CONTAINER: "See: docker ps --all",
    Phase.PORT: f"An agent in a container of its own does not reach the 127.0.0.1 of the engine's host: set `itest.bind`. {_LONGER}",
    Phase.SERVICE: f"Is `itest.service` a service of this image? {_LONGER}",
    Phase.LOGIN: f"Does the image create the user of `itest.user`, in the service of `itest.service`? {_LONGER}",
}


@dataclass(frozen=True)
class HealthCheck:
    """How a database is waited for; all in seconds."""

    deadline: float  # until it must have answered a login and a query
    spent: float = 0.0  # of it, before the waiting begins: creating and starting the container
    limits: Mapping[Phase, float] = field(default_factory=dict)  # of single phases, where the shares of the deadline are not right
    interval: float = 0.03  # between the end of one attempt and the next
    look: float = 0.1  # between two looks at the container
    patience: float = 20.0  # of one login; what hangs for longer has lost its connection

    def limit(self, phase: Phase) -> float:
        """How long the wait for this phase may take, all its parts together."""
        return min(self.deadline, self.limits.get(phase, max(SHARES[phase] * self.deadline, LEAST_LIMIT)))


@dataclass(frozen=True)
class Waited:
    """How the waiting went: the seconds each phase was waited for, in the order of the phases."""

    seconds: float
    phases: Mapping[Phase, float]
    logins: int  # tried
    refused: int

    def __str__(self) -> str:
        return ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in self.phases.items())


class NotReadyError(DatabaseNotReadyError):
    """The database did not get through `phase`."""

    def __init__(self, message: str, hint: str, phase: Phase, waited: Waited) -> None:
        super().__init__(message, hint)
        self.phase = phase
        self.waited = waited


Attempt = Callable[[float], Coroutine[Any, Any, Answer]]  # logs in within so many seconds
Knock = Callable[[], Coroutine[Any, Any, Answer]]  # asks the listener for any answer at all; waits for it without end


def wait_until_ready(
    attempt: Attempt, check_alive: Callable[[], None], announced: Callable[[], bool], knock: Knock, check: HealthCheck
) -> Waited:
    """Wait until `attempt` succeeds.

    `check_alive` raises when the container has ended; `announced` says whether the database claims to be ready, which after
    a refused login cuts the pause short. Both are called from other threads, so that an engine that is slow to answer delays
    neither a login nor the deadline. Raises NotReadyError at the deadline, at the limit of a phase, or at once where
    waiting longer cannot help; and whatever `check_alive` raises.
    """
    return _run(until_ready(attempt, lambda: _in_thread(check_alive), lambda: _in_thread(announced), knock, check))


async def until_ready(
    attempt: Attempt, look: Callable[[], Awaitable[None]], announced: Callable[[], Awaitable[bool]], knock: Knock, check: HealthCheck
) -> Waited:
    """The same, on the clock of the running event loop."""
    wait = _Wait(attempt, look, announced, knock, check)
    try:
        return await wait.run()
    finally:
        await wait.end()


class _Phases:
    """For which phase how long was waited."""

    def __init__(self, begun: float, spent: float) -> None:
        self.waiting_for = Phase.CONTAINER
        self._seconds = {Phase.CONTAINER: spent}
        self._since = begun

    def see(self, phase: Phase, now: float, since: float = float("inf")) -> None:
        """What is waited for is `phase`, now known to have been so since `since` (at the latest since now)."""
        if phase is not self.waiting_for:
            self._book(max(self._since, min(since, now)))
            self.waiting_for = phase

    def seconds(self, now: float) -> float:
        """How long the present phase was waited for, all its parts together."""
        return self._seconds.get(self.waiting_for, 0.0) + now - self._since

    def table(self, now: float) -> dict[Phase, float]:
        self._book(now)
        return {phase: self._seconds[phase] for phase in Phase if phase in self._seconds}

    def _book(self, until: float) -> None:
        self._seconds[self.waiting_for] = self._seconds.get(self.waiting_for, 0.0) + until - self._since
        self._since = until


@dataclass
class _Login:
    """One that is not answered yet."""

    begun: float
    lost: bool = False  # the listener was silent or away since it was begun, or it was overtaken
    overtaken: bool = False  # one that was begun later is answered
    heard: bool = False  # the listener answered others meanwhile: the database may have got the password, and may yet refuse it


class _Wait:
    """One wait: what is under way, and what is due when."""

    def __init__(
        self,
        attempt: Attempt,
        look: Callable[[], Awaitable[None]],
        announced: Callable[[], Awaitable[bool]],
        knock: Knock,
        check: HealthCheck,
    ) -> None:
        self._attempt, self._look, self._announced, self._knock, self._check = attempt, look, announced, knock, check
        self._now = asyncio.get_running_loop().time
        self._begun = self._now()
        self._phases = _Phases(self._begun, check.spent)
        self._reason = "no login was tried"
        self._logins: dict[asyncio.Task[Answer], _Login] = {}
        self._knocks: dict[asyncio.Task[Answer], float] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._ended: deque[asyncio.Task[Any]] = deque()
        self._woken = asyncio.Event()
        self._tried = self._refused = self._doubtful = self._unanswered = self._given_up = 0
        self._login_due = self._rested = self._begun
        self._knock_due = self._heard = self._begun
        self._away = False  # the listener was silent, or closed the connection, when it was last knocked at
        self._looked: float | None = self._begun  # since when an answer of the engine is awaited

    async def run(self) -> Waited:
        self._others = {self._task(self._watch())}
        while True:
            now = self._now()
            self._check_limits(now)
            self._begin_what_is_due(now)
            await self._something(max(self._next_due(now), now + TICK))
            if self._take_in():
                return self._waited()

    async def end(self) -> None:
        """Close what is open, for as long as that takes on a working machine: nobody waits for the other side."""
        tasks = {*self._others, *self._logins, *self._knocks}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=ENDING)

    async def _something(self, due: float) -> None:
        """Until a task has ended, or something is due."""
        alarm = asyncio.get_running_loop().call_at(due, self._woken.set)
        await self._woken.wait()
        self._woken.clear()
        alarm.cancel()

    # What is begun

    def _begin_what_is_due(self, now: float) -> None:
        if max(self._login_due, self._rested) <= now < self._ends() - 2 * UNANSWERED:  # a later one could only be broken off
            if self._room_for_a_login():
                self._begin_login(now)
            else:
                self._login_due = now + UNANSWERED
        if not self._awaited():
            self._forget_knocks()
        elif now >= self._next_knock():
            self._begin_knock(now)

    def _begin_login(self, now: float) -> None:
        longer = 3 ** (self._given_up // MOST_OPEN)  # so that there are few of which nobody knows whether they were refused
        patience = min(self._check.patience * longer, self._ends() - now - UNANSWERED)
        task = self._task(self._attempt(max(patience, UNANSWERED)))
        self._logins[task] = _Login(now)
        self._tried += 1
        self._login_due = now + BESIDE[min(self._unanswered, len(BESIDE) - 1)]
        self._unanswered += 1

    def _room_for_a_login(self) -> bool:
        """Of the logins that were lost in a silent listener, the youngest gives way.

        Not the oldest, which may only be slow, and is not to begin for ever. One that the database may have got is the last to
        give way, and counts as refused from then on.
        """

        def is_room() -> bool:
            return len(self._logins) < MOST_OPEN and len(self._logins) + self._refused + self._doubtful < MOST_REFUSED

        lost = [task for task, login in self._logins.items() if login.lost][:0:-1]
        for task in sorted(lost, key=lambda task: self._logins[task].heard):
            heard = self._logins[task].heard
            if is_room() or (heard and len(self._logins) + self._refused + self._doubtful >= MOST_REFUSED):
                break
            task.cancel()
            del self._logins[task]
            self._doubtful += heard
        return is_room()

    def _begin_knock(self, now: float) -> None:
        if not self._knocks:
            self._heard = now
        for task, begun in list(self._knocks.items()):
            if now - begun > KNOCK_PATIENCE:
                task.cancel()
                del self._knocks[task]
        self._knocks[self._task(self._knock())] = now
        self._knock_due = now + KNOCKS
        if now - self._heard > SILENCE:
            self._lose_the_listener(Answer(False, self._silence(now), phase=Phase.LISTENER), now)

    def _forget_knocks(self) -> None:
        for task in self._knocks:
            task.cancel()
        self._knocks.clear()
        self._away = False

    def _awaited(self) -> list[float]:
        """When the logins were begun whose answers would say something new, the oldest first."""
        return [login.begun for login in self._logins.values() if not login.overtaken]

    def _next_knock(self) -> float:
        awaited = self._awaited()
        return max(awaited[0] + UNANSWERED, self._knock_due) if awaited else float("inf")

    def _next_due(self, now: float) -> float:
        """When there is something to do even if nothing happens."""
        limit = self._check.limit(self._phases.waiting_for) - self._waiting(0.0)
        login = max(self._login_due, self._rested)
        return min(login if login > now else float("inf"), self._next_knock(), self._ends(), limit)

    # What comes of it

    def _take_in(self) -> bool:
        """Whether the database is ready."""
        while self._ended:
            task = self._ended.popleft()
            if task in self._logins:
                if self._take_login(task.result(), self._logins.pop(task)):
                    return True
            elif task in self._knocks:
                del self._knocks[task]
                self._take_knock(task.result())
            elif task in self._others:
                self._others.remove(task)
                task.result()  # raises what the engine said
        return False

    def _take_login(self, answer: Answer, login: _Login) -> bool:
        now = self._now()
        if answer.ready:
            self._phases.see(Phase.LOGIN, now, login.begun)
            return True
        if not login.lost or answer.refused or answer.final:  # of one that was lost, the rest is known
            self._reason = answer.reason
            self._see(answer.phase, now, login.begun)
        for other in self._logins.values():
            if other.begun < login.begun:
                other.lost = other.overtaken = True
        self._given_up += now - login.begun >= self._check.patience
        self._unanswered = 0
        self._login_due = now + self._check.interval
        if answer.final:
            raise self._error(f"the database refuses the application's user: {answer.reason}", "Waiting longer cannot help.")
        if answer.refused:
            self._rest(now)
        return False

    def _rest(self, now: float) -> None:
        """Refused logins add up to a locked account, so they are few; early on they only mean that the user is not there yet."""
        self._refused += 1
        if self._refused >= MOST_REFUSED:
            raise self._error(f"the database refused the application's login {self._refused} times: {self._reason}", _HINTS[Phase.LOGIN])
        self._rested = now + REFUSED_PAUSES[self._refused - 1]
        self._others.add(self._task(self._cut_rest_short(self._refused)))

    async def _cut_rest_short(self, refused: int) -> None:
        """One that has not said to be ready may rest for longer, and is asked at once when it says so."""
        begun = self._now()
        with contextlib.suppress(PipelineError):  # of a container that ended; the next look says it better
            had_announced = await self._announced()
            if not had_announced and refused == self._refused:
                self._rested = max(self._rested, begun + EARLY_PAUSES[refused - 1] * self._check.limit(Phase.LOGIN))
            while not had_announced and refused == self._refused and self._now() < self._rested:
                await asyncio.sleep(self._check.look)
                if await self._announced():
                    self._rested = min(self._rested, self._now())

    def _take_knock(self, answer: Answer) -> None:
        now = self._now()
        if not answer.ready:
            self._lose_the_listener(answer, now)
            return
        self._heard = now
        for login in self._logins.values():
            login.heard = login.heard or not login.lost
        awaited = self._awaited() or [now]
        if now - awaited[0] > UNANSWERED and self._phases.waiting_for is not Phase.QUERY:
            self._reason = f"the listener answers, but the login was not answered for {now - awaited[0]:.1f} s"
            self._see(Phase.LOGIN, now, now if self._away else awaited[-1])
        if self._away or (self._unanswered == 1 and not self._refused):  # it may be that only this one connection was lost
            self._away = False
            self._login_due = now

    def _lose_the_listener(self, answer: Answer, now: float) -> None:
        self._away = True
        self._reason = answer.reason
        self._see(answer.phase, now, (self._awaited() or [now])[-1])
        for login in self._logins.values():
            login.lost = True

    def _silence(self, now: float) -> str:
        return f"the listener accepted the connection and stayed silent for {now - self._heard:.1f} s"

    async def _watch(self) -> None:
        """Look at the container for as long as the wait takes."""
        while True:
            self._looked = self._now()
            await self._look()
            self._looked = None
            if self._phases.waiting_for is Phase.CONTAINER:
                self._phases.see(Phase.PORT, self._now())
            await asyncio.sleep(self._check.look)

    def _see(self, phase: Phase, now: float, since: float = float("inf")) -> None:
        if self._phases.waiting_for is not Phase.CONTAINER:
            self._phases.see(phase, now, since)

    # The end

    def _check_limits(self, now: float) -> None:
        phase = self._phases.waiting_for
        if now >= self._ends():
            at_most = ""
        elif self._waiting(now) >= self._check.limit(phase):
            at_most = f" within the {self._check.limit(phase):.0f} s for that"
        else:
            return
        raise self._error(
            f"the database was not ready after {self._elapsed():.0f} s: {_WANTING[phase]}{at_most}; the last attempt: {self._reason}",
            _HINTS.get(phase, _LONGER),
        )

    def _waiting(self, now: float) -> float:
        """How long this wait has waited for the present phase. What was spent on creating the container is not held against it."""
        return self._phases.seconds(now) - (self._check.spent if self._phases.waiting_for is Phase.CONTAINER else 0.0)

    def _error(self, message: str, hint: str) -> NotReadyError:
        waited = self._waited()
        waiting = 0.0 if self._looked is None else self._now() - self._looked
        slow = f"; the container engine has not answered for {waiting:.0f} s" if waiting > ENGINE_PATIENCE else ""
        return NotReadyError(f"{message}{slow} (waited for: {waited})", hint, self._phases.waiting_for, waited)

    def _waited(self) -> Waited:
        return Waited(self._elapsed(), self._phases.table(self._now()), self._tried, self._refused)

    def _ends(self) -> float:
        return self._begun + max(self._check.deadline - self._check.spent, LEAST_WAIT)

    def _elapsed(self) -> float:
        return self._check.spent + self._now() - self._begun

    def _task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            task.exception()  # one that is no longer waited for may fail unheard
            self._ended.append(task)
            self._woken.set()


async def _in_thread(ask: Callable[[], T]) -> T:
    """What `ask` returns or raises; its thread holds up neither the end of the wait nor that of the program."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type] # None only where T is

    def run() -> None:
        try:
            outcome: tuple[T | None, BaseException | None] = (ask(), None)
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is awaited
            outcome = (None, error)
        with contextlib.suppress(RuntimeError):  # the wait is over, its loop closed
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, daemon=True, name="look").start()
    return await answer


def _run(work: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, which would wait without end for what does not let itself be cancelled."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=ENDING))
        loop.close()
