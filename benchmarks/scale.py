"""How cost grows with the number of images: a plan, an explained plan, and a build and push with nothing to do."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cases import Outcome, count_published
from benchmarks.measure import BenchmarkError, Run, Series, memory_of, run_command, seconds_of
from benchmarks.project import make_project, make_tree
from benchmarks.stage import INVOKE, ROOT, Stage

COUNTS = (10, 50, 200, 1000)
PLAN_GOAL = 2.0  # seconds, 1,000 images
PLAN_MEMORY_GOAL = 200.0  # MB, 1,000 images
STEADY = 1.5  # times as much for each image added beyond 200 as for each one up to 200
PLOT = ROOT / "docs" / "cost-of-images.svg"
MIDDLE = 200


def measure_scale(stage: Stage, rounds: int) -> list[Outcome]:
    """The same tree of images, cut off at 10, 50, 200 and 1,000; all built and published, 20 files each."""
    plans: dict[int, Series] = {}
    no_ops: dict[int, Series] = {}
    memory = Series((0.0,))
    for count in COUNTS:
        folder = stage.folder / f"scale-{count}"
        make_project(folder, make_tree(count), stage.base, stage.registry, f"{stage.namespace}/scale")
        run_command([INVOKE, "build", "push"], folder, stage.environment)
        runs = [_plan(stage, folder) for _ in range(max(3, rounds // 2))]
        plans[count], memory = seconds_of(runs), memory_of(runs)
        no_ops[count] = seconds_of([_no_op(stage, folder, count) for _ in range(max(3, rounds // 2))])
    largest = COUNTS[-1]
    return [
        Outcome(
            f"plan of {largest:,} images",
            "s",
            PLAN_GOAL,
            plans[largest].median,
            {f"{count:,} images": plans[count] for count in COUNTS},
            what="median of the largest",
        ),
        Outcome(f"memory, plan of {largest:,} images", "MB", PLAN_MEMORY_GOAL, max(memory.values), {"invoke plan": memory}),
        Outcome("plan: an image beyond 200 : one up to 200", "x", STEADY, _growth(plans), what="ratio of the slopes"),
        Outcome(
            "no-op: an image beyond 200 : one up to 200",
            "x",
            STEADY,
            _growth(no_ops),
            {f"build push, {count:,} images": no_ops[count] for count in COUNTS},
            what="ratio of the slopes",
        ),
    ]


def draw_scale(outcomes: list[Outcome], path: Path = PLOT) -> None:
    """The curve as a picture, from the series of `measure_scale`."""
    import pygal
    from pygal.style import CleanStyle

    chart = pygal.XY(
        style=CleanStyle,
        js=(),
        width=720,
        height=420,
        legend_at_bottom=True,
        x_title="images",
        y_title="seconds (median)",
        title="Nothing to do: time against the number of images",
        pretty_print=True,
        no_prefix=True,
        disable_xml_declaration=True,
        range=(0, None),
    )
    for title, outcome in (("invoke plan", outcomes[0]), ("invoke build push, verified in the registry", outcomes[3])):
        points = zip(COUNTS, (series.median for series in outcome.series.values()), strict=True)
        chart.add(title, [(count, round(seconds, 3)) for count, seconds in points])
    path.write_text(chart.render(is_unicode=True), encoding="utf-8")


def measure_explain(stage: Stage, rounds: int) -> list[Outcome]:
    """Fifty images; one file of the root has changed, so that each image has a cause."""
    project = make_project(stage.folder / "explain", make_tree(50), stage.base, stage.registry, f"{stage.namespace}/explain")
    run_command([INVOKE, "build", "push"], project.root, stage.environment)
    changed = next((project.root / "dockerfiles" / "image-00" / "files").rglob("file-00"))
    changed.write_text("changed", encoding="utf-8")
    runs = []
    for _ in range(rounds):
        run = run_command([INVOKE, "plan", "--explain"], project.root, stage.environment)
        if run.output.count("parent: ") != len(project.images) - 1 or "file-00 changed" not in run.output:
            raise BenchmarkError(f"the plan explains something else:\n{run.output}")
        runs.append(run)
    series = seconds_of(runs)
    return [Outcome("plan --explain of 50 images", "s", 0.3, series.median, {"invoke plan --explain": series}, what="median")]


def _plan(stage: Stage, folder: Path) -> Run:
    return run_command([INVOKE, "plan"], folder, stage.environment)


def _no_op(stage: Stage, folder: Path, count: int) -> Run:
    run = run_command([INVOKE, "build", "push"], folder, stage.environment)
    if count_published(run) != count:
        raise BenchmarkError(f"build push found something to do where nothing had changed:\n{run.output[-2000:]}")
    return run


def _growth(series: dict[int, Series]) -> float:
    first, last = COUNTS[0], COUNTS[-1]
    early = (series[MIDDLE].median - series[first].median) / (MIDDLE - first)
    late = (series[last].median - series[MIDDLE].median) / (last - MIDDLE)
    return late / early
