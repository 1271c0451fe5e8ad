"""Waiting for a database: what counts as ready, how long, how often it is asked, and what is said when it does not come."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time

import pytest

from pipeline.databases import readiness
from pipeline.databases.engine import Address, Answer, Phase
from pipeline.databases.knock import knock
from pipeline.databases.readiness import HealthCheck, NotReadyError, wait_until_ready
from pipeline.errors import DatabaseNotReadyError
from tests.unit.databases.scripted_world import ENDINGS, GONE, ON_THE_WAY, Case, Outcome, Script, draw, start

FOR_EVER = float("inf")
QUICK = 0.1  # seconds from "a login would succeed" to "the wait returns"
STARTS, PARTS = 1000, 20


def play(*cases: tuple[Case, float], last: Case = Case.READY, deadline: float = 60.0, **options: float) -> Outcome:
    return start(Script(cases=(*cases, (last, FOR_EVER)), deadline=deadline, **options))


def refusal(outcome: Outcome) -> NotReadyError:
    assert isinstance(outcome.error, NotReadyError), outcome
    return outcome.error


# One case alone


@pytest.mark.parametrize("case", ON_THE_WAY)
@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.7, 3.0])
def test_whatever_came_before_a_database_that_is_ready_is_found_so(case: Case, seconds: float) -> None:
    outcome = play((case, seconds), slowness=1.0)
    assert outcome.waited is not None, outcome.error
    assert outcome.ended > seconds
    if outcome.world.refused:
        assert outcome.ended <= seconds + readiness.REFUSED_PAUSES[1] + QUICK + (1.0 if case is Case.SLOWLY_REFUSED else 0.0)
    elif case is not Case.SLOW:
        assert outcome.ended <= seconds + QUICK


@pytest.mark.parametrize(("case", "phase"), [(case, phase) for case, phase in ENDINGS.items() if phase and case is not Case.SLOWLY_REFUSED])
def test_each_phase_that_is_never_got_through_has_a_message_of_its_own(case: Case, phase: Phase) -> None:
    outcome = play(last=case, deadline=30.0)
    error = refusal(outcome)
    assert outcome.ended <= 31.0
    assert error.phase is phase
    assert readiness._WANTING[phase] in error.message
    assert f"not ready after {outcome.ended:.0f} s" in error.message
    assert f"{phase} {error.waited.phases[phase]:.1f} s" in error.message
    assert error.waited.phases[phase] > 0.9 * outcome.ended


@pytest.mark.parametrize("case", GONE)
@pytest.mark.parametrize("before", [Case.REFUSED, Case.SILENT, Case.NO_ANSWER, Case.WRONG_PASSWORD])
def test_a_container_that_ends_is_reported_at_once_whatever_is_under_way(case: Case, before: Case) -> None:
    outcome = play((before, 4.02), last=case)
    assert str(outcome.error) == case.value
    assert 4.02 <= outcome.ended <= 4.32


def test_the_seconds_of_each_phase_are_kept_for_the_results() -> None:
    waited = play((Case.REFUSED, 1.0), (Case.CLOSED, 2.0), (Case.SILENT, 3.0), (Case.UNKNOWN_SERVICE, 4.0)).waited
    assert waited is not None
    assert list(waited.phases) == [Phase.CONTAINER, Phase.PORT, Phase.LISTENER, Phase.SERVICE, Phase.LOGIN]
    expected = {Phase.PORT: 1.0, Phase.LISTENER: 5.0, Phase.SERVICE: 4.0, Phase.LOGIN: 0.0}
    for phase, seconds in expected.items():
        assert waited.phases[phase] == pytest.approx(seconds, abs=0.15)
    assert sum(waited.phases.values()) == pytest.approx(waited.seconds)


def test_a_phase_may_have_a_limit_of_its_own() -> None:
    script = Script(cases=((Case.UNKNOWN_SERVICE, FOR_EVER),), deadline=60.0)
    error = refusal(start(script, HealthCheck(60.0, limits={Phase.SERVICE: 5.0})))
    assert "its listener does not serve the service, or the database behind it is not open within the 5 s for that" in error.message
    assert error.waited.seconds == pytest.approx(5.0, abs=0.1)


def test_what_creating_the_container_took_counts() -> None:
    script = Script(cases=((Case.REFUSED, FOR_EVER),), deadline=10.0)
    error = refusal(start(script, HealthCheck(10.0, spent=4.0)))
    assert error.waited.phases[Phase.CONTAINER] == pytest.approx(4.0, abs=0.1)
    assert error.waited.seconds == pytest.approx(10.0, abs=0.1)


def test_an_engine_that_does_not_answer_delays_neither_a_login_nor_the_deadline() -> None:
    assert play((Case.REFUSED, 1.0), engine=1e6).ended <= 1.0 + QUICK
    outcome = play(last=Case.REFUSED, deadline=30.0, engine=1e6)
    assert outcome.ended <= 31.0
    assert "its container was not seen running" in refusal(outcome).message
    assert "the container engine has not answered for 30 s" in refusal(outcome).message


# Refused logins


def test_refused_logins_are_few_because_accounts_get_locked() -> None:
    outcome = play(last=Case.WRONG_PASSWORD)
    assert "refused the application's login 5 times: ORA-01017" in refusal(outcome).message
    assert outcome.world.refused == 5
    pauses = [later - earlier for earlier, later in zip(outcome.world.logins, outcome.world.logins[1:], strict=False)]
    assert all(pause >= least for pause, least in zip(pauses, (1, 3, 9, 20), strict=True))


def test_the_ready_line_cuts_the_pause_after_a_refusal_short() -> None:
    outcome = play((Case.WRONG_PASSWORD, 0.5), announced=0.5)
    assert outcome.world.refused == 1
    assert outcome.ended <= 0.5 + 2 * QUICK
    assert play((Case.WRONG_PASSWORD, 0.5), announced=0.0).ended > 1.0  # it said so before it refused: no news


@pytest.mark.parametrize("minutes", [1, 5, 9])
def test_an_image_that_makes_its_user_late_is_not_given_up(minutes: int) -> None:
    late = play((Case.WRONG_PASSWORD, 60.0 * minutes), deadline=1800.0)
    assert late.waited is not None, late.error
    told = play((Case.WRONG_PASSWORD, 60.0 * minutes), deadline=1800.0, announced=60.0 * minutes)
    assert told.ended <= 60.0 * minutes + 2 * QUICK


def test_one_that_says_to_be_ready_and_refuses_is_given_up_soon() -> None:
    outcome = play((Case.WRONG_PASSWORD, FOR_EVER), deadline=1800.0, announced=0.0)
    assert outcome.ended < 35
    assert outcome.world.refused == 5


def test_a_locked_account_ends_the_waiting_at_once() -> None:
    async def log_in(_patience: float) -> Answer:
        return Answer(False, "ORA-28000: the account is locked", final=True)

    with pytest.raises(NotReadyError, match="ORA-28000"):
        wait_until_ready(log_in, lambda: None, lambda: False, never_heard, HealthCheck(60.0))


# Logins that are not answered


def test_a_slow_login_is_not_made_to_begin_again() -> None:
    outcome = play(last=Case.SLOWLY_READY, slowness=15.0)
    assert outcome.ended <= 15.0 + QUICK
    assert outcome.world.most_open <= 3


def test_a_database_that_is_only_slow_gets_few_logins() -> None:
    assert len(play(last=Case.NO_ANSWER, deadline=60.0).world.logins) <= 10


def test_a_listener_that_comes_back_for_a_moment_between_silences_is_not_missed() -> None:
    flaps = [(case, seconds) for _ in range(12) for case, seconds in ((Case.SILENT, 0.6), (Case.UNKNOWN_SERVICE, 0.2))]
    outcome = play(*flaps, (Case.SILENT, 0.6))
    assert outcome.ended <= 12 * 0.8 + 0.6 + QUICK


def test_logins_that_are_given_up_count_as_refused_where_the_database_may_have_got_them() -> None:
    flaps = [(case, seconds) for _ in range(10) for case, seconds in ((Case.SLOWLY_REFUSED, 0.6), (Case.SILENT, 0.6))]
    outcome = play(*flaps, last=Case.SLOWLY_REFUSED, slowness=15.0)
    assert outcome.world.refused == 5


# Any order


@pytest.mark.parametrize("part", range(PARTS))
def test_any_order_of_what_may_happen(part: int) -> None:
    for seed in range(part * STARTS // PARTS, (part + 1) * STARTS // PARTS):
        outcome = start(draw(seed))
        try:
            check(outcome)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {outcome.world.script}: {outcome.error or outcome.waited}") from error


def check(outcome: Outcome) -> None:
    """What holds for every start."""
    world, script = outcome.world, outcome.world.script
    ending, since = script.ending, outcome.ended - script.ending_begins
    assert outcome.ended <= script.deadline + 1.0
    assert world.refused <= 5
    assert world.most_open <= 3
    if outcome.waited:
        assert ending in (Case.READY, Case.SLOWLY_READY)
        assert since > 0
        if ending is Case.READY and not world.refused:  # a connection that was lost beside one that is slow is missed for longer
            assert since <= (2.0 if Case.SLOW in dict(script.cases) else QUICK)
    elif isinstance(outcome.error, NotReadyError) and outcome.error.waited.refused == 5:
        assert "refused the application's login 5 times" in str(outcome.error)
    elif ending in GONE and not isinstance(outcome.error, NotReadyError):
        assert str(outcome.error) == ending.value
        assert since <= 0.3
    elif ending in ENDINGS and since > 1.0 and not world.refused:  # while a login is refused, nothing else is asked
        assert refusal(outcome).phase is ENDINGS[ending]
        assert outcome.ended >= script.deadline - 0.01


# On the real clock, with real threads


async def never_heard() -> Answer:
    await asyncio.Event().wait()
    return Answer(True)


def test_a_look_that_hangs_does_not_hold_up_the_end() -> None:
    go_on = threading.Event()

    async def log_in(_patience: float) -> Answer:
        return Answer(False, "connection refused", phase=Phase.PORT)

    def hang() -> None:
        go_on.wait(60)

    began = time.monotonic()
    with pytest.raises(NotReadyError, match="connection refused"):
        wait_until_ready(log_in, hang, lambda: False, never_heard, HealthCheck(0.6))
    assert time.monotonic() - began < 2
    go_on.set()


def test_a_login_that_does_not_let_itself_be_cancelled_does_not_hold_up_the_end() -> None:
    async def stubborn(_patience: float) -> Answer:
        for _ in range(20):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                stubbornness.append(1)
        return Answer(True)

    stubbornness: list[int] = []
    began = time.monotonic()
    with pytest.raises(DatabaseNotReadyError):
        wait_until_ready(stubborn, lambda: None, lambda: False, never_heard, HealthCheck(0.6))
    assert stubbornness
    assert time.monotonic() - began < 2


def test_what_the_look_raises_is_raised() -> None:
    async def hang(_patience: float) -> Answer:
        await asyncio.sleep(60)
        return Answer(True)

    def dead() -> None:
        raise DatabaseNotReadyError("ended with exit code 3")

    with pytest.raises(DatabaseNotReadyError, match="exit code 3"):
        wait_until_ready(hang, dead, lambda: False, never_heard, HealthCheck(60.0))


def test_knocking_at_a_closed_port_says_so() -> None:
    answer = asyncio.run(knock(Address("127.0.0.1", 1, "S"), b"?"))
    assert (answer.ready, answer.phase) == (False, Phase.PORT)
    assert "127.0.0.1:1" in answer.reason


def test_a_check_is_a_value() -> None:
    assert dataclasses.replace(HealthCheck(300.0), deadline=30.0).limit(Phase.LOGIN) == 30.0
    assert HealthCheck(300.0).limit(Phase.LOGIN) == 150.0
    assert HealthCheck(300.0).limit(Phase.SERVICE) == 300.0
