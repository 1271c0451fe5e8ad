"""Pictures and tables of the database benchmarks, for docs/database-figures.md: made from what `--only peers --save` has measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.cases import Outcome
from benchmarks.measure import Series
from benchmarks.stage import ROOT

DOCS = ROOT / "docs"
PAGE = DOCS / "database-figures.md"
BEGIN, END = "<!-- measured: python -m benchmarks --only peers --save -->", "<!-- end of what was measured -->"
# Case → its picture, its title. A case of a ratio begins with these words; its series are put together.
PICTURES = {
    "command to first query": ("database-first-query", "From the command to the first query's answer"),
    "20 tests": ("database-bracket", "The whole command: start, prepare, 20 tests, stop"),
    "the database says it is ready": ("database-lag", "From the database's own word that it is ready until the runner knows"),
    "last test": ("database-cleanup", "From the end of the last test until the container is gone"),
    "the runner is killed": ("database-killed", "From the death of the runner (SIGKILL) until the container is gone"),
    "memory of the largest": ("database-memory", "Memory of the runner's largest process"),
    "memory of all": ("database-memory-of-all", "Memory of all the runner's processes"),
}


def draw_peers(machine: Mapping[str, str], outcomes: Sequence[Outcome]) -> None:
    """Write the pictures, and the table of the page between its two marks."""
    parts = [", ".join(f"{name} {value}" for name, value in machine.items()) + "."]
    for words, (name, title) in PICTURES.items():
        mine = [outcome for outcome in outcomes if outcome.case.startswith(words)]
        if not mine:
            continue
        unit = "s" if mine[0].unit == "x" else mine[0].unit
        groups = _groups(mine)
        _draw(DOCS / f"{name}.svg", f"{title} ({unit}, median)", groups)
        parts += [f"### {title}", f"![{title}]({name}.svg)", _table(groups, unit), *_ratios(mine)]
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}", encoding="utf-8")


def _groups(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Series]]:
    """Preparation (empty where there is one only) → contender → its figures."""
    found: dict[str, dict[str, Series]] = {}
    for outcome in outcomes:
        preparation = ", ".join(outcome.case.split(", ")[1:-1]) if outcome.unit == "x" else ""
        found.setdefault(preparation, {}).update(outcome.series)
    return found


def _draw(path: Path, title: str, groups: Mapping[str, Mapping[str, Series]]) -> None:
    import pygal
    from pygal.style import CleanStyle

    chart = pygal.HorizontalBar(
        style=CleanStyle,
        js=(),
        width=720,
        height=180 + 60 * len(groups),
        legend_at_bottom=True,
        title=title,
        pretty_print=True,
        no_prefix=True,
        disable_xml_declaration=True,
        range=(0, None),
        print_values=True,
    )
    chart.x_labels = list(groups)
    for name in next(iter(groups.values())):
        chart.add(name, [round(group[name].median, 3) if name in group else None for group in groups.values()])
    path.write_text(chart.render(is_unicode=True), encoding="utf-8")


def _table(groups: Mapping[str, Mapping[str, Series]], unit: str) -> str:
    digits = 0 if unit == "MB" else 2
    lines = [f"| {unit}: smallest / median / largest | on the stand-in | on Oracle |", "| --- | --- | --- |"]
    for preparation, group in groups.items():
        for name, series in group.items():
            lines.append(f"| {name}{f', {preparation}' if preparation else ''} | {series.shown(unit, digits)} | |")
    return "\n".join(lines)


def _ratios(outcomes: Sequence[Outcome]) -> list[str]:
    told = [outcome for outcome in outcomes if outcome.unit == "x" and outcome.figure is not None]
    lines = [
        f"| {outcome.case.partition(', ')[2]} | {outcome.figure:.2f} | {outcome.goal:g} | {'yes' if outcome.met else 'no'} |"
        for outcome in told
    ]
    return ["\n".join(["| ratio of the medians | | goal at most | met |", "| --- | --- | --- | --- |", *lines])] if lines else []
