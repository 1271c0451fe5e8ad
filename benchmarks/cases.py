"""What is measured, each case with the goal it is held to."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field

from benchmarks.measure import BenchmarkError, Run, Series, in_turn, memory_of, run_command, seconds_of
from benchmarks.project import BAKE_FILE, TASKS, Project, make_chain, make_project, make_tree
from benchmarks.stage import INVOKE, Stage, docker

BAKE = ("docker", "buildx", "bake", "--file", BAKE_FILE, "--progress", "plain")
DATABASE_DEADLINE = 120.0  # seconds
MEMORY_GOAL = 120.0  # MB


@dataclass(frozen=True)
class Outcome:
    """One figure beside its goal (both `unit`), with the series it was made from: what was measured → figures.

    `figure` is None where it could not be measured; `note` says why, or what must be known to read it.
    """

    case: str
    unit: str
    goal: float
    figure: float | None
    series: dict[str, Series] = field(default_factory=dict)
    note: str = ""
    what: str = ""  # how the figure was made from the series, where the unit does not say so

    @property
    def met(self) -> bool | None:
        return None if self.figure is None else self.figure <= self.goal


def measure_few_images(stage: Stage, rounds: int) -> list[Outcome]:
    """Four images on each other, as ubuntu → jdk → tomcat → application."""
    project = make_project(stage.folder / "few", make_chain(4), stage.base, stage.registry, f"{stage.namespace}/few")
    return _measure_no_op(stage, project, rounds, 0.9, "no-op of 4 linked images")


def measure_many_images(stage: Stage, rounds: int) -> list[Outcome]:
    """Fifty images, three on each, with 20,000 files."""
    project = make_project(stage.folder / "many", make_tree(50), stage.base, stage.registry, f"{stage.namespace}/many", files=400)
    return _measure_no_op(stage, project, rounds, 0.08, "no-op of 50 linked images, 20,000 files")


def measure_list(stage: Stage, rounds: int) -> list[Outcome]:
    """What each command line costs before it does anything."""
    ours, empty = stage.folder / "list", stage.folder / "empty"
    for folder, text in ((ours, TASKS), (empty, 'from invoke import task\n\n\n@task\ndef one(context):\n    """The only task."""\n')):
        folder.mkdir()
        (folder / "tasks.py").write_text(text, encoding="utf-8")
    a, b = in_turn(
        lambda: run_command([INVOKE, "--list"], ours, stage.environment),
        lambda: run_command([INVOKE, "--list"], empty, stage.environment),
        rounds * 2,
    )
    series = {"invoke --list": seconds_of(a), "invoke --list, one empty task": seconds_of(b)}
    return [Outcome("invoke --list", "x", 1.3, _ratio(series), series)]


def measure_itest(stage: Stage, rounds: int) -> list[Outcome]:
    """What the bracket adds: all of `invoke itest`, whose test command does nothing, without the database's own start."""
    name = "itest's own overhead"
    folder = stage.folder / "itest"
    folder.mkdir()
    (folder / "tasks.py").write_text(TASKS, encoding="utf-8")
    if " itest " not in run_command([INVOKE, "--list"], folder, stage.environment).output:
        return [Outcome(name, "s", 1.0, None, note="there is no task itest")]
    image = stage.own_image("oracle-standin")
    config = [f"registry: {stage.registry}", f"namespace: {stage.namespace}", "itest:", f"  image: {image}", "  run: ['true']"]
    (folder / "pipeline.yaml").write_text("\n".join(config) + "\n", encoding="utf-8")
    a, b = in_turn(
        lambda: run_command([INVOKE, "itest"], folder, stage.environment), lambda: _start_database(stage, image), max(3, rounds // 2)
    )
    series = {"invoke itest": seconds_of(a), "docker run until a login succeeds": seconds_of(b)}
    overhead = series["invoke itest"].median - series["docker run until a login succeeds"].median
    return [
        Outcome(
            name,
            "s",
            1.0,
            overhead,
            series,
            "the test command is `true`; removing the database counts as overhead, the start of the docker command does not",
        )
    ]


def _measure_no_op(stage: Stage, project: Project, rounds: int, goal: float, name: str) -> list[Outcome]:
    """Both have built everything already; ours has pushed it, too, and verifies that in the registry each time."""

    def ours(check: bool = True) -> Run:
        run = run_command([INVOKE, "build", "push"], project.root, stage.environment)
        _expect(not check or count_published(run) == len(project.images), "invoke build push", run)
        return run

    def bake(check: bool = True) -> Run:
        run = run_command(BAKE, project.root, stage.environment)
        _expect(not check or run.output.count(" CACHED") >= len(project.images), "docker buildx bake", run)
        return run

    ours(check=False)
    bake(check=False)
    a, b = in_turn(ours, bake, rounds)
    series = {"invoke build push": seconds_of(a), "docker buildx bake": seconds_of(b)}
    memory = {"invoke build push": memory_of(a)}
    return [
        Outcome(
            name, "x", goal, _ratio(series), series, "ours includes the push, verified in a registry; bake pushes and verifies nothing"
        ),
        Outcome(f"memory, {name}", "MB", MEMORY_GOAL, max(memory["invoke build push"].values), memory, "of its largest process"),
    ]


def count_published(run: Run) -> int:
    """How many images `invoke push` found published already."""
    return sum(line.startswith("image-") and line.endswith(": published already") for line in run.output.splitlines())


def _expect(holds: bool, what: str, run: Run) -> None:
    if not holds:
        raise BenchmarkError(f"{what} found something to do where nothing had changed:\n{run.output}")


def _ratio(series: dict[str, Series]) -> float:
    first, second = series.values()
    return first.median / second.median


def _start_database(stage: Stage, image: str) -> Run:
    """A database started by hand until its application's user has logged in; removed afterwards, off the clock."""
    from pipeline.adapters.oracle_driver import OracleDriver

    driver = OracleDriver()
    variables = {"ORACLE_PASSWORD": secrets.token_hex(12), "APP_USER": "app", "APP_USER_PASSWORD": secrets.token_hex(12)}
    options = [part for name in variables for part in ("--env", name)]  # names only: the values are in no command line

    def failure(port: int) -> object:
        dsn = f"127.0.0.1:{port}/FREEPDB1"
        return asyncio.run(driver.try_login(dsn, "app", variables["APP_USER_PASSWORD"], "SELECT 1 FROM DUAL", 2.0))

    begun = time.perf_counter()
    container, port = stage.start_container(image, 1521, *options, environment=variables)
    while (reason := failure(port)) is not None:
        if time.perf_counter() - begun > DATABASE_DEADLINE:
            raise BenchmarkError(f"the database was not ready after {DATABASE_DEADLINE:.0f} s: {reason}")
        time.sleep(0.02)
    seconds = time.perf_counter() - begun
    docker("rm", "--force", "--volumes", container)
    return Run(seconds, 0.0, "")
