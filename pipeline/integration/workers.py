"""A database state of its own for each worker of a test run: for forks of Maven's surefire, Gradle's workers, or anything else.

The workers are programs that know nothing of this one but the environment, and which of them starts when nobody here is
told. So all states are made before the tests, and numbered; each worker takes the one of its own number.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import sessions
from pipeline.databases.contract import DatabaseKind
from pipeline.databases.engine import Account, DatabaseEngine
from pipeline.databases.prepare import Program, Script
from pipeline.databases.states import Prepare, Server, State, StatefulEngine
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.integration.address import login_variables
from pipeline.integration.container_engine import ContainerEngine
from pipeline.integration.database import Database, DatabaseHost, DatabaseSpec
from pipeline.integration.guardian import Companions, guarded
from pipeline.sessions import Session

COUNT = "DB_WORKERS"  # the variable that tells how many there are


@dataclass(frozen=True)
class Workers:
    """What the workers of one run get."""

    states: Sequence[State] = ()
    containers: Session | None = None  # where each has one of its own: the session of those

    @property
    def accounts(self) -> tuple[Account, ...]:
        return tuple(state.account for state in self.states)

    def variables(self, kind: DatabaseEngine) -> dict[str, str]:
        """DB_WORKERS, and for each worker DB_1_JDBC_URL and so on; nothing where there are no workers."""
        found = {COUNT: str(len(self.states))} if self.states else {}
        for number, state in enumerate(self.states, 1):
            login = login_variables(state.address, state.account, kind)
            found |= {name.replace("DB_", f"DB_{number}_", 1): value for name, value in login.items()}
        return found


@contextlib.contextmanager
def states_of(database: Database, kind: DatabaseKind, count: int, prepare: Prepare) -> Iterator[Workers]:
    """States in the container of the session's database: databases, or users. Raises ConfigurationError, PreparationError."""
    engine = kind.engine
    if not isinstance(engine, StatefulEngine):
        raise ConfigurationError(
            f"the database engine '{kind.contract.engine}' cannot copy a prepared state for --workers",
            "Set `itest.isolation` to container: each worker then gets a container of its own.",
        )
    server = Server(database.address, database.user, database.administrator)
    token = secrets.token_hex(3)
    original = engine.make_original(server, f"original_{token}", prepare)
    source = engine.states(server, original, f"worker_{token}", prepare)
    states: list[State] = []
    try:
        for _ in range(count):
            states.append(source.create())  # noqa: PERF401 - one that fails leaves those before it to be dropped
        yield Workers(states)
    finally:
        if not database.session.one_shot:  # else they end with it, in a moment
            for state in (*states, State(original, server.address, server.user)):
                with contextlib.suppress(PipelineError):  # the database may be gone, which the tests have noticed
                    source.drop(state)
        source.close()


@contextlib.contextmanager
def containers_of(
    session: Session,
    spec: DatabaseSpec,
    steps: Sequence[Script | Program],
    count: int,
    host: DatabaseHost,
    run_program: Callable[[Database, Sequence[str]], int],
    keep_log: Callable[[bytes], None],
    watch: tuple[ContainerEngine, Companions, Path],
) -> Iterator[Workers]:
    """A container for each, prepared as the session's. They belong to a session of their own that ends with this process."""
    engine, companions, state = watch
    own = replace(session, key=f"workers-{secrets.token_hex(6)}", one_shot=True)
    with guarded(companions, own, state):
        try:
            databases = [host.start(own, spec, steps, run_program, keep_log, role_of(number)) for number in range(1, count + 1)]
            yield Workers([State(str(each.address.port), each.address, each.user) for each in databases], own)
        finally:
            sessions.end_session(engine, own)


def role_of(number: int) -> str:
    """What the name of a worker's container is made of."""
    return f"database-{number}"
