"""The test bracket beside testcontainers-python and pytest-docker: the same image, the same preparation, the same 20 tests."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from benchmarks.cases import MEMORY_GOAL, Outcome
from benchmarks.measure import BenchmarkError, Run, Series, run_command
from benchmarks.project import TASKS, commit
from benchmarks.stage import INVOKE, Stage, docker
from pipeline.sessions import PROJECT

TABLES, TESTS = 100, 20
PREPARATIONS = {f"{TABLES} empty tables": 0, f"{TABLES} tables, 10 rows in each": 10}  # → rows in each table
BRACKET_GOAL, QUERY_GOAL = 0.7, 0.5
LAG_GOAL, GONE_GOAL = 0.1, 30.0  # seconds
READY_LINE = "DATABASE IS READY TO USE!"
PATIENCE = 31.0  # seconds that a container may take to go after its runner was killed
SAMPLE = 0.05  # seconds between two looks at the memory of all processes
LABEL = "pipeline.benchmark.peer"
NOTE = "the stand-in is PostgreSQL behind Oracle's protocol: figures on it are PostgreSQL's"

# Each peer's own documented way; what is prepared and what is tested is the same text.
_TESTS = f"""
import os, time
import pytest

NOTES = os.environ["BENCHMARK_NOTES"]

def note(name):
    with open(os.path.join(NOTES, name), "w") as file:
        file.write(repr(time.time()))

@pytest.mark.parametrize("number", range({TESTS}))
def test_rows(connection, number):
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO TABLE_{{number:03}} (ID, NAME) VALUES (:1, :2)", [1000 + number, "one"])
        cursor.execute(f"SELECT COUNT(*) FROM TABLE_{{number:03}}")
        assert cursor.fetchone()[0] >= 1
    if number == 0:
        note("first-query")
    while os.path.exists(os.path.join(NOTES, "hold")):
        time.sleep(0.05)
    note("last-test")
"""
_OURS = """
import os
import oracledb, pytest

@pytest.fixture(scope="session")
def connection():
    with oracledb.connect(user=os.environ["DB_USER"], password=os.environ["DB_PASSWORD"], dsn=os.environ["DB_DSN"]) as connection:
        yield connection
"""
_PREPARE = """
import time

def note(name):
    with open(os.path.join(os.environ["BENCHMARK_NOTES"], name), "w") as file:
        file.write(repr(time.time()))

def prepare(connection):
    with open("prepare/tables.sql") as file, connection.cursor() as cursor:
        for statement in file.read().split(";"):
            if statement.strip():
                cursor.execute(statement)
    connection.commit()
"""
_TESTCONTAINERS = f"""
import os, secrets
import oracledb, pytest
from testcontainers.community.oracle import OracleDbContainer
{_PREPARE}
@pytest.fixture(scope="session")
def connection():
    password = secrets.token_hex(12)
    database = OracleDbContainer(os.environ["BENCHMARK_IMAGE"], oracle_password=password, username="app", password=password)
    with database.with_kwargs(labels={{"{LABEL}": os.environ["BENCHMARK_LABEL"]}}) as database:
        note("ready")
        dsn = f"{{database.get_container_host_ip()}}:{{database.get_exposed_port(1521)}}/FREEPDB1"
        with oracledb.connect(user="app", password=password, dsn=dsn) as connection:
            prepare(connection)
            yield connection
"""
_PYTEST_DOCKER = f"""
import os
import oracledb, pytest
{_PREPARE}
@pytest.fixture(scope="session")
def docker_compose_file():
    return "docker-compose.yml"

@pytest.fixture(scope="session")
def connection(docker_ip, docker_services):
    dsn = f"{{docker_ip}}:{{docker_services.port_for('database', 1521)}}/FREEPDB1"
    found = []
    def answers():
        try:
            found.append(oracledb.connect(user="app", password=os.environ["BENCHMARK_PASSWORD"], dsn=dsn))
        except oracledb.Error:
            return False
        return True
    docker_services.wait_until_responsive(timeout=60.0, pause=0.1, check=answers)
    note("ready")
    with found[0] as connection:
        prepare(connection)
        yield connection
"""
_COMPOSE = """
services:
  database:
    image: ${BENCHMARK_IMAGE}
    labels: {"pipeline.benchmark.peer": "${BENCHMARK_LABEL}"}
    environment: {ORACLE_PASSWORD: "${BENCHMARK_PASSWORD}", APP_USER: app, APP_USER_PASSWORD: "${BENCHMARK_PASSWORD}"}
    ports: ["127.0.0.1::1521"]
"""


def measure_peers(stage: Stage, rounds: int) -> list[Outcome]:
    """From the command to the first query of the first test, to the end of the command, and to the end of the database.

    The goals are those of a baked database; the same with its preparation stands beside them.
    """
    image = stage.own_image("oracle-standin")
    reason = _why_not_pytest_docker()
    found: list[Outcome] = []
    for preparation, rows in PREPARATIONS.items():
        contenders = _contenders(stage, image, rows, with_compose=not reason)
        for contender in contenders:
            contender.run()  # not counted
            contender.forget()
        for _ in range(max(3, rounds // 2)):  # in turn: what slows the machine down for a while slows all
            for contender in contenders:
                contender.run()
        found += _ratios(preparation, contenders)
        if not rows:
            found += _single_figures(contenders)
    if reason:
        found.append(Outcome(f"{TESTS} tests: pytest-docker", "x", BRACKET_GOAL, None, note=reason))
    return found


_PYTEST = [sys.executable, "-m", "pytest", "-q", "tests", "-p", "no:cacheprovider"]


@dataclass
class Contender:
    """One way to run the same tests on the same database, and the figures of its runs."""

    name: str
    ours: bool
    folder: Path
    command: list[str]
    environment: Mapping[str, str]
    label: str  # NAME=VALUE, on its container
    says: str = ""  # what shows that it did what it is measured for
    runs: list[Run] = field(default_factory=list)
    queries: list[float] = field(default_factory=list)
    cleanups: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Seconds until the first query was answered, to the end of the command, and from the last test until the container was gone."""
        begun = self._begin()
        run = run_command(self.command, self.folder, self.environment)
        if self.says not in run.output:
            raise BenchmarkError(f"{self.name} did not say '{self.says}':\n{run.output}")
        self.runs.append(run)
        self.queries.append(self._noted("first-query") - begun)
        self.cleanups.append(max(self._gone_since(begun)) - self._noted("last-test"))

    def forget(self) -> None:
        for figures in (self.runs, self.queries, self.cleanups):  # type: list[Run] | list[float]
            figures.clear()

    def memory_of_all(self) -> float:
        """The most that all its processes have at a time, in MB; what they share counts once."""
        self._begin()
        process = self._start()
        most = 0.0
        while process.poll() is None:
            most = max(most, sum(_pss(pid) for pid in _tree(process.pid)))
            time.sleep(SAMPLE)
        return most / 1e3

    def lag_and_end(self) -> tuple[float, float]:
        """Seconds from the database's own word that it is ready until this runner said so; and until it is gone when the runner is killed."""
        self._begin()
        (self._notes / "hold").touch()
        process = self._start()
        try:
            said = self._wait_until_held(process)
            lag = (self._noted("ready") if not self.ours else said) - self._ready_line()
            process.kill()
            killed = time.monotonic()
            process.wait()
            while docker("ps", "--all", "--quiet", "--filter", f"label={self.label}").split() and time.monotonic() < killed + PATIENCE:
                time.sleep(0.2)
            return lag, time.monotonic() - killed
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            (self._notes / "hold").unlink()
            left = docker("ps", "--all", "--quiet", "--filter", f"label={self.label}").split()
            if left:
                docker("rm", "--force", "--volumes", *left)

    @property
    def _notes(self) -> Path:
        return self.folder / "notes"

    def _begin(self) -> float:
        """The time, on the clock that the tests read, too, in their own process."""
        self._notes.mkdir(exist_ok=True)
        for path in self._notes.iterdir():
            path.unlink()
        return time.time()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command,
            cwd=self.folder,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "said").open("w", encoding="utf-8"),
            text=True,
            start_new_session=True,
        )

    def _wait_until_held(self, process: subprocess.Popen[str]) -> float:
        """When the runner said that the database is ready."""
        said = 0.0
        while not (self._notes / "first-query").exists():
            if process.poll() is not None:
                raise BenchmarkError(f"{self.name} ended: {(self.folder / 'said').read_text(encoding='utf-8')}")
            if not said and "database: ready" in (self.folder / "said").read_text(encoding="utf-8"):
                said = time.time()
            time.sleep(0.005)
        return said

    def _noted(self, name: str) -> float:
        return float((self._notes / name).read_text(encoding="utf-8"))

    def _gone_since(self, begun: float) -> list[float]:
        """When its containers were gone, as the engine has it."""
        until = f"{time.time() + 1:.3f}"
        window = ("--since", f"{begun:.3f}", "--until", until)
        events = docker("events", *window, "--filter", "event=destroy", "--filter", f"label={self.label}", "--format", "{{.TimeNano}}")
        if not events:
            raise BenchmarkError(f"{self.name} removed no container")
        return [int(nanoseconds) / 1e9 for nanoseconds in events.split()]

    def _ready_line(self) -> float:
        container = docker("ps", "--quiet", "--filter", f"label={self.label}").split()[0]
        both = subprocess.run(["docker", "logs", "--timestamps", container], capture_output=True, text=True, check=True)
        line = next(line for line in (both.stdout + both.stderr).splitlines() if READY_LINE in line)
        day, _, second = line.split()[0].removesuffix("Z").partition(".")
        return datetime.fromisoformat(f"{day}+00:00").timestamp() + float(f"0.{second}")


def _contenders(stage: Stage, image: str, rows: int, with_compose: bool) -> list[Contender]:
    def make(name: str, fixture: str, command: list[str], bake: str = "", environment: Mapping[str, str] | None = None) -> Contender:
        folder = stage.folder / f"peers-{name.replace(' ', '-')}-{rows}"
        _write_project(folder, _config(stage, image, bake or "never"), fixture, rows)
        label = f"{PROJECT}={stage.namespace}" if bake else f"{LABEL}={stage.namespace}"
        own = {"BENCHMARK_NOTES": str(folder / "notes"), "BENCHMARK_LABEL": stage.namespace, "BENCHMARK_IMAGE": image}
        says = {"local": "no preparation is run", "never": "prepare: "}.get(bake, "")
        return Contender(name, bool(bake), folder, command, {**stage.environment, **own, **(environment or {})}, label, says)

    found = [make("itest baked", _OURS, [INVOKE, "itest"], "local"), make("itest prepared", _OURS, [INVOKE, "itest"], "never")]
    run_command([INVOKE, "db.bake"], found[0].folder, found[0].environment)
    # Its reaper's image comes from a public registry; without it this peer is quicker, and leaves what it made when it is killed.
    found.append(make("testcontainers", _TESTCONTAINERS, _PYTEST, environment={"TESTCONTAINERS_RYUK_DISABLED": "true"}))
    if with_compose:
        found.append(make("pytest-docker", _PYTEST_DOCKER, _PYTEST, environment={"BENCHMARK_PASSWORD": secrets.token_hex(12)}))
    return found


def _ratios(preparation: str, contenders: Sequence[Contender]) -> list[Outcome]:
    """Each of ours beside each peer; and the seconds from the last test until the database is gone."""
    found = []
    for peer in (each for each in contenders if not each.ours):
        for mine in (each for each in contenders if each.ours):
            case = f"{preparation}, {mine.name} : {peer.name}"
            whole = {each.name: Series(tuple(run.seconds for run in each.runs)) for each in (mine, peer)}
            first = {each.name: Series(tuple(each.queries)) for each in (mine, peer)}
            found.append(Outcome(f"{TESTS} tests, {case}", "x", BRACKET_GOAL, _ratio(whole), whole, NOTE))
            found.append(Outcome(f"command to first query, {case}", "x", QUERY_GOAL, _ratio(first), first, NOTE))
    return found


def _single_figures(contenders: Sequence[Contender]) -> list[Outcome]:
    """What is a figure of each for itself; the goals are ours."""
    cleanup = {each.name: Series(tuple(each.cleanups)) for each in contenders}
    largest = {each.name: Series(tuple(run.memory for run in each.runs)) for each in contenders}
    every = {each.name: Series((each.memory_of_all(),)) for each in contenders}
    ends = {each.name: [each.lag_and_end() for _ in range(3 if each.ours else 1)] for each in contenders}
    lags = {name: Series(tuple(lag for lag, _ in pairs)) for name, pairs in ends.items()}
    killed = {name: Series(tuple(end for _, end in pairs)) for name, pairs in ends.items()}
    baked = contenders[0].name
    stayed = ", ".join(name for name, series in killed.items() if max(series.values) >= PATIENCE) or "none"
    return [
        Outcome("the database says it is ready → the runner says so", "s", LAG_GOAL, max(lags[baked].values), lags, NOTE, "largest, baked"),
        Outcome("last test → the container is gone", "s", 1.0, cleanup[baked].median, cleanup, NOTE, "median, baked"),
        Outcome(
            "the runner is killed → the container is gone",
            "s",
            GONE_GOAL,
            max(killed[baked].values),
            killed,
            f"still there after {PATIENCE:.0f} s: {stayed}; testcontainers' own reaper needs the engine's socket and was off",
            "largest, baked",
        ),
        Outcome("memory of the largest process", "MB", MEMORY_GOAL, max(largest[baked].values), largest, what="largest, baked"),
        Outcome("memory of all processes", "MB", 2 * MEMORY_GOAL, every[baked].median, every, "the database is not among them", "baked"),
    ]


def _ratio(series: Mapping[str, Series]) -> float:
    first, second = series.values()
    return first.median / second.median


def _tree(root: int) -> Iterator[int]:
    """A process and all that it has started, as they are now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    waiting = [root]
    while waiting:
        yield (found := waiting.pop())
        waiting += children.get(found, [])


def _pss(pid: int) -> float:
    """Memory of a process in kB, a page that n processes share counted as 1/n (proc(5), smaps_rollup)."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith("Pss:"):
                return float(line.split()[1])
    return 0.0


def _why_not_pytest_docker() -> str:
    if importlib.util.find_spec("pytest_docker") is None:
        return "pytest-docker is not installed: pip install pytest-docker"
    compose = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return "" if compose.returncode == 0 else "docker compose is not installed (Debian, Ubuntu: docker-compose-v2 or docker-compose)"


def _config(stage: Stage, image: str, bake: str) -> str:
    lines = [f"registry: {stage.registry}", f"namespace: {stage.namespace}", "itest:", f"  image: {image}", f"  bake: {bake}"]
    lines.append("  prepare: [{sql: prepare}]")
    return "\n".join([*lines, "  run: [python, -m, pytest, -q, tests, -p, 'no:cacheprovider']"]) + "\n"


def _write_project(folder: Path, config: str, fixture: str, rows: int) -> None:
    tables = []
    for number in range(TABLES):
        tables.append(f"CREATE TABLE TABLE_{number:03} (ID INTEGER PRIMARY KEY, NAME VARCHAR2(100))")
        tables += [f"INSERT INTO TABLE_{number:03} VALUES ({row}, 'row {row}')" for row in range(rows)]
    files = {
        "tasks.py": TASKS,
        ".gitignore": ".pipeline/\n__pycache__/\nnotes/\nsaid\n",
        "pipeline.yaml": config,
        "prepare/tables.sql": ";\n".join(tables) + ";\n",
        "docker-compose.yml": _COMPOSE,
        "tests/conftest.py": fixture,
        "tests/test_rows.py": _TESTS,
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    commit(folder)
