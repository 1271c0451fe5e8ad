"""A database that is kept warm between runs: each start hands over a clean one, and lays the next one aside.

The one laid aside is another container of the same session, started from the baked image and never given to anybody, so it
is clean without anything having to be undone. It ends with the session or with its own lease.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.integration.container_engine import ContainerEngine
from pipeline.integration.database import ALIVE, FINGERPRINT, ROLE, DatabaseHost, DatabaseSpec
from pipeline.integration.lease import FOLDER, PREPARED, look, renewal
from pipeline.sessions import Session

SPARE = "spare"  # the role that its name is made of


class WarmDatabases:
    """The databases of one session that come and go."""

    def __init__(self, engine: ContainerEngine, host: DatabaseHost, say: Callable[[str], None]) -> None:
        self._engine = engine
        self._host = host
        self._say = say

    def make_way(self, session: Session, spec: DatabaseSpec) -> None:
        """Take the used database away, and put the one that was laid aside in its place if it was made of the same inputs."""
        used = look(self._engine, session.name_of(ROLE))
        spare = look(self._engine, session.name_of(SPARE))
        if used is not None:
            same = used.labels.get(FINGERPRINT) == spec.fingerprint
            self._say(f"reuse: the database of before is replaced: {'it may have been used' if same else 'its inputs have changed'}")
            self._engine.remove_container(used.id)
        if spare is None:
            return
        fits = spare.state in ALIVE and spare.labels.get(FINGERPRINT) == spec.fingerprint
        if fits and self._engine.rename_container(spare.id, session.name_of(ROLE)):
            self._engine.write_files(spare.id, FOLDER, renewal(session.lease))
            self._say("reuse: the one that was laid aside is handed over, clean")
            return
        self._say(
            "reuse: the one that was laid aside is removed: " + ("its inputs have changed" if spare.state in ALIVE else "it has ended")
        )
        self._engine.remove_container(spare.id)

    def lay_aside(self, session: Session, spec: DatabaseSpec) -> None:
        """Start the next one, without waiting for it."""
        made = self._host.make(session.name_of(SPARE), session, spec)
        if made:
            self._engine.write_files(made, FOLDER, {PREPARED: b""})
            self._say(f"reuse: the next one is laid aside; both end {session.lease / 3600:g} h from now, or with invoke stop-oracle")
