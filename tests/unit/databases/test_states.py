"""The pool of database states: who gets what, and what happens in the background, with a source that only counts."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.databases.engine import Account, Address, Password
from pipeline.databases.states import Originals, Server, Sql, State, StatementError, StatePool, in_order
from pipeline.errors import DatabaseNotReadyError, PreparationError


@dataclass
class Counting:
    """A source whose states are numbered; those in `broken` cannot be restored."""

    broken: set[str] = field(default_factory=set)
    failures: int = 0  # how many of the next ones cannot be made
    made: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    closed: bool = False
    hold: Callable[[], object] = lambda: None

    def create(self) -> State:
        self.hold()
        if self.failures:
            self.failures -= 1
            raise PreparationError("the script failed")
        name = f"state {len(self.made) + 1}"
        self.made.append(name)
        return State(name, Address("h", 1, "s"), Account(name, Password("p")))

    def restore(self, state: State) -> bool:
        self.restored.append(state.name)
        return state.name not in self.broken

    def drop(self, state: State) -> None:
        self.dropped.append(state.name)

    def close(self) -> None:
        self.closed = True


def test_nothing_is_made_before_it_is_asked_for() -> None:
    source = Counting()
    pool = StatePool(source)
    pool.close()
    assert (source.made, source.closed) == ([], True)


def test_who_keeps_a_state_costs_no_other_one() -> None:
    source = Counting()
    pool = StatePool(source)
    pool.take()
    assert pool.settle()
    assert source.made == ["state 1"]
    pool.close()
    assert source.dropped == ["state 1"]


def test_what_comes_back_is_restored_and_handed_out_again() -> None:
    source = Counting()
    pool = StatePool(source)
    first = pool.take()
    for _ in range(5):
        pool.give_back(first)
        pool.settle()
        assert pool.take() == first
    assert source.made == ["state 1"]
    assert source.restored == ["state 1"] * 5
    pool.close()


def test_what_cannot_be_restored_is_replaced_and_taken_away() -> None:
    source = Counting(broken={"state 1", "state 2"})
    pool = StatePool(source)
    state = pool.reset(pool.take())
    assert state.name == "state 2"
    assert pool.reset(state).name == "state 3"
    assert pool.settle()
    assert source.dropped == ["state 1", "state 2"]
    pool.close()
    assert sorted(source.dropped) == sorted(source.made)


def test_no_state_is_with_two() -> None:
    source = Counting(broken={f"state {number}" for number in range(0, 100, 3)})
    pool = StatePool(source, ahead=2)
    held: set[str] = set()
    lock, wrong = threading.Lock(), []

    def work() -> None:
        for _ in range(40):
            state = pool.take()
            with lock:
                wrong.extend([state.name] if state.name in held else [])
                held.add(state.name)
            with lock:
                held.discard(state.name)
            pool.give_back(state)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert source.dropped == list(dict.fromkeys(source.dropped)), "nothing is dropped twice"
    pool.close()
    assert sorted(source.dropped) == sorted(source.made)


def test_what_went_wrong_in_the_background_is_said_to_who_waits_and_tried_again_for_the_next() -> None:
    source = Counting(failures=1)
    pool = StatePool(source)
    with pytest.raises(PreparationError, match="the script failed"):
        pool.take()
    assert pool.take().name == "state 1"
    pool.close()


def test_a_state_that_does_not_come_is_not_waited_for_longer_than_allowed() -> None:
    free = threading.Event()
    pool = StatePool(Counting(hold=free.wait))
    with pytest.raises(DatabaseNotReadyError, match="no database state was ready after 0 s"):
        pool.take(patience=0.05)
    free.set()
    pool.close()


def test_a_source_that_fails_in_a_reset_does_not_end_the_pool() -> None:
    class Failing(Counting):
        def restore(self, state: State) -> bool:
            raise PreparationError("the connection is gone")

    pool = StatePool(Failing())
    first = pool.take()
    with pytest.raises(PreparationError, match="the connection is gone"):
        pool.reset(first)
    assert pool.take() != first
    pool.close()


def test_a_driver_s_error_says_which_statement() -> None:
    class DriverError(Exception):
        pass

    class Connection:
        def cursor(self) -> object:
            raise DriverError("ORA-00942:\n  table or view does not exist")

    with pytest.raises(StatementError, match=r"ORA-00942: table or view does not exist \(statement: DROP TABLE x\)"):
        Sql(Connection(), DriverError).run("DROP TABLE x")


NAMES = st.sampled_from("abcdefgh")


@given(st.lists(st.tuples(NAMES, NAMES)))
def test_tables_come_after_those_they_reference(references: list[tuple[str, str]]) -> None:
    tables = sorted({name for pair in references for name in pair})
    ordered = in_order(tables, references)
    if ordered is None:
        assert has_circle(references)
    else:
        assert sorted(ordered) == tables
        assert all(ordered.index(parent) < ordered.index(child) for child, parent in references if child != parent)


def has_circle(references: list[tuple[str, str]]) -> bool:
    reached = {pair for pair in references if pair[0] != pair[1]}
    while more := {(a, d) for (a, b), (c, d) in itertools.product(reached, reached) if b == c} - reached:
        reached |= more
    return any(child == parent for child, parent in reached)


def test_an_original_that_could_not_be_made_is_not_tried_again_and_its_cause_is_said_once() -> None:
    originals, tries = Originals(), []
    server, other = (Server(Address("h", port, "s"), Account("a", Password("p")), Account("b", Password("q"))) for port in (1, 2))

    def fail() -> str:
        tries.append(1)
        raise PreparationError("ORA-00955: name is already used", "Look into the script.")

    with pytest.raises(PreparationError, match="ORA-00955"):
        originals.make(server, fail)
    for _ in range(3):
        with pytest.raises(PreparationError, match="no database state can be had") as raised:
            originals.make(server, fail)
        assert "ORA-00955" in raised.value.hint
    assert len(tries) == 1
    assert originals.make(other, lambda: "made") == "made", "another database is another matter"
