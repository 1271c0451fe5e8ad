"""A small process beside ours that removes what ours began, should ours be killed before it could do so itself.

It waits at the end of a pipe that only our process holds open. The pipe closes when our process ends, however that happens;
without a farewell on it, the guardian acts. It begins to wait before anything is made. What it does needs nothing but labels.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from pipeline import sessions
from pipeline.errors import EngineError
from pipeline.integration.address import remove_address_files
from pipeline.integration.container_engine import ContainerEngine
from pipeline.integration.lease import FOLDER, PREPARED
from pipeline.sessions import OWNER, PROJECT, SESSION, Session
from pipeline.state_files import sweep_unfinished

PROGRAM = "pipeline.guardian"  # the module that runs as the guardian
# What a killed process had asked for just before may come into being after it: an engine that unpacks a large image's volume
# takes its time. So it is looked for again and again; seconds:
PATIENCE = 25.0
FIRST_PAUSE, LAST_PAUSE = 0.1, 2.0


class Companion(Protocol):
    """A process that knows when ours has ended."""

    def dismiss(self) -> None:
        """It ends without having done anything."""

    def abandon(self) -> None:
        """It does what it would do if our process had been killed."""


class Companions(Protocol):
    """What is needed to have one."""

    def start_companion(self, module: str, arguments: Sequence[str]) -> Companion: ...


class Charge(NamedTuple):
    """What a guardian watches over."""

    project: str
    session: str
    owner: str  # the process that is watched, as it stands on what that makes
    state: str  # the folder of the session's files
    one_shot: str  # `yes`: the session ends with its process; else only what that process made and did not finish


@contextlib.contextmanager
def guarded(companions: Companions, session: Session, state: Path) -> Iterator[Companion]:
    """While in here, a guardian watches over what this process makes for `session`.

    Outside, everything is finished or removed again. Where the engine or this machine (a full disk) failed, the guardian is to
    try once more.
    """
    charge = Charge(session.project, session.key, sessions.current_owner(), str(state), "yes" if session.one_shot else "no")
    companion = companions.start_companion(PROGRAM, charge)
    try:
        yield companion
    except (EngineError, OSError):
        companion.abandon()
        raise
    except BaseException:
        companion.dismiss()
        raise
    companion.dismiss()


def clean_up(engine: ContainerEngine, charge: Charge, patience: float = PATIENCE) -> None:
    """Remove what the dead process began, and what comes into being of it within `patience`; that the engine fails is waited out."""
    ends = time.monotonic() + patience
    pause = FIRST_PAUSE
    while True:
        with contextlib.suppress(EngineError):
            _remove(engine, charge)
        if time.monotonic() > ends:
            return
        time.sleep(pause)
        pause = min(pause * 2, LAST_PAUSE)


def _remove(engine: ContainerEngine, charge: Charge) -> None:
    mark = {PROJECT: charge.project, SESSION: charge.session}
    sweep_unfinished(Path(charge.state))
    if charge.one_shot == "yes":
        sessions.end_session(engine, Session(charge.project, charge.session, "", 0.0))
    else:
        for container in engine.list_containers({**mark, OWNER: charge.owner}):
            if engine.read_file(container.id, f"{FOLDER}/{PREPARED}") is None:  # else it was handed over, to whoever comes next
                engine.remove_container(container.id)
        if engine.list_containers(mark):
            return
    with contextlib.suppress(OSError):
        remove_address_files(Path(charge.state), charge.session)
