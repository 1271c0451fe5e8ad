"""What was started together for one purpose: found again, and ended, by the labels it carries on the engine.

Nothing on disk is needed for that. Every container, network and volume has its labels from the moment it exists, so what a
killed process left behind can be told from the living, and is swept once its lease is over.
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
from typing import Protocol

from pipeline.errors import ConfigurationError, EngineError

PROJECT = "pipeline.project"
SESSION = "pipeline.session"
OWNER = "pipeline.owner"  # HOST:PID:START of the process that made it
BUILD = "pipeline.build"  # the CI build it was made in; empty outside CI
LEASE = "pipeline.lease"  # UTC epoch seconds; afterwards anyone may remove it
CHECKOUT = "pipeline.checkout"
ROLE = "pipeline.role"

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

    def labels(self, role: str) -> dict[str, str]:
        """What everything of this session carries from the moment it exists."""
        return {
            **self.mark,
            OWNER: current_owner(),
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
    """A session that nobody else can have."""
    return Session(project, f"itest-{secrets.token_hex(6)}", str(checkout.resolve()), lease, ci_build(environment))


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
    while left := engine.list_containers(session.mark):  # another process may be removing it at this moment
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


def sweep(engine: Engine, project: str, now: float | None = None) -> list[tuple[str, str]]:
    """Remove what this project made and whose lease is over; key and checkout of what that was. The living are not touched."""
    now = time.time() if now is None else now
    mark = {PROJECT: project}
    swept: set[tuple[str, str]] = set()
    for container in engine.list_containers(mark):
        if _is_over(container.labels, now):
            engine.remove_container(container.id)
            swept.add(_session_of(container.labels))
    for network, labels in engine.list_networks(mark).items():
        if _is_over(labels, now):
            engine.remove_network(network)
            swept.add(_session_of(labels))
    for volume, labels in engine.list_volumes(mark).items():
        if _is_over(labels, now):
            engine.remove_volume(volume)
            swept.add(_session_of(labels))
    return sorted(swept)


def current_owner() -> str:
    """This process: HOST:PID:START, the start in clock ticks since boot, so that a reused pid is not taken for it."""
    return f"{socket.gethostname()}:{os.getpid()}:{_process_start(os.getpid())}"


def owner_is_gone(labels: Mapping[str, str]) -> bool:
    """Whether the process that made it is known to have ended; of another host's processes nothing is known."""
    host, _, process = labels.get(OWNER, "").partition(":")
    pid, _, start = process.partition(":")
    return host == socket.gethostname() and pid.isdigit() and _process_start(int(pid)) != start


def _process_start(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # proc(5): the name before may hold anything; starttime is the 22nd field
    return "" if fields[0] in "ZX" else fields[19]  # a zombie has ended; only its parent has not noticed


def _is_over(labels: Mapping[str, str], now: float) -> bool:
    lease = labels.get(LEASE, "")
    return SESSION in labels and lease.isdigit() and int(lease) < now


def _session_of(labels: Mapping[str, str]) -> tuple[str, str]:
    return labels[SESSION], labels.get(CHECKOUT, "")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
