"""Three hundred linked images built from nothing: how near to the shortest possible time, and whether bake can do it at all."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.cases import BAKE, Outcome
from benchmarks.measure import BenchmarkError, Series, run_command
from benchmarks.project import Project, make_project, make_tree
from benchmarks.stage import INVOKE, Stage
from pipeline.images.schedule import shortest_makespan

JOBS = 2
TREE, CHAIN = 200, 100  # images: a tree, and on its last leaf a chain that is as long as a third of all
GOAL = 1.10


def measure_scheduling(stage: Stage, rounds: int) -> list[Outcome]:
    """The whole command's time beside what no schedule can beat: the critical path or the work, of the same run's builds."""
    took, shortest = [], []
    for number in range(max(1, rounds // 5)):
        project = _make_hierarchy(stage, f"schedule-{number}")
        run = run_command([INVOKE, "build", "--jobs", str(JOBS)], project.root, stage.environment)
        seconds = json.loads((project.root / ".pipeline" / "durations.json").read_text(encoding="utf-8"))
        if seconds.keys() != project.images.keys():
            raise BenchmarkError(f"{len(seconds)} of {len(project.images)} images were built:\n{run.output[-2000:]}")
        needs = {name: [parent] if parent else [] for name, parent in project.images.items()}
        took.append(run.seconds)
        shortest.append(shortest_makespan(needs, seconds, JOBS))
    series = {f"invoke build --jobs {JOBS}": Series(tuple(took)), "critical path, or work / jobs": Series(tuple(shortest))}
    first, second = series.values()
    return [
        Outcome(
            f"{TREE + CHAIN} linked images from nothing : the shortest possible",
            "x",
            GOAL,
            first.median / second.median,
            series,
            f"docker buildx bake of the same: {_bake(_make_hierarchy(stage, 'schedule-bake'), stage)}",
        )
    ]


def _make_hierarchy(stage: Stage, name: str) -> Project:
    images = make_tree(TREE)
    parent = list(images)[-1]
    for number in range(TREE, TREE + CHAIN):
        images[f"image-{number}"] = parent
        parent = f"image-{number}"
    project = make_project(stage.folder / name, images, stage.base, stage.registry, f"{stage.namespace}/{name}", files=1)
    _make_new(project.root, name)
    return project


def _make_new(root: Path, name: str) -> None:
    """A file of its own for the first image: BuildKit has nothing of it, nor of what is built on it, in its cache."""
    (root / "dockerfiles" / "image-00" / "files" / "own").write_text(name, encoding="utf-8")


def _bake(project: Project, stage: Stage) -> str:
    try:
        run = run_command(BAKE, project.root, stage.environment)
    except BenchmarkError as error:
        reason = next((line for line in reversed(str(error).splitlines()) if line.startswith("ERROR: ")), "ERROR")
        return f"fails ({reason.removeprefix('ERROR: ')[:60].strip()})"
    return f"{run.seconds:.1f} s"
