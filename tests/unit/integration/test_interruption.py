"""Signals come in only where cleaning up is certain, and only one of them does."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from pipeline.integration.interruption import Interruption

Done = list[str]


def send(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def carry_out(work: Callable[[Interruption, Done], None]) -> tuple[Done, BaseException | None]:
    """What `work` got done within an interruption, and what came out of it."""
    done: Done = []
    try:
        with Interruption() as interruption:
            work(interruption, done)
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001 - whatever came out is what the tests look at
        return done, error
    return done, None


def test_a_signal_waits_until_it_is_allowed() -> None:
    def work(interruption: Interruption, done: Done) -> None:
        send()
        done.append("created")
        with interruption.allowed():
            done.append("never")

    done, error = carry_out(work)
    assert done == ["created"]
    assert isinstance(error, KeyboardInterrupt)


def test_a_signal_where_it_is_allowed_is_raised_there() -> None:
    def work(interruption: Interruption, done: Done) -> None:
        with interruption.allowed():
            send()
            done.append("never")

    done, error = carry_out(work)
    assert done == []
    assert isinstance(error, KeyboardInterrupt)


def test_a_second_ctrl_c_does_not_cut_the_cleaning_up_short() -> None:
    def work(interruption: Interruption, done: Done) -> None:
        try:
            with interruption.allowed():
                send()
        finally:
            send()
            send(signal.SIGTERM)
            with interruption.allowed():
                send()
            done.append("cleaned")

    done, error = carry_out(work)
    assert done == ["cleaned"]
    assert isinstance(error, KeyboardInterrupt)


def test_a_signal_that_nothing_let_in_is_raised_at_the_end() -> None:
    def work(_interruption: Interruption, done: Done) -> None:
        send()
        done.append("all")

    done, error = carry_out(work)
    assert done == ["all"]
    assert isinstance(error, KeyboardInterrupt)


def test_term_ends_as_the_default_would_have() -> None:
    _, error = carry_out(lambda _interruption, _done: send(signal.SIGTERM))
    assert isinstance(error, SystemExit)
    assert error.code == 128 + signal.SIGTERM


def test_handlers_are_restored_and_an_ignored_signal_stays_ignored() -> None:
    before = signal.getsignal(signal.SIGINT)
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption, interruption.allowed():
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, previous)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_handler_of_the_caller_s_decides_what_a_signal_means(number: signal.Signals) -> None:
    class OursError(Exception):
        pass

    def handler(_number: int, _frame: object) -> None:
        raise OursError

    previous = signal.signal(number, handler)
    try:
        _, error = carry_out(lambda _interruption, _done: send(number))
    finally:
        signal.signal(number, previous)
    assert isinstance(error, OursError)
