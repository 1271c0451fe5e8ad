"""The benchmark command: measures, prints, and saves only when asked to."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.baking import measure_baking
from benchmarks.cases import Outcome, measure_few_images, measure_itest, measure_list, measure_many_images
from benchmarks.change import measure_change
from benchmarks.figures import draw_peers
from benchmarks.measure import BenchmarkError
from benchmarks.peers import measure_peers
from benchmarks.readiness import measure_readiness
from benchmarks.report import as_document, describe_machine, show
from benchmarks.scale import draw_scale, measure_explain, measure_scale
from benchmarks.scheduling import measure_scheduling
from benchmarks.stage import Stage
from benchmarks.states import measure_states

CASES: dict[str, Callable[[Stage, int], list[Outcome]]] = {
    "few": measure_few_images,
    "many": measure_many_images,
    "explain": measure_explain,
    "change": measure_change,
    "scale": measure_scale,
    "scheduling": measure_scheduling,
    "list": measure_list,
    "itest": measure_itest,
    "states": measure_states,
    "baking": measure_baking,
    "readiness": measure_readiness,
    "peers": measure_peers,
}
RESULTS = Path(__file__).with_name("results.json")


def main(arguments: Sequence[str] = ()) -> int:
    """Run the cases; exit code 0 if all could be measured, goals met or not, 1 if a measured command failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="This project beside docker buildx bake and bare invoke.")
    parser.add_argument("--only", choices=CASES, action="append", help="a case; may be given several times (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each command (default: 7)")
    parser.add_argument("--save", action="store_true", help=f"keep the figures in benchmarks/{RESULTS.name}")
    options = parser.parse_args(arguments)
    previous = signal.signal(signal.SIGTERM, _interrupt)  # unwinds like Ctrl-C, so that everything is taken away
    outcomes: list[Outcome] = []
    try:
        machine = describe_machine()
        print("\n".join(f"{name:12} {value}" for name, value in machine.items()), flush=True)
        print(f"{options.rounds} rounds or more, in turn; smallest / median / largest\n", flush=True)
        with Stage() as stage:
            for name in options.only or CASES:
                measured = CASES[name](stage, options.rounds)
                outcomes += measured
                print("\n".join(show(outcome) for outcome in measured), flush=True)
                if name == "scale" and options.save:
                    draw_scale(measured)
                if name == "peers" and options.save:
                    draw_peers(machine, measured)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
    if options.save:
        document = as_document(machine, outcomes, _kept(outcomes))
        RESULTS.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"\nsaved: {RESULTS}")
    return 0


def _kept(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The cases of earlier runs that were not measured now; each says when it was."""
    if not RESULTS.exists():
        return []
    document = json.loads(RESULTS.read_text(encoding="utf-8"))
    now = {outcome.case for outcome in outcomes}
    return [{"date": document["date"], "pipeline": document["pipeline"], **case} for case in document["cases"] if case["case"] not in now]


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
