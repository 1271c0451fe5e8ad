"""What was started together for one purpose: found again, and ended, by the labels it carries on the engine.

Nothing on disk is needed for that. Every container, network and volume has its labels from the moment it exists, so what a
killed process left behind can be told from the living. A container that runs carries its lease inside and ends by itself:
nobody's clock decides about it from outside.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from pipeline.errors import ConfigurationError, EngineError

PROJECT = "pipeline.project"
SESSION = "pipeline.session"
OWNER = "pipeline.owner"  # HOST/PLACE:PID:START of the process that made it
ENDS = "pipeline.ends"  # with what the session ends: its process, or its lease
BUILD = "pipeline.build"  # the CI build it was made in; empty outside CI
LEASE = "pipeline.lease"  # UTC epoch seconds; afterwards anyone may remove what does not run
CHECKOUT = "pipeline.checkout"
ROLE = "pipeline.role"

WITH_PROCESS, WITH_LEASE = "process", "lease"

GONE_DEADLINE = 10.0  # seconds for the engine to finish a removal that someone else began


class Labelled(Protocol):
    """A container as far as sessions look at it."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> str: ...

    @property
    def labels(self) -> Mapping[str, str]: ...


class Engine(Protocol):
    """What sessions need of a container engine."""

    def list_containers(self, labels: Mapping[str, str]) -> Sequence[Labelled]: ...

    def list_networks(self, labels: Mapping[str, str]) -> Mapping[str, Mapping[str, str]]: ...

    def list_volumes(self, labels: Mapping[str, str]) -> Mapping[str, Mapping[str, str]]: ...

    def remove_container(self, container: str) -> None: ...

    def remove_network(self, network: str) -> object: ...

    def remove_volume(self, volume: str) -> object: ...


@dataclass(frozen=True)
class Session:
    """What belongs together, by project and key; where it was made and until when it may live."""

    project: str
    key: str
    checkout: str
    lease: float  # seconds, counted from when something is made
    build: str = ""
    one_shot: bool = False  # it ends with the process that made it

    def labels(self, role: str) -> dict[str, str]:
        """What everything of this session carries from the moment it exists."""
        return {
            **self.mark,
            OWNER: current_owner(),
            ENDS: WITH_PROCESS if self.one_shot else WITH_LEASE,
            BUILD: self.build,
            LEASE: str(int(time.time() + self.lease)),
            CHECKOUT: self.checkout,
            ROLE: role,
        }

    @property
    def mark(self) -> dict[str, str]:
        """The labels by which everything of this session is found."""
        return {PROJECT: self.project, SESSION: self.key}

    def name_of(self, role: str) -> str:
        """The name of this session's container for `role`. The engine keeps names unique: that is the lock between two starts."""
        readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{self.project}-{role}-{self.key}")[:100]
        return f"{readable}-{_digest(self.project, self.key, role)[:8]}"


def own_session(project: str, checkout: Path, lease: float, environment: Mapping[str, str], key: str = "") -> Session:
    """The session of project + checkout + CI build; or of project + `key`, or else PIPELINE_SESSION.

    The parallel stages of one Jenkins build share BUILD_TAG, and without an agent of their own even the checkout: such
    stages give each its own key, and run their tests one after another. Outside CI the host counts, too: two machines may share an engine and a path.
    """
    explicit = key or environment.get("PIPELINE_SESSION", "")
    if explicit and not re.fullmatch(r"[^\s=,][^\n\r\0]{0,99}", explicit):
        raise ConfigurationError(f"'{explicit[:40]}' is not a session key", "Use up to 100 letters, digits and signs on one line.")
    build = ci_build(environment)
    place = build or socket.gethostname()
    found = explicit or f"own-{_digest(place, str(checkout.resolve()))[:12]}"
    return Session(project, found, str(checkout.resolve()), lease, build)


def new_session(project: str, checkout: Path, lease: float, environment: Mapping[str, str]) -> Session:
    """A session that nobody else can have, and that ends with this process."""
    return Session(project, f"itest-{secrets.token_hex(6)}", str(checkout.resolve()), lease, ci_build(environment), one_shot=True)


def ci_build(environment: Mapping[str, str]) -> str:
    """What the CI server calls this build, unique on that server; empty outside CI.

    Jenkins' executor and node tell the parallel stages of one build apart that have an agent each.
    """
    if environment.get("bamboo_buildResultKey"):
        return environment["bamboo_buildResultKey"]
    if environment.get("BUILD_TAG"):
        return "/".join(environment.get(name, "") for name in ("BUILD_TAG", "NODE_NAME", "EXECUTOR_NUMBER"))
    return ""


def end_session(engine: Engine, session: Session) -> int:
    """Remove everything of `session`; how many containers that were. Nothing there is no error."""
    containers = engine.list_containers(session.mark)
    for container in containers:
        engine.remove_container(container.id)
    deadline = time.monotonic() + GONE_DEADLINE
    ours = {container.id for container in containers}  # another start may already be making the session's next one
    while left := [container for container in engine.list_containers(session.mark) if container.id in ours]:
        if time.monotonic() > deadline:
            raise EngineError(
                f"the engine does not get rid of the container {left[0].name}", f"Try: docker rm --force --volumes {left[0].name}"
            )
        time.sleep(0.05)
    for network in engine.list_networks(session.mark):
        engine.remove_network(network)
    for volume in engine.list_volumes(session.mark):
        engine.remove_volume(volume)
    return len(containers)


class Thing(NamedTuple):
    """A container, network or volume of a session."""

    kind: str
    id: str
    name: str
    session: str
    checkout: str
    over: str  # why nobody needs it any more; empty for what lives


def find_things(engine: Engine, project: str, now: float | None = None) -> list[Thing]:
    """Everything of this project's sessions, and of each whether it is over. What was started to stay is not among it."""
    now = time.time() if now is None else now
    mark = {PROJECT: project}
    found, alive = [], set()
    for container in engine.list_containers(mark):
        over = _why_over(container.labels, container.state, now)
        found.append(_thing("container", container.id, container.name, container.labels, over))
        if not over:
            alive.add(container.labels.get(SESSION))
    for kind, listed in (("network", engine.list_networks(mark)), ("volume", engine.list_volumes(mark))):
        for name, labels in listed.items():
            over = "" if labels.get(SESSION) in alive else _why_over(labels, "", now)
            found.append(_thing(kind, name, name, labels, over))
    return [thing for thing in found if thing.session]


def sweep(engine: Engine, project: str, now: float | None = None) -> list[Thing]:
    """Remove what of this project is over; what that was. The living are not touched."""
    swept = [thing for thing in find_things(engine, project, now) if thing.over]
    remove = {"container": engine.remove_container, "network": engine.remove_network, "volume": engine.remove_volume}
    for thing in swept:
        remove[thing.kind](thing.id)
    return swept


def current_owner() -> str:
    """This process: HOST/PLACE:PID:START.

    The place is where process ids mean the same: the machine since its last start, and the container that this process is
    in. The start is in clock ticks since then, so that a pid that is used again is not taken for it.
    """
    return f"{_place()}:{os.getpid()}:{process_start(os.getpid())}"


def owner_is_gone(labels: Mapping[str, str]) -> bool:
    """Whether the process that made it is known to have ended; of processes elsewhere nothing is known."""
    return _owner_lives(labels) is False


def _owner_lives(labels: Mapping[str, str]) -> bool | None:
    place, _, process = labels.get(OWNER, "").partition(":")
    pid, _, start = process.partition(":")
    if place != _place() or not pid.isdigit():
        return None
    found = process_start(int(pid))
    if not found and _is_hidden(int(pid)):
        return None
    return found == start


def _is_hidden(pid: int) -> bool:
    """Whether there is a process of that id of which /proc does not tell (`hidepid`): another user's."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        pass
    return False


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")[:8]
        namespace = re.sub(r"[^0-9]", "", os.readlink("/proc/self/ns/pid"))
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}/{boot}.{namespace}"


def process_start(pid: int) -> str:
    """When a process began, in clock ticks since the machine's start; empty where it has ended, or its /proc is not to be read."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # proc(5): the name before may hold anything; starttime is the 22nd field
    return "" if fields[0] in "ZX" else fields[19]  # a zombie has ended; only its parent has not noticed


def _why_over(labels: Mapping[str, str], state: str, now: float) -> str:
    """Why nobody needs it any more; empty where somebody may. `state` is that of a container."""
    lives = _owner_lives(labels)
    lease = labels.get(LEASE, "")
    if state in ("running", "restarting", "paused") and lives is False and labels.get(ENDS) == WITH_PROCESS:
        return "its process is gone"
    if state in ("running", "restarting"):  # its lease is inside, and may have been renewed
        return ""
    if state != "paused" and lives is False:
        return "its process is gone, and it does not run"
    if lives is not True and lease.isdigit() and int(lease) < now:
        return "its lease was over"
    return ""


def _thing(kind: str, identity: str, name: str, labels: Mapping[str, str], over: str) -> Thing:
    return Thing(kind, identity, name, labels.get(SESSION, ""), labels.get(CHECKOUT, ""), over)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
