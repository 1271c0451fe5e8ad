"""The session's database: started once, found again from any process, its passwords in files that only it can read.

The passwords are put into the created container before it starts. They are in no environment and no label, so that
`docker inspect` does not show them; who finds the session again reads them back out of the container.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pipeline import sessions
from pipeline.databases.bake import START_SCRIPT, Baked, rotating
from pipeline.databases.contract import DatabaseKind, is_standin
from pipeline.databases.engine import Account, Address, Connection, Password
from pipeline.databases.knock import knock
from pipeline.databases.passwords import masked, new_password
from pipeline.databases.prepare import Program, Script, run_steps
from pipeline.databases.readiness import HealthCheck, Waited, wait_until_ready
from pipeline.errors import (
    ConfigurationError,
    DatabaseNotReadyError,
    EngineError,
    ImageUnavailableError,
    PipelineError,
    PreparationError,
    SessionMissingError,
)
from pipeline.integration.container_engine import ContainerEngine, Inspected
from pipeline.integration.interruption import Interruption
from pipeline.integration.lease import FOLDER as FILES
from pipeline.integration.lease import LAUNCHER, PREPARED, find_end, lease_files, look, renewal, renewing, without_end
from pipeline.integration.room import asked, check_room
from pipeline.sessions import Session

ROLE = "database"
ENGINE = "pipeline.database.engine"
IMAGE = "pipeline.database.image"
SERVICE = "pipeline.database.service"
USER = "pipeline.database.user"
BIND = "pipeline.database.bind"
BAKED = "pipeline.database.baked"  # the baked image it was started from
FINGERPRINT = "pipeline.database.fingerprint"

CREATION_PATIENCE = 10.0  # seconds that another process may take between creating a container and starting it
LOG_END = 20  # lines of a dead container's log in a message

ALIVE = ("running", "paused", "restarting")
_ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
_OWN_ADDRESS = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class DatabaseSpec:
    """The database a session is to have."""

    engine: str  # the kind of database, as the configuration calls it
    image: str  # a reference
    service: str
    user: str
    bind: str
    memory: str
    shm: str
    processes: int  # at most, threads among them
    deadline: float  # seconds until it must have answered a login
    mounts: tuple[tuple[str, str], ...] = ()  # (path of the engine's host or volume, path in the container), to be read only
    fingerprint: str = ""  # of what it is prepared from; empty where that is not known
    baked: Baked | None = None  # what to start instead of the image and its preparation


@dataclass(frozen=True)
class Database:
    """A running database."""

    session: Session
    container: str
    engine: str
    image: str
    standin: bool
    address: Address
    dsn: str
    user: Account
    administrator: Account
    ready_seconds: float = 0.0
    waited: Waited | None = None  # how that went, phase by phase
    made: bool = False  # by this call, not found
    baked: str = ""  # the baked image it was started from
    fingerprint: str = ""  # of what it was prepared from
    workers: tuple[Account, ...] = ()  # those that the workers of a test run have for themselves

    def mask(self, text: bytes) -> bytes:
        """`text` without this database's passwords."""
        return masked(text, (account.password for account in (self.user, self.administrator, *self.workers)))

    @property
    def description(self) -> str:
        """The image, and what it truly is."""
        baked = f", baked as {self.baked}" if self.baked else ""
        return f"{self.image} (a stand-in, not {self.engine.capitalize()}){baked}" if self.standin else f"{self.image}{baked}"


class DatabaseHost:
    """Databases of one kind in sessions on one container engine."""

    def __init__(self, engine: ContainerEngine, kind: DatabaseKind, interruption: Interruption, say: Callable[[str], None]) -> None:
        self._engine = engine
        self._kind = kind
        self._interruption = interruption
        self._say = say

    def start(
        self,
        session: Session,
        spec: DatabaseSpec,
        steps: Sequence[Script | Program],
        run_program: Callable[[Database, Sequence[str]], int],
        keep_log: Callable[[bytes], None],
        role: str = ROLE,
    ) -> Database:
        """The session's database, ready and prepared: the one that runs, or a new one. `role`: where a session has several.

        What this call made is gone again when it raises: DatabaseNotReadyError, PreparationError, ImageUnavailableError,
        EngineError, ConfigurationError, or the exception of a signal. `keep_log` gets the log of a database that failed,
        also of one that was found.
        """
        self._check_reachable(spec)
        self._ensure_image(spec.image)
        while True:
            begun = time.monotonic()
            container, made = self._make_or_find(session, spec, role)
            database: Database | None = None
            try:
                database = self._open(container, session, begun, made)
                with self._interruption.allowed():
                    database = self._wait(database, spec.deadline, begun)
                    verb = "ready" if made else "found"
                    self._say(f"database: {verb} after {database.ready_seconds:.1f} s at {database.dsn}: {database.description}")
                    if made:
                        with renewing(partial(self._renew, container, session.lease), session.lease):
                            self._prepare(database, () if database.baked else steps, run_program)
                    elif not self._wait_until_prepared(database, spec.deadline):
                        self._say(f"the start of session {session.key} was abandoned half-way: starting again")
                        self._engine.remove_container(container)
                        continue
                if made:
                    self._engine.write_files(container, FILES, {PREPARED: b""})
                else:
                    self._renew(container, session.lease)  # who starts it again wants it for as long as a new one
                return database
            except BaseException as error:
                if isinstance(error, DatabaseNotReadyError) and not made and self._engine.find_container(container) is None:
                    self._say(f"the database of session {session.key} was removed meanwhile: starting again")
                    continue
                self._keep_log(container, database, keep_log)
                if made:
                    self._give_up(session, container)
                raise

    def find(self, session: Session, deadline: float, keep_log: Callable[[bytes], None]) -> Database:
        """The session's running database, found on the engine. Raises SessionMissingError where there is none.

        `keep_log` gets the log of one that is there, but cannot be used.
        """
        container = self._find_started(session)
        if container is None:
            raise SessionMissingError(
                f"there is no session {session.key} on the engine at {self._engine.name}", "Start it: invoke start-oracle"
            )
        begun = time.monotonic()
        database: Database | None = None
        try:
            if container.state not in ALIVE:
                raise SessionMissingError(self._epitaph(container), "Start it again: invoke start-oracle")
            database = self._open(container.id, session, begun, made=False)
            with self._interruption.allowed():
                database = self._wait(database, deadline, begun)
                if not self._wait_until_prepared(database, deadline):
                    raise SessionMissingError(
                        f"the start of session {session.key} was abandoned half-way", "Start it again: invoke start-oracle"
                    )
        except PipelineError:
            self._keep_log(container.id, database, keep_log)
            raise
        return database

    def read_log(self, database: Database, since: float = 0.0) -> bytes:
        """The database's log so far, or since a moment, without passwords; empty where the container is gone."""
        return database.mask(self._engine.read_log(database.container, since=since))

    def follow_log(self, session: Session, follow: bool) -> Iterator[bytes]:
        """The log of the session's database by lines, without passwords; with `follow` as it grows, until the database has ended."""
        container = look(self._engine, session.name_of(ROLE))
        if container is None:
            raise SessionMissingError(
                f"there is no session {session.key} on the engine at {self._engine.name}", "Start it: invoke start-oracle"
            )
        passwords = [account.password for account in self._accounts(container)]
        rest = b""
        for piece in self._engine.follow_log(container.id) if follow else (self._engine.read_log(container.id),):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:  # whole ones: a password may come in two pieces
                yield masked(line, passwords) + b"\n"
                if find_end(line):
                    return
        if rest:
            yield masked(rest, passwords) + b"\n"

    def epitaph(self, database: Database) -> str:
        """How the database's container ended; empty while it runs."""
        container = look(self._engine, database.container)
        if container is None:
            return f"the database's container {database.container[:12]} was removed"
        return "" if container.state in ALIVE else self._epitaph(container, database)

    def renew(self, session: Session, seconds: float, role: str = ROLE) -> None:
        """Let the session's database live for so many seconds from now on. Raises SessionMissingError where there is none."""
        missing = SessionMissingError(
            f"there is no running session {session.key} on the engine at {self._engine.name}", "Start it: invoke start-oracle"
        )
        container = look(self._engine, session.name_of(role))
        if container is None or container.state not in ALIVE:
            raise missing
        try:
            self._engine.write_files(container.id, FILES, renewal(seconds))
        except EngineError:
            if self._engine.find_container(container.id) is None:  # it ended in this moment
                raise missing from None
            raise

    def stop(self, session: Session, keep_log: Callable[[bytes], None]) -> int:
        """End the session, keeping its log; how many containers that were. Nothing there is no error."""
        container = self._engine.find_container(session.name_of(ROLE))
        if container is not None:
            self._keep_log(container.id, None, keep_log)
        return sessions.end_session(self._engine, session)

    def _renew(self, container: str, seconds: float) -> None:
        with contextlib.suppress(EngineError):  # it may have ended, which whoever works with it will notice
            self._engine.write_files(container, FILES, renewal(seconds))

    def _check_reachable(self, spec: DatabaseSpec) -> None:
        if not self._engine.is_local and spec.bind in _OWN_ADDRESS:
            raise EngineError(
                f"the engine is on {self._engine.host}: a database published there on {spec.bind} cannot be reached from here",
                "Set `itest.bind` to an address of that host (0.0.0.0: all of them) that this machine reaches, or use a local engine.",
            )

    def _ensure_image(self, image: str) -> None:
        if self._engine.find_image(image) is not None:
            return
        self._say(f"pulling {image}")
        try:
            with self._interruption.allowed():
                self._engine.pull_image(image)
        except ImageUnavailableError as error:
            raise ImageUnavailableError(error.message, "Name another one: `itest.image` in pipeline.yaml, or --image.") from error

    def _find_started(self, session: Session) -> Inspected | None:
        """The session's container; another process that has just created it is given the time to start it."""
        patience_ends = time.monotonic() + CREATION_PATIENCE
        while True:
            container = look(self._engine, session.name_of(ROLE))
            if (
                container is None
                or container.state != "created"
                or sessions.owner_is_gone(container.labels)
                or time.monotonic() > patience_ends
            ):
                return container
            with self._interruption.allowed():
                time.sleep(0.05)

    def _make_or_find(self, session: Session, spec: DatabaseSpec, role: str) -> tuple[str, bool]:
        """The session's container, started; and whether this call made it."""
        name = session.name_of(role)
        patience_ends = time.monotonic() + CREATION_PATIENCE
        while True:
            container = look(self._engine, name)
            if container is None:
                made = self.make(name, session, spec)
                if made:
                    return made, True
            elif container.state in ALIVE:
                self._check_same(container, spec)
                return container.id, False
            elif container.state != "removing" and (
                container.state != "created" or sessions.owner_is_gone(container.labels) or time.monotonic() > patience_ends
            ):
                self._say(f"replacing the database of session {session.key}, which does not run ({container.state})")
                self._engine.remove_container(container.id)  # by id: another start may have made a new one of that name
            elif time.monotonic() > patience_ends:
                raise EngineError(f"the engine does not get rid of the container {name}", f"Try: docker rm --force --volumes {name}")
            with self._interruption.allowed():
                time.sleep(0.05)

    def make(self, name: str, session: Session, spec: DatabaseSpec) -> str | None:
        """A container of that name, started; its id, or None where the name is taken."""
        accounts = {user: new_password() for user in (self._kind.administrator, spec.user)}
        paths = {user: f"{FILES}/{user}" for user in accounts}
        baked = spec.baked.reference if spec.baked else ""
        labels = {ENGINE: spec.engine, IMAGE: spec.image, SERVICE: spec.service, USER: spec.user, BIND: spec.bind}
        labels |= {FINGERPRINT: spec.fingerprint, BAKED: baked}
        room = asked(self._engine.room)  # which takes as long as creating
        container = self._engine.create_container(
            name=name,
            image=baked or spec.image,
            labels={**session.labels(ROLE), **labels},
            environment=self._kind.environment(spec.user, spec.service, paths),
            publish=self._kind.port,
            bind=spec.bind,
            memory=spec.memory,
            shm=spec.shm,
            processes=spec.processes,
            launcher=LAUNCHER,
            auto_remove=True,
            mounts=spec.mounts,
        )
        if container is None:
            return None
        try:
            check_room(room(), spec.memory, self._say)
            passwords = {user: password.value.encode() for user, password in accounts.items()}
            self._engine.write_files(container, FILES, {**passwords, **lease_files(session.lease)})
            for path, content in self._kind.files(spec.user, spec.service, paths, accounts).items():
                folder, _, name = path.rpartition("/")
                self._engine.write_files(container, folder, {name: content})
            if spec.baked:
                self._replace_passwords(container, spec, spec.baked, accounts)
            self._engine.start_container(container)
        except BaseException:
            self._engine.remove_container(container)
            raise
        return container

    def _replace_passwords(self, container: str, spec: DatabaseSpec, baked: Baked, accounts: Mapping[str, Password]) -> None:
        """Let the image's own start give every account a new password: nobody knows those that are in it."""
        kind = self._kind
        passwords = {**accounts, **{name: new_password() for name in baked.accounts}}
        script = rotating(kind).password_script(spec.service, spec.user, passwords)
        self._engine.write_files(container, kind.contract.scripts.start, {START_SCRIPT: script.encode()})

    def _check_same(self, container: Inspected, spec: DatabaseSpec) -> None:
        wanted = {ENGINE: spec.engine, IMAGE: spec.image, SERVICE: spec.service, USER: spec.user}
        for label, value in wanted.items():
            found = container.labels.get(label, "")
            if found != value:
                noun = label.rpartition(".")[2]
                raise ConfigurationError(
                    f"the session runs with {noun} '{found}', but '{value}' is asked for", "Stop it first: invoke stop-oracle"
                )
        prepared_from = container.labels.get(FINGERPRINT, "")
        if prepared_from and spec.fingerprint and prepared_from != spec.fingerprint:
            self._say("database: it was prepared from other inputs than those of now; to replace it: invoke start-oracle --reuse")

    def _open(self, container_id: str, session: Session, begun: float, made: bool) -> Database:
        """What is known of a container, asked of the engine only."""
        container = look(self._engine, container_id)
        if container is None or container.state not in ALIVE:
            raise self._death(container)
        accounts = self._accounts(container)
        labels = container.labels
        if len(accounts) < 2 or self._kind.port not in container.ports:
            raise DatabaseNotReadyError(f"the container {container.name} is not a database of this kind", "Stop it: invoke stop-oracle")
        bind = labels.get(BIND, "")
        host = self._engine.host if bind in ("", *_OWN_ADDRESS, *_ANY_ADDRESS) else bind
        address = Address(host, container.ports[self._kind.port], labels.get(SERVICE, ""))
        return Database(
            session=session,
            container=container.id,
            engine=labels.get(ENGINE, ""),
            image=labels.get(IMAGE, ""),
            standin=is_standin(labels),
            address=address,
            dsn=self._kind.dsn(address),
            user=accounts[0],
            administrator=accounts[1],
            ready_seconds=time.monotonic() - begun,
            made=made,
            baked=labels.get(BAKED, ""),
            fingerprint=labels.get(FINGERPRINT, ""),
        )

    def _accounts(self, container: Inspected) -> list[Account]:
        """The application's user and the administrator, with the passwords the container holds."""
        found = []
        for user in (container.labels.get(USER, ""), self._kind.administrator):
            password = self._engine.read_file(container.id, f"{FILES}/{user}")
            if password:
                found.append(Account(user, Password(password.decode())))
        return found

    def _wait(self, database: Database, deadline: float, begun: float) -> Database:
        def check_alive() -> None:
            container = look(self._engine, database.container)
            if container is None or container.state not in ALIVE:
                death = self._death(container, database)
                self._say(f"database: {death.message.partition(';')[0]}")  # now: its log is kept before the error is shown
                raise death

        def announced() -> bool:
            return self._kind.ready_line.encode() in self._engine.read_log(database.container, lines=200)

        waited = wait_until_ready(
            lambda patience: self._kind.log_in(database.address, database.user, patience),
            check_alive,
            announced,
            lambda: knock(database.address, self._kind.knock),
            HealthCheck(deadline, spent=time.monotonic() - begun),
        )
        return replace(database, ready_seconds=time.monotonic() - begun, waited=waited)

    def _prepare(
        self, database: Database, steps: Sequence[Script | Program], run_program: Callable[[Database, Sequence[str]], int]
    ) -> None:
        def connect(user: str) -> Connection:
            return self._kind.connect(database.address, database.user if user == "app" else database.administrator)

        try:
            run_steps(steps, connect, lambda command: run_program(database, command), self._say)
        except PreparationError:
            ended = self.epitaph(database)
            if ended:
                raise DatabaseNotReadyError(
                    f"during the preparation: {ended}", "Its whole log is in .pipeline/itest/database.log."
                ) from None
            raise

    def _wait_until_prepared(self, database: Database, deadline: float) -> bool:
        """Whether the start that made it got to its end; False where its process is gone."""
        ends = time.monotonic() + deadline
        while True:
            container = look(self._engine, database.container)
            if container is None or container.state in ("exited", "dead", "removing"):
                raise DatabaseNotReadyError(self._epitaph(container, database), "Start it again: invoke start-oracle")
            gone = sessions.owner_is_gone(container.labels)  # asked before: it may write the file as its last deed
            if self._engine.read_file(database.container, f"{FILES}/{PREPARED}") is not None:
                return True
            if gone:
                return False
            if time.monotonic() > ends:
                raise DatabaseNotReadyError(
                    f"another start of session {database.session.key} did not finish its preparation", "See: docker ps"
                )
            time.sleep(0.1)

    def _give_up(self, session: Session, container: str) -> None:
        """Remove what was begun. The error that led here matters more than one that cleaning up meets."""
        try:
            self._engine.remove_container(container)  # by id: another start may have made a new one of that name
        except EngineError as error:
            self._say(f"warning: {error.message}\n  The container {container[:12]} of session {session.key} may still be there.")

    def _keep_log(self, container_id: str, database: Database | None, keep_log: Callable[[bytes], None]) -> None:
        """Keep the log, without passwords, of a container that may be gone.

        That it cannot be read, or written here, is only worth a warning: what the container is to be removed for goes on.
        """
        try:
            container = self._engine.find_container(container_id)
            if container is None:
                return
            accounts = [database.user, database.administrator] if database else self._accounts(container)
            log = without_end(self._engine.read_log(container.id))  # after the passwords, for the container may go at any moment
            keep_log(masked(log, (account.password for account in accounts)))
        except EngineError as error:
            self._say(f"warning: {error.message}")
        except OSError as error:
            self._say(f"warning: the database's log cannot be kept: {error.strerror}: {error.filename}")

    def _death(self, container: Inspected | None, database: Database | None = None) -> DatabaseNotReadyError:
        hint = "Its whole log is in .pipeline/itest/database.log." if container else "Start it again: invoke start-oracle"
        return DatabaseNotReadyError(self._epitaph(container, database), hint)

    def _epitaph(self, container: Inspected | None, database: Database | None = None) -> str:
        """How a container ended: exit code, out-of-memory flag, the end of its log."""
        if container is None:
            return "the database's container was removed by someone else"
        if container.state == "created":
            return "the database's container was created, but never started"
        cause = ", out of memory (raise `itest.memory`)" if container.out_of_memory else ""
        cause += f", {container.error}" if container.error else ""
        log = without_end(self._engine.read_log(container.id, lines=LOG_END))
        accounts = [database.user, database.administrator] if database else self._accounts(container)
        log = masked(log, (account.password for account in accounts))
        end = log.decode(errors="replace").strip() or "(it wrote nothing)"
        return f"the database's container ended with exit code {container.exit_code}{cause}; the end of its log:\n{end}"
