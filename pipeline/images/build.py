"""Carrying a build plan out: parents first, independent images at the same time."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import BuildError, PipelineError
from pipeline.images.fingerprint import Input
from pipeline.images.plan import BuildPlan, Step
from pipeline.reference import Reference

INPUTS_FOLDER = "inputs"  # below .pipeline/: what the last build of each image was made of, only to name reasons


@dataclass(frozen=True)
class Result:
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

    def build(self, step: Step, tags: tuple[Reference, ...], use_cache: bool) -> str:
        """Build; return the image id."""

    def pull(self, content: Reference) -> str:
        """Get an image from the registry under its content tag; return the image id."""

    def tag(self, image_id: str, reference: Reference) -> None:
        """Let a tag name an image."""

    def cancel(self) -> None:
        """End what is being built, now."""


def build_images(
    plan: BuildPlan,
    workshop: Workshop,
    state: Path,
    jobs: int,
    say: Callable[[str], None],
    keep_going: bool = False,
    use_cache: bool = True,
) -> tuple[Result, ...]:
    """Carry out every step. Raises the first error, with `keep_going` after all that do not depend on it are done."""
    if all(step.action in ("none", "skip") for step in plan.steps):  # nothing to do: no thread, no process
        return tuple(_unchanged(step, say) for step in plan.steps)
    results: dict[str, Result] = {}
    failed: dict[str, PipelineError] = {}
    waiting = {step.name: step for step in plan.steps}
    running: dict[Future[Result], Step] = {}
    jobs = max(jobs, 1)
    pool = ThreadPoolExecutor(max_workers=jobs)
    try:
        while waiting or running:
            for step in list(waiting.values()):
                if any(name in failed for name in step.needs):
                    del waiting[step.name]
                    cause = next(name for name in step.needs if name in failed)
                    failed[step.name] = BuildError(f"{step.name} was not built: it is made from {cause}")
                elif len(running) < jobs and all(name in results for name in step.needs if name in {s.name for s in plan.steps}):
                    del waiting[step.name]
                    running[pool.submit(_carry_out, step, workshop, say, use_cache)] = step
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                step = running.pop(future)
                try:
                    results[step.name] = future.result()
                    _record_inputs(state, step)
                except PipelineError as error:
                    failed[step.name] = error
                    if not keep_going:
                        waiting.clear()
    except BaseException:
        workshop.cancel()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    if failed:
        raise _summary(failed)
    return tuple(results[step.name] for step in plan.steps)


def recorded_inputs(state: Path) -> dict[str, tuple[Input, ...]]:
    """Image → inputs of its last build in this checkout."""
    found = {}
    for path in (state / INPUTS_FOLDER).glob("*.json"):
        try:
            found[path.stem] = tuple(Input(*item) for item in json.loads(path.read_text(encoding="utf-8")))
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


def _carry_out(step: Step, workshop: Workshop, say: Callable[[str], None], use_cache: bool) -> Result:
    if step.action in ("none", "skip"):
        return _unchanged(step, say)
    start = time.monotonic()
    if step.action == "tag" and step.image:
        for reference in (step.commit, step.branch):
            workshop.tag(step.image.id, reference)
        say(f"{step.name}: unchanged, tagged {step.commit.tag} and {step.branch.tag}")
        return Result(step, "tag", step.image.id, time.monotonic() - start, step.registry_digest)
    why = "; ".join(reason.what for reason in step.reasons[:3]) + ("; …" if len(step.reasons) > 3 else "")
    say(f"{step.name}: {step.action} ({why})")
    if step.action == "build":
        if step.definition.base:
            workshop.prepare_base(step)
        image_id = workshop.build(step, step.references, use_cache)
    else:
        image_id = workshop.pull(step.content)
        for reference in (step.commit, step.branch):
            workshop.tag(image_id, reference)
    seconds = time.monotonic() - start
    say(f"{step.name}: done in {seconds:.1f} s")
    return Result(step, step.action, image_id, seconds, step.registry_digest if step.action != "build" else "")


def _unchanged(step: Step, say: Callable[[str], None]) -> Result:
    if step.action == "skip":
        say(f"{step.name}: skipped ({step.reasons[0].what})")
    else:
        say(f"{step.name}: unchanged")
    return Result(step, step.action, step.image.id if step.image else "", 0.0, step.registry_digest)


def _record_inputs(state: Path, step: Step) -> None:
    if step.action in ("none", "skip"):
        return
    with contextlib.suppress(OSError):  # a convenience: a full disk does not spoil an image that is built
        path = state / INPUTS_FOLDER / f"{step.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps([[item.kind, item.name, item.identity] for item in step.fingerprint.inputs]), encoding="utf-8")
        temporary.replace(path)


def _summary(failed: Mapping[str, PipelineError]) -> PipelineError:
    first = next(iter(failed.values()))
    if len(failed) == 1:
        return first
    rest = "\n".join(error.message.partition("\n")[0] if index else error.message for index, error in enumerate(failed.values()))
    return type(first)(rest, first.hint)
