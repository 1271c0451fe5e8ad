"""Which image is built next, and how near to the shortest possible time that comes."""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.images.schedule import Needs, Schedule, estimate_seconds, remaining_paths, shortest_makespan

DIAMOND: Needs = {"root": (), "left": ("root",), "right": ("root",), "top": ("left", "right")}


def carry_out(needs: Needs, seconds: Mapping[str, float], jobs: int, expected: Mapping[str, float] | None = None) -> float:
    """The makespan of the schedule made for what was `expected`, where the builds take `seconds`."""
    schedule = Schedule(needs, expected or seconds)
    running: list[tuple[float, str]] = []
    done: set[str] = set()
    now = 0.0
    while schedule or running:
        while schedule and len(running) < jobs:
            name = schedule.take()
            assert done.issuperset(one for one in needs[name] if one in needs)
            heapq.heappush(running, (now + seconds[name], name))
        now, name = heapq.heappop(running)
        assert name not in done
        done.add(name)
        schedule.done(name)
    assert done == set(needs)
    return now


def make_mix(count: int, source: random.Random) -> dict[str, tuple[str, ...]]:
    """Trees, chains, and images that take files from others, as hierarchies of images are."""
    needs: dict[str, tuple[str, ...]] = {}
    names: list[str] = []
    for number in range(count):
        kind = source.random()
        parents = () if not names or kind < 0.02 else (names[-1],) if kind < 0.4 else (source.choice(names),)
        used = (source.choice(names),) if names and kind > 0.9 else ()
        needs[f"i{number}"] = parents + used
        names.append(f"i{number}")
    return needs


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    count = draw(st.integers(1, 12))
    return {str(n): tuple(str(draw(st.integers(0, n - 1))) for _ in range(draw(st.integers(0, min(n, 3))))) for n in range(count)}


def test_the_longest_remaining_path_counts_the_image_itself() -> None:
    seconds = {"root": 1.0, "left": 5.0, "right": 2.0, "top": 1.0}
    assert remaining_paths(DIAMOND, seconds) == {"root": 7.0, "left": 6.0, "right": 3.0, "top": 1.0}


def test_of_what_can_begin_the_one_that_most_hangs_on() -> None:
    schedule = Schedule(DIAMOND, {"root": 1.0, "left": 2.0, "right": 5.0, "top": 1.0})
    assert schedule.take() == "root"
    assert not schedule
    schedule.done("root")
    assert [schedule.take(), schedule.take()] == ["right", "left"]
    schedule.done("left")
    assert not schedule
    schedule.done("right")
    assert schedule.take() == "top"


def test_of_equals_the_first_in_the_plan() -> None:
    schedule = Schedule({"b": (), "a": (), "c": ()}, dict.fromkeys("abc", 1.0))
    assert [schedule.take() for _ in range(3)] == ["b", "a", "c"]


def test_an_image_that_is_there_already_is_not_waited_for() -> None:
    assert Schedule({"a": ("elsewhere", "elsewhere")}, {"a": 1.0}).take() == "a"


def test_a_failure_costs_all_that_is_built_on_it() -> None:
    needs = {"root": (), "a": ("root",), "b": ("root",), "leaf": ("a", "a"), "twig": ("leaf", "b")}
    schedule = Schedule(needs, dict.fromkeys(needs, 1.0))
    schedule.done(schedule.take())
    assert schedule.fail("a") == ("leaf", "twig")


@pytest.mark.parametrize(
    ("names", "timed", "expected"),
    [
        (("a", "b", "new"), {"a": 1.0, "b": 3.0, "other": 99.0}, {"a": 1.0, "b": 3.0, "new": 2.0}),
        (("new",), {"other": 7.0}, {"new": 7.0}),
        (("a", "b"), {}, {"a": 1.0, "b": 1.0}),
        ((), {}, {}),
    ],
)
def test_a_new_image_counts_as_the_median(names: tuple[str, ...], timed: dict[str, float], expected: dict[str, float]) -> None:
    assert estimate_seconds(names, timed) == expected


def test_no_schedule_beats_the_critical_path_or_the_work() -> None:
    seconds = {"root": 1.0, "left": 5.0, "right": 2.0, "top": 1.0}
    assert shortest_makespan(DIAMOND, seconds, 2) == 7.0
    assert shortest_makespan(DIAMOND, seconds, 1) == 9.0
    assert shortest_makespan({}, {}, 2) == 0.0


@given(graphs(), st.integers(1, 4), st.randoms(use_true_random=False))
def test_everything_is_built_once_after_what_it_needs_and_within_grahams_bound(
    needs: dict[str, tuple[str, ...]], jobs: int, source: random.Random
) -> None:
    seconds = {name: source.uniform(0.1, 10) for name in needs}
    shortest = shortest_makespan(needs, seconds, jobs)
    assert shortest - 1e-9 <= carry_out(needs, seconds, jobs) <= (2 - 1 / jobs) * shortest + 1e-9


@pytest.mark.parametrize("jobs", [1, 2, 4, 8])
def test_hierarchies_of_three_hundred_images_end_within_a_tenth_of_the_shortest_time(jobs: int) -> None:
    source = random.Random(jobs)
    for _ in range(20):
        needs = make_mix(300, source)
        seconds = {name: source.lognormvariate(0, 1) for name in needs}
        assert carry_out(needs, seconds, jobs) <= 1.10 * shortest_makespan(needs, seconds, jobs)


def test_the_first_run_knows_no_durations_and_does_well_too() -> None:
    source = random.Random(1)
    for _ in range(20):
        needs = make_mix(300, source)
        seconds = {name: source.uniform(0.8, 1.2) for name in needs}
        assert carry_out(needs, seconds, 2, expected=dict.fromkeys(needs, 1.0)) <= 1.10 * shortest_makespan(needs, seconds, 2)


def test_the_order_matters_here() -> None:
    """A long chain beside many short builds: who begins with the short ones is late."""
    needs: dict[str, tuple[str, ...]] = {f"short{n}": () for n in range(10)}
    needs |= {f"link{n}": (f"link{n - 1}",) if n else () for n in range(10)}
    seconds = dict.fromkeys(needs, 1.0)
    assert carry_out(needs, seconds, 2) == 10.0
    assert carry_out(needs, seconds, 2, expected={**seconds, **{f"short{n}": 100.0 for n in range(10)}}) == 15.0


def test_ten_thousand_images_cost_what_ten_times_a_thousand_do() -> None:
    def operations(count: int) -> int:
        looked_at = 0

        class Counting(dict[str, tuple[str, ...]]):
            def __getitem__(self, name: str) -> tuple[str, ...]:
                nonlocal looked_at
                looked_at += 1
                return super().__getitem__(name)

        needs = Counting(make_mix(count, random.Random(1)))
        carry_out(needs, dict.fromkeys(needs, 1.0), 2)
        return looked_at

    assert operations(10_000) <= 11 * operations(1_000)
