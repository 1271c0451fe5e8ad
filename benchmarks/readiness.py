"""How soon it is seen that a database is ready, or dead, and what the waiting costs."""

from __future__ import annotations

import multiprocessing
import random
import resource
import secrets
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.cases import Outcome
from benchmarks.measure import BenchmarkError, Series
from benchmarks.project import TASKS
from benchmarks.stage import INVOKE, Stage, docker
from pipeline.adapters.docker_engine import Container, DockerEngine
from pipeline.databases.engine import Account, Address, Password
from pipeline.databases.knock import knock
from pipeline.databases.readiness import HealthCheck, NotReadyError, wait_until_ready
from pipeline.integration.lease import look
from pipeline.plugins import ORACLE
from pipeline.sessions import PROJECT
from tests.engine.checkouts import kill_programs
from tests.engine.scripted_listener import CLOSED, READY, REFUSED, SILENT, refusal, scripted_listener

CASES = {case.name: case for case in (REFUSED, CLOSED, SILENT, refusal(12514), refusal(12528))}  # in which no login is refused
SHORT = 0.3  # seconds of waiting at least, so that what is found is not the first attempt
BUSY = 4.0  # seconds of waiting in which the processor time is counted
LAG_GOAL, DEATH_GOAL, CPU_GOAL = 0.1, 0.3, 0.1


def measure_readiness(stage: Stage, rounds: int) -> list[Outcome]:
    """A gate in front of a database that is ready, so that it is known when a login would succeed; and a container that is killed."""
    image = stage.own_image("oracle-standin")
    user = Account("app", Password(secrets.token_hex(12)))
    variables = {"ORACLE_PASSWORD": secrets.token_hex(12), "APP_USER": user.name, "APP_USER_PASSWORD": user.password.value}
    options = [part for name in variables for part in ("--env", name)]  # names only: the values are in no command line
    container, port = stage.start_container(image, 1521, *options, environment=variables)
    database = Address("127.0.0.1", port, "FREEPDB1")
    _wait(container, database, user, 120.0)
    with _gate(database) as gate:
        outcomes = [_lag(gate, container, user, rounds), _cost(gate, container, user)]
    return [*outcomes, _death(stage, image, rounds)]


class Gate:
    """Plays a case, then lets everybody in; in a process of its own, so that it costs the one that waits nothing."""

    def __init__(self, pipe: Connection, port: int, service: str) -> None:
        self._pipe = pipe
        self.address = Address("127.0.0.1", port, service)

    def play(self, case: str, seconds: float) -> None:
        """From now on for so many seconds; returns when it has begun."""
        self._pipe.send((case, seconds))
        self._pipe.recv()

    def opened(self) -> float:
        """When a login would succeed, on the clock of all processes of this machine."""
        return float(self._pipe.recv())


@contextmanager
def _gate(database: Address) -> Iterator[Gate]:
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    process = context.Process(target=_keep_gate, args=(far, database), daemon=True)
    process.start()
    try:
        yield Gate(near, int(near.recv()), database.service)
    finally:
        near.close()
        process.terminate()
        process.join()


def _keep_gate(pipe: Connection, database: Address) -> None:
    with scripted_listener(database) as listener:
        pipe.send(listener.address.port)
        while True:
            name, seconds = pipe.recv()
            listener.play(CASES[name])
            pipe.send(None)
            time.sleep(seconds)
            listener.play(READY)
            pipe.send(time.monotonic())


def _lag(gate: Gate, container: str, user: Account, rounds: int) -> Outcome:
    chance = random.Random(4)
    lags: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(rounds * 3):
        for name, found in lags.items():
            gate.play(name, SHORT + chance.random() / 2)
            _wait(container, gate.address, user, 60.0)
            returned = time.monotonic()
            found.append(returned - gate.opened())
    every = [lag for found in lags.values() for lag in found]
    return Outcome(
        "a login would succeed → the wait returns",
        "s",
        LAG_GOAL,
        statistics.quantiles(every, n=20)[-1],
        {f"after: {name}": Series(tuple(found)) for name, found in lags.items()},
        f"median of all {len(every)}: {statistics.median(every):.3f} s; the login itself takes its time, too (stand-in: 25 ms)",
        "95th percentile of all",
    )


def _cost(gate: Gate, container: str, user: Account) -> Outcome:
    series = {}
    for name in CASES:
        gate.play(name, BUSY)
        before, begun = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        _wait(container, gate.address, user, 60.0)
        after, seconds = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - begun
        gate.opened()
        series[f"while: {name}"] = Series(((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / seconds,))
    return Outcome(
        "processor time while waiting",
        "x",
        CPU_GOAL,
        max(each.median for each in series.values()),
        series,
        "of one core, with a look at the container every 0.1 s; what the engine and the database need comes on top",
        "largest",
    )


def _death(stage: Stage, image: str, rounds: int) -> Outcome:
    """Of the whole command; after its message it keeps the log and removes the container."""
    folder = stage.folder / "death"
    folder.mkdir()
    (folder / "tasks.py").write_text(TASKS, encoding="utf-8")
    config = [f"registry: {stage.registry}", f"namespace: {stage.namespace}", f"project: {stage.namespace}"]
    config += ["itest:", f"  image: {image}", "  run: ['true']"]
    (folder / "pipeline.yaml").write_text("\n".join(config) + "\n", encoding="utf-8")
    chance = random.Random(4)
    lags = tuple(_kill(stage, folder, 0.05 + chance.random() / 3) for _ in range(max(3, rounds)))
    return Outcome(
        "the database's process is killed → the command says so",
        "s",
        DEATH_GOAL,
        max(lags),
        {"kill → the message": Series(lags)},
        what="largest",
    )


def _kill(stage: Stage, folder: Path, after: float) -> float:
    """Seconds from the death of a database that is starting to the message about it."""
    engine = DockerEngine()
    command = subprocess.Popen(
        [INVOKE, "start-oracle"], cwd=folder, env=stage.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert command.stderr is not None
    found: list[Container] = []
    while not found and command.poll() is None:
        time.sleep(0.01)
        found = [container for container in engine.list_containers({PROJECT: stage.namespace}) if container.state == "running"]
    time.sleep(after)
    if command.poll() is None:
        kill_programs(found[0].id)
    killed = time.monotonic()
    said = []
    for line in command.stderr:
        said.append(line)
        if "ended with exit code" in line:
            break
    else:
        raise BenchmarkError(f"the start did not end with its database: {''.join(said)}")
    lag = time.monotonic() - killed
    command.communicate()
    return lag


def _wait(container: str, address: Address, user: Account, deadline: float) -> None:
    """As a start does it, with the same looks at the container."""
    engine = DockerEngine()

    def check_alive() -> None:
        found = look(engine, container)
        if found is None or found.state != "running":
            raise BenchmarkError(f"the database's container ended:\n{docker('logs', container)[-1000:]}")

    try:
        wait_until_ready(
            lambda patience: ORACLE.log_in(address, user, patience),
            check_alive,
            lambda: False,
            lambda: knock(address, ORACLE.knock),
            HealthCheck(deadline),
        )
    except NotReadyError as error:
        raise BenchmarkError(error.message) from error
