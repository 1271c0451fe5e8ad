"""The figures for people and for programs, with the machine and the versions they belong to."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.cases import Outcome
from benchmarks.stage import ROOT, docker

_DIGITS = {"s": 3, "x": 2, "MB": 0, "kB": 1}


def describe_machine() -> dict[str, str]:
    """What the figures depend on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "machine": f"{os.cpu_count()} × {_processor()}, {memory:.0f} GB, {platform.system()} {platform.release()}",
        "load before": load,
        "python": platform.python_version(),
        "invoke": version("invoke"),
        "engine": docker("version", "--format", "{{.Server.Version}}").strip(),
        "buildx": docker("buildx", "version").split()[1],
        "pipeline": commit.stdout.strip() or version("pipeline"),
    }


def show(outcome: Outcome) -> str:
    """A few lines: each series with smallest, median and largest, then the figure beside its goal."""
    lines = [outcome.case]
    digits = _DIGITS[outcome.unit]
    unit, places = ("s", 3) if outcome.unit == "x" else (outcome.unit, digits)
    lines += [f"  {name:36} {series.shown(unit, places)}" for name, series in outcome.series.items()]
    if outcome.figure is None:
        lines.append(f"  NOT MEASURED: {outcome.note}")
        return "\n".join(lines)
    what = outcome.what or {"x": "ratio of the medians", "s": "difference of the medians", "MB": "largest", "kB": "largest"}[outcome.unit]
    verdict = "met" if outcome.met else "NOT MET"
    lines.append(f"  {what:36} {outcome.figure:.{digits}f} {outcome.unit}   goal ≤ {outcome.goal:g} {outcome.unit}: {verdict}")
    return "\n".join([*lines, *([f"  ({outcome.note})"] if outcome.note else [])])


def as_document(machine: dict[str, str], outcomes: Sequence[Outcome], kept: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The same for results.json: every single figure is kept, also of cases that were measured earlier."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **machine,
        "cases": [*({**asdict(outcome), "met": outcome.met} for outcome in outcomes), *kept],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
