"""The conformance suite: what a database image does of that which its contract says, one row a check.

What an image is like is found out by starting it. A row says what was seen, so that a report can be judged by who has not
been there; what a contract does not have (a folder for start scripts) is `not supported`, never `passed`.
"""

from __future__ import annotations

import asyncio
import enum
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from pipeline.databases.bake import unclean, why_not
from pipeline.databases.contract import DatabaseKind, is_standin
from pipeline.databases.engine import Account, Address, Answer, OpenEngine, Password, Phase, Probe
from pipeline.databases.knock import knock
from pipeline.databases.passwords import masked, new_password
from pipeline.databases.readiness import HealthCheck, wait_until_ready
from pipeline.databases.states import Sql, StatementError
from pipeline.errors import DatabaseNotReadyError, PreparationError

FOLDER = "verify"  # in the state folder
USER = "verifier"
MARKS = "/tmp/verify"  # noqa: S108 - in the container; what its scripts have run is written there
LOGINS = 20  # in a row, after the first one
START_PAUSE = 0.5  # seconds that the start script takes, so that it shows who gets in before its end
ALIVE = ("running", "restarting", "paused")
_FILES = "/run/verify"  # in the container: the passwords


class Inspected(Protocol):
    """A container, looked at closely."""

    @property
    def state(self) -> str: ...

    @property
    def exit_code(self) -> int: ...

    @property
    def out_of_memory(self) -> bool: ...

    @property
    def ports(self) -> Mapping[int, int]: ...


class ContainerEngine(Protocol):
    """What is needed of a container engine."""

    @property
    def host(self) -> str: ...

    def find_image(self, reference: str) -> object | None: ...

    def image_labels(self, reference: str) -> Mapping[str, str] | None: ...

    def image_volumes(self, reference: str) -> Sequence[str]: ...

    def create_container(
        self,
        *,
        name: str,
        image: str,
        labels: Mapping[str, str],
        environment: Mapping[str, str],
        publish: int,
        memory: str,
        shm: str,
        processes: int,
    ) -> str | None: ...

    def write_files(self, container: str, folder: str, files: Mapping[str, bytes]) -> None: ...

    def start_container(self, container: str) -> None: ...

    def find_container(self, container: str) -> Inspected | None: ...

    def describe_container(self, container: str) -> str: ...

    def run_inside(self, container: str, command: Sequence[str], user: str = "") -> tuple[int, bytes]: ...

    def signal_container(self, container: str, signal: str) -> None: ...

    def read_log(self, container: str, lines: int = 0, since: float = 0.0) -> bytes: ...

    def remove_container(self, container: str) -> None: ...


class Result(enum.StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_SUPPORTED = "not supported"  # by the contract or the engine: nothing was promised
    NOT_REACHED = "not reached"  # something before it failed


@dataclass(frozen=True)
class Row:
    """One check."""

    check: str
    result: Result
    seen: str


@dataclass(frozen=True)
class Report:
    """What was found out about an image."""

    image: str
    image_id: str
    engine: str
    contract: str
    standin: bool  # it is not what it answers as
    rows: tuple[Row, ...]

    @property
    def failed(self) -> list[str]:
        return [row.check for row in self.rows if row.result in (Result.FAILED, Result.NOT_REACHED)]

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    def as_markdown(self) -> str:
        what = " It is a stand-in: what holds for it need not hold for what it stands in for." if self.standin else ""
        head = f"# {self.image}\n\nImage {self.image_id}, contract `{self.contract}` of the engine `{self.engine}`.{what}\n"
        lines = [f"| {row.check} | {row.result} | {_cell(row.seen)} |" for row in self.rows]
        return "\n".join([head, "| check | result | seen |", "| --- | --- | --- |", *lines]) + "\n"


def write_report(report: Report, state: Path) -> Path:
    """Write both files; the one for people."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", report.image.rpartition("/")[2])
    folder = state / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    shown = folder / f"{name}.md"
    shown.write_text(report.as_markdown(), encoding="utf-8")
    return shown


class NotMetError(Exception):
    """A check that said no; the message is what was seen."""


class NotPromisedError(Exception):
    """A check of something that the contract or the engine does not have."""


def verify_image(
    engine: ContainerEngine, kind: DatabaseKind, image: str, name: str, labels: Mapping[str, str], say: Callable[[str], None]
) -> Report:
    """Start containers of `image` called `name`, which are removed again, and look at what they do. May raise EngineError."""
    suite = _Suite(engine, kind, image, name, labels, say)
    try:
        rows = suite.run()
    finally:
        suite.remove()
    standin = is_standin(engine.image_labels(image) or {})
    return Report(image, str(engine.find_image(image)), kind.contract.engine, kind.contract.name, standin, tuple(rows))


@dataclass
class _Suite:
    """The checks, in an order in which each may use what those before it have shown."""

    engine: ContainerEngine
    kind: DatabaseKind
    image: str
    name: str
    labels: Mapping[str, str]
    say: Callable[[str], None]
    rows: list[Row] = field(default_factory=list)
    container: str = ""
    passwords: Mapping[str, Password] = field(default_factory=dict)
    marks_at_login: list[str] = field(default_factory=list)  # of the scripts that had run when a login first succeeded
    unclean: str = ""  # why the stop was not clean

    def checks(self) -> list[tuple[str, Callable[[], str], bool]]:
        """Name, check, and whether all that follow need it."""
        return [
            ("starts, with its passwords in files", self.check_start, True),
            ("ready means that the application logs in", self.check_logins, True),
            ("no password in docker inspect", self.check_inspect, False),
            ("no password in the log", self.check_log, False),
            ("the administrator logs in", self.check_administrator, False),
            ("a wrong password is refused as such", self.check_wrong_password, False),
            ("an unknown service is told", self.check_unknown_service, False),
            ("init scripts run once", self.check_init_scripts, False),
            ("start scripts run before anybody gets in", self.check_start_scripts, False),
            *((f"SQL: {probe.name}", lambda probe=probe: self.check_probe(probe), False) for probe in self.probes()),
            ("SQL: an error is told", self.check_error, False),
            ("limits are those of the container", self.check_limits, False),
            ("stops cleanly and in time", self.check_stop, True),
            ("starts again", self.check_restart, True),
            ("the data is kept", self.check_kept, False),
            ("init scripts run once, start scripts each time", self.check_scripts_again, False),
            ("can be baked", self.check_baking, False),
        ]

    def run(self) -> list[Row]:
        broken = False
        for name, check, needed in self.checks():
            row = Row(name, Result.NOT_REACHED, "") if broken else self._row(name, check)
            self.rows.append(row)
            self.say(f"verify: {row.result}: {name}" + (f" ({row.seen})" if row.seen else ""))
            broken = broken or (needed and row.result is Result.FAILED)
        return self.rows

    def remove(self) -> None:
        if self.container:
            self.engine.remove_container(self.container)

    def _row(self, name: str, check: Callable[[], str]) -> Row:
        try:
            return Row(name, Result.PASSED, check())
        except NotPromisedError as reason:
            return Row(name, Result.NOT_SUPPORTED, str(reason))
        except (NotMetError, StatementError) as seen:
            return Row(name, Result.FAILED, str(seen))
        except (DatabaseNotReadyError, PreparationError) as error:
            return Row(name, Result.FAILED, error.message)

    # Starting

    def check_start(self) -> str:
        self.passwords = {user: new_password() for user in (self.kind.administrator, USER)}
        paths = {user: f"{_FILES}/{user}" for user in self.passwords}
        contract, limits = self.kind.contract, self.kind.contract.limits
        service = contract.service.default
        container = self.engine.create_container(
            name=self.name,
            image=self.image,
            labels=self.labels,
            environment=self.kind.environment(USER, service, paths),
            publish=contract.port,
            memory=limits.memory,
            shm=limits.shm,
            processes=limits.processes,
        )
        if container is None:
            raise NotMetError(f"a container called {self.name} is there already")
        self.container = container
        self.engine.write_files(container, _FILES, {user: password.value.encode() for user, password in self.passwords.items()})
        for path, content in {**self.kind.files(USER, service, paths, self.passwords), **self._scripts()}.items():
            folder, _, name = path.rpartition("/")
            self.engine.write_files(container, folder, {name: content})
        return f"a login succeeded {self._start_and_wait():.1f} s after the start"

    def _scripts(self) -> dict[str, bytes]:
        """Scripts that leave a mark when they have run. The shell may read them in, so they do not `exit`."""
        scripts = self.kind.contract.scripts
        found = {}
        if scripts.init:
            found[f"{scripts.init}/900-verify.sh"] = f"echo init >>{MARKS}\n".encode()
        if scripts.start:
            found[f"{scripts.start}/900-verify.sh"] = f"sleep {START_PAUSE}\necho start >>{MARKS}\n".encode()
        return found

    def _start_and_wait(self) -> float:
        begun = time.monotonic()
        self.engine.start_container(self.container)
        address = self._address()
        wait_until_ready(
            lambda patience: self.kind.log_in(address, self._account(USER), patience),
            self._check_alive,
            lambda: self.kind.ready_line.encode() in self._log(),
            lambda: knock(address, self.kind.knock),
            HealthCheck(self.kind.contract.deadline),
        )
        self.marks_at_login = self._marks()
        return time.monotonic() - begun

    def _check_alive(self) -> None:
        found = self.engine.find_container(self.container)
        if found is None or found.state not in ALIVE:
            code = f" with exit code {found.exit_code}" if found else ""
            end = masked(self.engine.read_log(self.container, lines=5), self.passwords.values()).decode(errors="replace")
            raise DatabaseNotReadyError(f"the container ended{code}: {' '.join(end.split())}")

    # While it runs

    def check_logins(self) -> str:
        for number in range(LOGINS):
            answer = self._log_in(self._account(USER))
            if not answer.ready:
                raise NotMetError(f"login {number + 2} after the first one failed: {answer.reason}")
        return f"{LOGINS} logins in a row after the first one"

    def check_inspect(self) -> str:
        shown = self.engine.describe_container(self.container)
        names = sorted({name for name, password in self.passwords.items() if password.value in shown})
        if names:
            raise NotMetError(f"the password of {' and '.join(names)} is shown")
        return ""

    def check_log(self) -> str:
        log = self._log()
        if masked(log, self.passwords.values()) != log:
            raise NotMetError("a password is in the container's log")
        return f"{len(log.splitlines())} lines"

    def check_administrator(self) -> str:
        answer = self._log_in(self._account(self.kind.administrator))
        if not answer.ready:
            raise NotMetError(answer.reason)
        return f"as {self.kind.administrator}"

    def check_wrong_password(self) -> str:
        answer = self._log_in(Account(USER, Password("Vx-not-the-password")))
        if answer.ready:
            raise NotMetError("a login with a wrong password succeeded")
        if not answer.refused:
            raise NotMetError(f"not known as a refusal: {answer.reason}")
        if not self._log_in(self._account(USER)).ready:
            raise NotMetError("after one refusal the right password was not taken, either")
        return answer.reason

    def check_unknown_service(self) -> str:
        answer = self._log_in(self._account(USER), service="VERIFYNONE")
        if answer.ready:
            raise NotMetError("a service that is not there let the application in")
        if answer.refused or answer.phase is not Phase.SERVICE:
            raise NotMetError(f"taken for a failure of the phase '{answer.phase}': {answer.reason}")
        return answer.reason

    def check_init_scripts(self) -> str:
        if not self.kind.contract.scripts.init:
            raise NotPromisedError("the contract has no folder for them")
        if self.marks_at_login.count("init") != 1:
            raise NotMetError(f"ran {self.marks_at_login.count('init')} times before the first login")
        return self.kind.contract.scripts.init

    def check_start_scripts(self) -> str:
        if not self.kind.contract.scripts.start:
            raise NotPromisedError("the contract has no folder for them")
        if "start" not in self.marks_at_login:
            raise NotMetError("the application could log in while they ran")
        return self.kind.contract.scripts.start

    def probes(self) -> Sequence[Probe]:
        return getattr(self.kind.engine, "probes", ())

    def check_probe(self, probe: Probe) -> str:
        with closing(self.kind.connect(self._address(), self._account(USER))) as connection:
            for statement in probe.statements:
                problem = connection.execute(statement)
                if problem:
                    raise NotMetError(f"{problem.message} (statement: {statement[:80]})")
            problem = connection.commit()
            if problem:
                raise NotMetError(problem.message)
        return self._ask(probe)

    def _ask(self, probe: Probe) -> str:
        with self._sql() as sql:
            rows = sql.rows(probe.query)
        answer = str(rows[0][0]) if rows else "nothing"
        if answer != probe.expected:
            raise NotMetError(f"{probe.query} answered {answer}, not {probe.expected}")
        return f"{probe.query} → {answer}"

    def check_error(self) -> str:
        with closing(self.kind.connect(self._address(), self._account(USER))) as connection:
            problem = connection.execute("SELECT * FROM verify_nowhere")
        if problem is None:
            raise NotMetError("a query of a table that is not there succeeded")
        return problem.message

    def check_limits(self) -> str:
        limits = self.kind.contract.limits
        script = (
            "cd /sys/fs/cgroup && cat memory.max memory/memory.limit_in_bytes 2>/dev/null | head -n 1;"
            " cat pids.max pids/pids.max 2>/dev/null | head -n 1; df -k /dev/shm | tail -n 1"
        )
        _, output = self.engine.run_inside(self.container, ["/bin/sh", "-c", script])
        lines = output.decode(errors="replace").split("\n")
        if len(lines) < 3:
            raise NotMetError(f"they could not be read: {' '.join(lines)}")
        found = (lines[0], lines[1], int(lines[2].split()[1]) * 1024)
        wanted = (str(_bytes(limits.memory)), str(limits.processes), _bytes(limits.shm))
        if found != wanted:
            raise NotMetError(f"memory, processes and shared memory are {found}, not {wanted}")
        return f"memory {limits.memory}, shared memory {limits.shm}, {limits.processes} processes"

    # Stopping, and starting again

    def check_stop(self) -> str:
        seconds = self.kind.contract.stop.seconds
        begun = time.monotonic()
        self.engine.signal_container(self.container, "TERM")
        while True:
            found = self.engine.find_container(self.container)
            took = time.monotonic() - begun
            if found is None or found.state not in ALIVE:
                break
            if took > seconds:
                raise NotMetError(f"it still ran {took:.0f} s after TERM")
            time.sleep(0.05)
        self.unclean = unclean(self.kind, found.exit_code, found.out_of_memory, self._log()) if found else "the container is gone"
        if found is None or (self.kind.contract.bake and self.unclean):
            raise NotMetError(self.unclean)
        return f"{took:.1f} s after TERM, exit code {found.exit_code}"

    def check_restart(self) -> str:
        return f"a login with the same password succeeded {self._start_and_wait():.1f} s after the start"

    def check_kept(self) -> str:
        probes = [probe for probe in self.probes() if "row" in probe.name]
        if not probes:
            raise NotPromisedError("the engine names nothing to look at")
        return self._ask(probes[0])

    def check_scripts_again(self) -> str:
        scripts = self.kind.contract.scripts
        wanted = ["init"] * bool(scripts.init) + ["start", "start"] * bool(scripts.start)
        if not wanted:
            raise NotPromisedError("the contract has no folder for them")
        marks = self._marks()
        if marks != wanted:
            raise NotMetError(f"they ran in this order: {', '.join(marks) or 'not at all'}")
        return ", ".join(marks)

    def check_baking(self) -> str:
        reason = why_not(self.kind, self.engine.image_volumes(self.image))
        if reason:
            raise NotPromisedError(reason)
        if self.unclean:
            raise NotMetError(self.unclean)
        return f"its data is in {self.kind.contract.data}, which is no volume; the stop was clean"

    # What they are made of

    def _address(self, service: str = "") -> Address:
        found = self.engine.find_container(self.container)
        port = found.ports.get(self.kind.port) if found else None
        if port is None:
            self._check_alive()
            raise NotMetError(f"port {self.kind.port} is not published")
        return Address(self.engine.host, port, service or self.kind.contract.service.default)

    def _account(self, user: str) -> Account:
        return Account(user, self.passwords[user])

    def _log_in(self, account: Account, service: str = "") -> Answer:
        return asyncio.run(self.kind.log_in(self._address(service), account, 20.0))

    @contextmanager
    def _sql(self) -> Iterator[Sql]:
        engine = self.kind.engine
        if not isinstance(engine, OpenEngine):
            raise NotPromisedError("the engine hands out no connection that rows could be read from")
        with closing(Sql(engine.open(self._address(), self._account(USER)), engine.error)) as sql:
            yield sql

    def _marks(self) -> list[str]:
        _, output = self.engine.run_inside(self.container, ["/bin/sh", "-c", f"cat {MARKS} 2>/dev/null"])
        return output.decode(errors="replace").split()

    def _log(self) -> bytes:
        return self.engine.read_log(self.container)


def _bytes(size: str) -> int:
    return int(size[:-1]) * {"m": 1024**2, "g": 1024**3}[size[-1]]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
