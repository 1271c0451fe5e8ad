"""Baking: start the configured database, prepare it, replace every password, stop it cleanly, and make an image of it.

And finding that image again. The container runs the image's own programs; that the image then starts as it always does is
why nothing of the session (its launcher, its files, its environment, its labels) may be in what is kept.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

from pipeline.databases.bake import (
    START_SCRIPT,
    Baked,
    Fingerprint,
    labels_of,
    left_behind,
    read_baked,
    rotating,
    unclean,
)
from pipeline.databases.contract import DatabaseKind
from pipeline.databases.engine import Connection, OpenEngine
from pipeline.databases.passwords import new_password
from pipeline.databases.prepare import run_steps
from pipeline.databases.states import Sql, StatementError
from pipeline.errors import BakeRefusedError, DatabaseNotReadyError, PipelineError
from pipeline.integration.address import address_variables, remove_address_files, write_address_files
from pipeline.integration.bracket import RESULTS
from pipeline.integration.container_engine import ContainerEngine, Inspected
from pipeline.integration.database import ALIVE, Database, DatabaseHost
from pipeline.integration.guardian import guarded
from pipeline.integration.interruption import Interruption
from pipeline.integration.lease import FOLDER, STAY, look, renewing, without_end
from pipeline.integration.results import FOLDER as RESULTS_FOLDER
from pipeline.integration.results import LOG, Results
from pipeline.integration.run import Programs, Run
from pipeline.reference import Reference
from pipeline.sessions import PROJECT, SESSION, Labelled, Session

ROTATION = "rotation.sql"  # in FOLDER, which is removed before the image is made
BAKE = "bake"  # the folder below the project's state that has the log of the last bake
PAUSE = 0.05  # seconds between two looks at what is waited for


class BakingEngine(ContainerEngine, Protocol):
    """What baking needs of a container engine beside what a database needs."""

    def image_labels(self, reference: str) -> Mapping[str, str] | None: ...

    def run_inside(self, container: str, command: Sequence[str], user: str = "") -> tuple[int, bytes]: ...

    def signal_container(self, container: str, signal: str) -> None: ...

    def changed_paths(self, container: str) -> list[str]: ...

    def commit_container(self, container: str, original: str, reference: str, labels: Mapping[str, str]) -> str: ...


class Shelf(Protocol):
    """What finding half-made images needs of a container engine."""

    def list_containers(self, labels: Mapping[str, str]) -> Sequence[Labelled]: ...

    def list_untagged(self, labels: Sequence[str]) -> Mapping[str, Mapping[str, str]]: ...


@dataclass(frozen=True)
class Recipe:
    """What is to be baked, and what it will be called."""

    reference: Reference
    fingerprint: Fingerprint
    project: str  # of the images


@dataclass(frozen=True)
class Outcome:
    """What came of baking."""

    image: str  # the id
    baked: Baked
    seconds: float


def find_baked(engine: BakingEngine, recipe: Recipe) -> Baked | None:
    """The baked image, if the engine has it."""
    labels = engine.image_labels(str(recipe.reference))
    return None if labels is None else read_baked(str(recipe.reference), labels, recipe.fingerprint)


def find_half_made(engine: Shelf, project: str) -> list[str]:
    """The ids of the images that a bake was killed over: of the project, without a tag, of a session that has no container any more."""
    found = engine.list_untagged([f"{PROJECT}={project}", SESSION])
    alive = {container.labels.get(SESSION) for container in engine.list_containers({PROJECT: project})}
    return [image for image, labels in found.items() if labels[SESSION] not in alive]


class Bakery:
    """Bakes databases of one kind on one container engine."""

    def __init__(self, engine: BakingEngine, kind: DatabaseKind, programs: Programs, say: Callable[[str], None]) -> None:
        self._engine = engine
        self._kind = kind
        self._programs = programs
        self._say = say

    def bake(self, run: Run, session: Session, recipe: Recipe) -> Outcome:
        """Make the image. Raises BakeRefusedError with why the database must not become one, and whatever starting one raises."""
        begun = time.monotonic()
        results = Results(run.root, run.state)

        def keep_log(log: bytes) -> None:
            """Not where a test run keeps its own."""
            (run.state / BAKE).mkdir(parents=True, exist_ok=True)
            (run.state / BAKE / LOG).write_bytes(log)

        with Interruption() as interruption, guarded(self._programs, session, run.state):
            host = DatabaseHost(self._engine, self._kind, interruption, self._say)
            try:
                spec = replace(run.database, baked=None, fingerprint=recipe.fingerprint.value)
                database = host.start(session, spec, (), lambda _database, _command: 0, keep_log)
                with interruption.allowed():
                    with renewing(lambda: host.renew(session, session.lease), session.lease):
                        accounts = self._prepare(run, database, results)
                        self._replace_passwords(run, database, accounts)
                        self._stop_cleanly(database)
                    image = self._make_image(run, database, recipe, accounts)
            except PipelineError as error:
                error.hint = error.hint.replace(f".pipeline/{RESULTS_FOLDER}/{LOG}", f".pipeline/{BAKE}/{LOG}")
                raise
            finally:
                remove_address_files(run.state, session.key)
                host.stop(session, keep_log)
        return Outcome(image, Baked(str(recipe.reference), accounts), time.monotonic() - begun)

    def _prepare(self, run: Run, database: Database, results: Results) -> tuple[str, ...]:
        """Prepare; who can log in then, beside those whom each database has."""
        self._wait_until_initialised(database, run.database.deadline)
        address = address_variables(database, self._kind.engine)
        files = write_address_files(run.state, database.session.key, address)
        environment = {**os.environ, **address, **files, RESULTS: str(results.folder)}

        def connect(user: str) -> Connection:
            return self._kind.connect(database.address, database.user if user == "app" else database.administrator)

        run_steps(run.steps, connect, lambda command: self._programs.run_program(command, run.root, environment, quiet=True), self._say)
        return tuple(sorted(self._other_accounts(database)))

    def _stop_cleanly(self, database: Database) -> None:
        self._say("bake: stopping the database")
        stopped = self._stop(database)
        log = without_end(self._engine.read_log(database.container))
        reason = unclean(self._kind, stopped.exit_code, stopped.out_of_memory, log)
        if reason:
            raise BakeRefusedError(f"the database cannot be baked: {reason}", "Its whole log is in .pipeline/itest/database.log.")

    def _make_image(self, run: Run, database: Database, recipe: Recipe, accounts: Sequence[str]) -> str:
        """From here on nothing is written into the container any more; of its lease at least three quarters are left."""
        self._take_away(database)
        self._say(f"bake: making {recipe.reference}")
        labels = labels_of(recipe.fingerprint, recipe.project, accounts)
        return self._engine.commit_container(database.container, run.database.image, str(recipe.reference), labels)

    def _wait_until_initialised(self, database: Database, deadline: float) -> None:
        """A login proves less: the image may yet be running scripts of its own."""
        line = self._kind.ready_line.encode()
        ends = time.monotonic() + deadline
        while line not in self._engine.read_log(database.container):
            if time.monotonic() > ends:
                raise BakeRefusedError(
                    f"the database cannot be baked: after {deadline:.0f} s it had not said '{self._kind.ready_line}'",
                    "Is the contract the right one for this image? See: itest.contract",
                )
            self._check_alive(database)
            time.sleep(PAUSE)

    def _other_accounts(self, database: Database) -> set[str]:
        engine = self._kind.engine
        if not isinstance(engine, OpenEngine):
            raise BakeRefusedError(f"the database cannot be baked: '{self._kind.contract.engine}' does not say what accounts there are")
        with closing(Sql(engine.open(database.address, database.administrator), Exception)) as sql:
            try:
                return rotating(self._kind).other_accounts(sql.rows, database.user.name)
            except StatementError as error:
                raise BakeRefusedError(f"the database cannot be baked: its accounts are not known: {error}") from error

    def _replace_passwords(self, run: Run, database: Database, accounts: Sequence[str]) -> None:
        """Give every account a password that nobody keeps, and see that the old one opens nothing."""
        self._say(f"bake: replacing the passwords of {', '.join([database.administrator.name, database.user.name, *accounts])}")
        engine, spec = rotating(self._kind), run.database
        names = (self._kind.administrator, spec.user)
        script = engine.password_script(spec.service, spec.user, {name: new_password() for name in (*names, *accounts)})
        self._engine.write_files(database.container, FOLDER, {ROTATION: script.encode()})
        paths = {name: f"{FOLDER}/{name}" for name in names}
        command = self._kind.bake_command(spec.user, spec.service, paths, f"{FOLDER}/{ROTATION}")
        code, output = self._engine.run_inside(database.container, command)
        if code:
            said = database.mask(output).decode(errors="replace").strip()
            raise BakeRefusedError(f"the database cannot be baked: its passwords could not be replaced (exit code {code}):\n{said}")
        self._check_locked_out(database)

    def _check_locked_out(self, database: Database) -> None:
        import asyncio

        for account in (database.user, database.administrator):
            answer = asyncio.run(self._kind.log_in(database.address, account, 20.0))
            if not answer.refused:
                raise BakeRefusedError(
                    f"the database cannot be baked: the old password of {account.name} was not refused: {answer.reason or 'it logged in'}"
                )

    def _stop(self, database: Database) -> Inspected:
        """Stop the database's own programs in an orderly way; its container stays."""
        seconds = self._kind.contract.stop.seconds
        self._engine.signal_container(database.container, STAY)
        ends = time.monotonic() + seconds
        while (container := look(self._engine, database.container)) is not None and container.state in ALIVE:
            if time.monotonic() > ends:
                raise BakeRefusedError(f"the database cannot be baked: it was not shut down cleanly: not within {seconds:.0f} s")
            time.sleep(PAUSE)
        if container is None:
            raise DatabaseNotReadyError("the database's container was removed by someone else", "Bake it again: invoke db.bake")
        return container

    def _take_away(self, database: Database) -> None:
        """Remove what this session has put into the container, and see that it is gone."""
        spec_user, service = database.user.name, database.address.service
        names = (self._kind.administrator, spec_user)
        paths = {name: f"{FOLDER}/{name}" for name in names}
        accounts = {account.name: account.password for account in (database.administrator, database.user)}
        ours = [FOLDER, *self._kind.files(spec_user, service, paths, accounts), f"{self._kind.contract.scripts.start}/{START_SCRIPT}"]
        code, output = self._engine.run_inside(database.container, ["rm", "-rf", *ours], user="0")
        left = left_behind(self._engine.changed_paths(database.container), ours)
        left = [path for path in left if self._engine.read_file(database.container, path) is not None or path == FOLDER]
        if code or left:
            said = output.decode(errors="replace").strip()
            raise BakeRefusedError(f"the database cannot be baked: files of this session are still in it: {', '.join(left) or said}")

    def _check_alive(self, database: Database) -> None:
        container = look(self._engine, database.container)
        if container is None or container.state not in ALIVE:
            raise DatabaseNotReadyError("the database ended before it could be baked", "Its whole log is in .pipeline/itest/database.log.")
