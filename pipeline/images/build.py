"""Carrying a build plan out: parents first, of what can begin the longest way first, as many at the same time as asked for."""

from __future__ import annotations

import contextlib
import json
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

import msgspec

from pipeline.errors import EngineError, PipelineError
from pipeline.images.fingerprint import Input
from pipeline.images.plan import BuildPlan, Step
from pipeline.images.progress import Event, Progress
from pipeline.images.schedule import Schedule, estimate_seconds
from pipeline.reference import Reference
from pipeline.state_files import write_whole

INPUTS_FOLDER = "inputs"  # below .pipeline/: what the last build of each image was made of, only to name reasons
DURATIONS_FILE = "durations.json"  # below .pipeline/: how long the last build of each image took, only to order builds
REPORT_WIDTH = 110  # of the lines that list images


class Result(msgspec.Struct, frozen=True):
    """What became of one image: the plan's action, or `push`. `seconds`: wall time of it."""

    step: Step
    action: str
    image_id: str
    seconds: float
    digest: str = ""


class Workshop(Protocol):
    """Where images are made: an engine with BuildKit."""

    def prepare_base(self, step: Step) -> None:
        """Make sure that a root's base can be built upon."""

    def build(self, step: Step, tags: tuple[Reference, ...], use_cache: bool, report: Callable[[str], None]) -> str:
        """Build; return the image id. `report` is told each instruction of the Dockerfile as it begins."""

    def pull(self, content: Reference) -> str:
        """Get an image from the registry under its content tag; return the image id."""

    def tag(self, image_id: str, reference: Reference) -> None:
        """Let a tag name an image."""

    def cancel(self) -> None:
        """End what is being built, now."""


def build_images(
    plan: BuildPlan,
    open_workshop: Callable[[], Workshop],
    state: Path,
    jobs: int,
    progress: Progress,
    keep_going: bool = False,
    use_cache: bool = True,
) -> tuple[Result, ...]:
    """Carry out every step, at most `jobs` at the same time.

    After a failure nothing new begins, and what is being built is finished: its image can be used by the next run. With
    `keep_going` all that does not depend on the failed image is built, too. Then the first error is raised, or one that tells all.
    """
    results: dict[str, Result] = {}
    waiting = {step.name: step for step in plan.steps if step.action not in ("none", "skip")}
    workshop = open_workshop() if waiting else None  # with nothing to do: no thread, no process
    for step in plan.steps:
        if step.name in waiting:
            progress(Event(step.name, "waiting"))
        else:
            results[step.name] = _unchanged(step, progress)
    if workshop:
        _carry_out_all(waiting, results, workshop, state, max(jobs, 1), progress, keep_going, use_cache)
    return tuple(results[step.name] for step in plan.steps)


def recorded_durations(state: Path) -> dict[str, float]:
    """Image → seconds that its last build in this checkout took."""
    try:
        found = json.loads((state / DURATIONS_FILE).read_text(encoding="utf-8"))
        return {str(name): max(float(seconds), 0.0) for name, seconds in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # only a convenience


def recorded_inputs(state: Path, names: Iterable[str]) -> dict[str, tuple[Input, ...]]:
    """Image → inputs of its last build in this checkout, of those images that have one."""
    found = {}
    for name in names:
        try:
            text = (state / INPUTS_FOLDER / f"{name}.json").read_text(encoding="utf-8")
            found[name] = tuple(Input(*item) for item in json.loads(text))
        except (OSError, ValueError, TypeError):
            continue  # only a convenience
    return found


def as_json(results: tuple[Result, ...]) -> dict[str, Any]:
    """The document that `invoke build --json` and `invoke push --json` print."""
    return {
        "images": [
            {
                "name": result.step.name,
                "fingerprint": result.step.fingerprint.value,
                "action": result.action,
                "references": [str(reference) for reference in result.step.references],
                "image_id": result.image_id or None,
                "digest": result.digest or None,
                "seconds": round(result.seconds, 3),
            }
            for result in results
        ]
    }


def _carry_out_all(
    waiting: Mapping[str, Step],
    results: dict[str, Result],
    workshop: Workshop,
    state: Path,
    jobs: int,
    progress: Progress,
    keep_going: bool,
    use_cache: bool,
) -> None:
    """Carry out what waits, into `results`."""
    made = {name for name, step in waiting.items() if step.action in ("build", "pull")}
    # Only a build needs other images; the tag or the pull of an image whose parent is being pulled need not wait for it.
    needs = {name: made.intersection(step.needs) if step.action == "build" else () for name, step in waiting.items()}
    timed = recorded_durations(state)
    builds = estimate_seconds([name for name, step in waiting.items() if step.action == "build"], timed)
    schedule = Schedule(needs, {name: builds.get(name, 0.0) for name in waiting})
    failed: dict[str, PipelineError] = {}
    lost: dict[str, tuple[str, ...]] = {}  # failed image → those that were not built because of it
    running: dict[Future[Result], Step] = {}
    stopped = False
    cancelled = threading.Event()
    pool = ThreadPoolExecutor(max_workers=min(jobs, len(waiting)))
    try:
        while running or (schedule and not stopped):
            while schedule and not stopped and len(running) < jobs:
                step = waiting[schedule.take()]
                running[pool.submit(_carry_out, step, workshop, state, progress, use_cache, cancelled)] = step
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                step = running.pop(future)
                try:
                    results[step.name] = future.result()
                    schedule.done(step.name)
                except PipelineError as error:
                    failed[step.name] = error
                    lost[step.name] = schedule.fail(step.name)
                    for name in lost[step.name]:
                        progress(Event(name, "skipped", step=f"made from {step.name}"))
                    stopped = stopped or not keep_going or isinstance(error, EngineError)  # without an engine nothing can be built
    except BaseException:
        cancelled.set()
        workshop.cancel()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        _record_durations(state, timed, [results[name] for name in waiting if name in results])
    if failed:
        raise _report(failed, lost if keep_going else {})


def _carry_out(step: Step, workshop: Workshop, state: Path, progress: Progress, use_cache: bool, cancelled: threading.Event) -> Result:
    start = time.monotonic()
    try:
        result = _tag(step, workshop, progress) if step.action == "tag" else _make(step, workshop, progress, use_cache)
    except PipelineError:
        if not cancelled.is_set():
            progress(Event(step.name, "failed", f"failed after {time.monotonic() - start:.1f} s"))
        raise
    _record_inputs(state, step)
    return result


def _tag(step: Step, workshop: Workshop, progress: Progress) -> Result:
    start = time.monotonic()
    progress(Event(step.name, "tagging"))
    image_id = step.image.id if step.image else str(step.content)
    for reference in (step.commit, step.branch):
        workshop.tag(image_id, reference)
    progress(Event(step.name, "unchanged", f"unchanged, tagged {step.commit.tag} and {step.branch.tag}"))
    return Result(step, "tag", image_id, time.monotonic() - start, step.registry_digest)


def _make(step: Step, workshop: Workshop, progress: Progress, use_cache: bool) -> Result:
    start = time.monotonic()
    why = "; ".join(reason.what for reason in step.reasons[:3]) + ("; …" if len(step.reasons) > 3 else "")
    if step.action == "build":
        progress(Event(step.name, "building", f"build ({why})"))
        if step.definition.base:
            workshop.prepare_base(step)
        image_id = workshop.build(
            step, step.references, use_cache, lambda instruction: progress(Event(step.name, "building", step=instruction))
        )
        digest = ""
    else:
        progress(Event(step.name, "pulling", f"pull ({why})"))
        image_id, digest = workshop.pull(step.content), step.registry_digest
        progress(Event(step.name, "tagging"))
        for reference in (step.commit, step.branch):
            workshop.tag(image_id, reference)
    seconds = time.monotonic() - start
    progress(Event(step.name, "done", f"done in {seconds:.1f} s"))
    return Result(step, step.action, image_id, seconds, digest)


def _unchanged(step: Step, progress: Progress) -> Result:
    if step.action == "skip":
        progress(Event(step.name, "skipped", f"skipped ({step.reasons[0].what})", step.reasons[0].what))
    else:
        progress(Event(step.name, "unchanged", "unchanged"))
    return Result(step, step.action, step.image.id if step.image else "", 0.0, step.registry_digest)


def _record_inputs(state: Path, step: Step) -> None:
    items = [[item.kind, item.name, item.identity] for item in step.fingerprint.inputs]
    _write(state / INPUTS_FOLDER / f"{step.name}.json", json.dumps(items))


def _record_durations(state: Path, timed: Mapping[str, float], results: Sequence[Result]) -> None:
    built = {result.step.name: round(result.seconds, 3) for result in results if result.action == "build"}
    if built:
        _write(state / DURATIONS_FILE, json.dumps({**timed, **built}))


def _write(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):  # a convenience: a full disk does not spoil an image that is built
        write_whole(path, text.encode())


def _report(failed: Mapping[str, PipelineError], lost: Mapping[str, tuple[str, ...]]) -> PipelineError:
    """Every failure once, each with the images that were not built because of it; as a whole of the kind of the first one."""
    first = next(iter(failed.values()))
    if len(failed) == 1 and not any(lost.values()):
        return first
    shared = len({error.hint for error in failed.values()}) == 1
    blocks = [
        "\n".join([error.message, *_listed(lost.get(name, ())), *([] if shared else textwrap.indent(error.hint, "  ").splitlines())])
        for name, error in failed.items()
    ]
    if len(failed) > 1:
        missing = {name for names in lost.values() for name in names}
        count = f"{len(failed)} images failed" + (f", {len(missing)} more not built because of them" if missing else "")
        blocks.insert(0, count)
    return type(first)("\n".join(blocks), first.hint if shared else "")


def _listed(names: Sequence[str]) -> list[str]:
    lines = textwrap.wrap(", ".join(names), REPORT_WIDTH, break_long_words=False, break_on_hyphens=False)
    return ["  not built because of it:", *(f"    {line}" for line in lines)] if names else []
