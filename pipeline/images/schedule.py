"""In which order images are built: of those that can be, always the one that most work hangs on.

List scheduling by the longest remaining path (Graham 1969; for trees of equal work it is optimal, Hu 1961): whenever a place is
free, the image begins from which the way to the end of the hierarchy takes longest. How long a build takes is what it took last.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Mapping, Sequence

Needs = Mapping[str, Collection[str]]  # image → those it is built on; an image that is no key of it has no part in this

GUESS = 1.0  # seconds a build takes while none has been timed; all alike, the number of images on the way decides


def estimate_seconds(names: Collection[str], timed: Mapping[str, float]) -> dict[str, float]:
    """How long each build will take: as last time; of a new image, as long as the median of the others."""
    known = [timed[name] for name in names if name in timed] or list(timed.values())
    usual = _median(known) if known else GUESS
    return {name: timed.get(name, usual) for name in names}


def remaining_paths(needs: Needs, seconds: Mapping[str, float]) -> dict[str, float]:
    """Image → the seconds from its beginning to the end of the longest way through what is built on it."""
    users = _users(needs)
    paths: dict[str, float] = {}
    for name in reversed(_in_order(needs, users)):
        paths[name] = seconds[name] + max((paths[user] for user in users[name]), default=0.0)
    return paths


def shortest_makespan(needs: Needs, seconds: Mapping[str, float], jobs: int) -> float:
    """The seconds that no schedule can beat: the critical path, or the work shared out among `jobs` places."""
    return max(max(remaining_paths(needs, seconds).values(), default=0.0), sum(seconds[name] for name in needs) / jobs)


class Schedule:
    """What can be built by now. `take` an image, build it, and tell with `done` or `fail`; each costs O(log n) and its users."""

    def __init__(self, needs: Needs, seconds: Mapping[str, float]) -> None:
        self._users = _users(needs)
        self._missing = {name: sum(needed in needs for needed in set(needs[name])) for name in needs}
        paths = remaining_paths(needs, seconds)
        self._ranks = {name: (-paths[name], number, name) for number, name in enumerate(needs)}  # of equals, the first in the plan
        self._ready = [self._ranks[name] for name, count in self._missing.items() if not count]
        heapq.heapify(self._ready)

    def __bool__(self) -> bool:
        """Whether something can begin now."""
        return bool(self._ready)

    def take(self) -> str:
        """The image to begin with next."""
        return heapq.heappop(self._ready)[2]

    def done(self, name: str) -> None:
        """What waited only for this image can begin."""
        for user in self._users[name]:
            self._missing[user] -= 1
            if not self._missing[user]:
                heapq.heappush(self._ready, self._ranks[user])

    def fail(self, name: str) -> tuple[str, ...]:
        """All that cannot be built now, directly or not, in the order of the plan."""
        lost: set[str] = set()
        waiting = [name]
        while waiting:
            for user in self._users[waiting.pop()]:
                if user not in lost:
                    lost.add(user)
                    waiting.append(user)
        return tuple(user for user in self._ranks if user in lost)


def _users(needs: Needs) -> dict[str, list[str]]:
    users: dict[str, list[str]] = {name: [] for name in needs}
    for name, needed in needs.items():
        for one in set(needed):
            if one in users:
                users[one].append(name)
    return users


def _in_order(needs: Needs, users: Mapping[str, list[str]]) -> list[str]:
    """Each image after all those it is built on."""
    missing = {name: sum(needed in needs for needed in set(needs[name])) for name in needs}
    ready = deque(name for name, count in missing.items() if not count)
    order = []
    while ready:
        order.append(name := ready.popleft())
        for user in users[name]:
            missing[user] -= 1
            if not missing[user]:
                ready.append(user)
    return order


def _median(values: Sequence[float]) -> float:
    """The module `statistics` has one, and takes 4 ms to import."""
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
