"""Publishing a revision's images: content and commit tags first, then the branch tags, each verified by digest."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from pipeline.errors import DirtyError, ImageUnavailableError, RegistryRefusedError
from pipeline.images.build import Result
from pipeline.images.plan import BuildPlan, Step
from pipeline.reference import Reference

CONNECTIONS = 8  # requests to the registry at the same time


class Uploader(Protocol):
    """Something that uploads an image with its layers: the engine."""

    def push_image(self, reference: Reference) -> str:
        """Push a tag the engine has; return the digest."""


class Shelf(Protocol):
    """The registry's side: digests and tags."""

    def digest(self, reference: Reference) -> str:
        """The digest a tag names; empty where there is no such tag."""

    def check_writable(self, reference: Reference) -> None:
        """Raise RegistryRefusedError where nothing may be pushed to the reference's repository."""

    def copy_tag(self, source: Reference, target: Reference) -> None:
        """Let `target` name the manifest that `source` names, in the same repository."""


def check_publishable(plan: BuildPlan, allow_dirty: bool) -> None:
    """Raise before anything is pushed: DirtyError for uncommitted changes, ImageUnavailableError for what was not built."""
    dirty = [step.name for step in plan.steps if step.dirty and step.action != "skip"]
    if dirty and not allow_dirty:
        raise DirtyError(
            f"uncommitted changes are in what these images are made of: {', '.join(dirty)}",
            "Commit them, or push them marked as dirty: --allow-dirty",
        )
    missing = [step.name for step in plan.steps if step.action == "build"]
    if missing:
        raise ImageUnavailableError(
            f"these images are not built in their present state: {', '.join(missing)}", "Build them first: invoke build push"
        )


def push_images(
    plan: BuildPlan, uploader: Uploader, shelf: Shelf, say: Callable[[str], None], abort: Callable[[], None] = lambda: None
) -> tuple[Result, ...]:
    """Publish every image of the plan. Raises RegistryRefusedError for an immutable tag that names another image.

    `abort` breaks off what is under way, and is called when a person or a CI server interrupts.
    """
    steps = [step for step in plan.steps if step.action != "skip"]
    with ThreadPoolExecutor(max_workers=CONNECTIONS) as pool, _aborted_by_interrupts(pool, abort):
        states = list(pool.map(lambda step: [shelf.digest(reference) for reference in (step.commit, step.branch)], steps))
        for step, (commit, _) in zip(steps, states, strict=True):
            _refuse_moved(step, commit)  # before anything is pushed
        unpublished = [step.content for step in steps if not step.registry_digest]
        if unpublished:  # the engine takes a read-only registry's refusal for a fault, and tries for most of a minute (seen: 50 s)
            shelf.check_writable(unpublished[0])
        published = list(
            pool.map(lambda pair: _push_content_and_commit(pair[0], pair[1][0], uploader, shelf, say), zip(steps, states, strict=True))
        )
        results = list(pool.map(lambda pair: _move_branch(pair[0], pair[1][1], shelf, say), zip(published, states, strict=True)))
    by_name = {result.step.name: result for result in results}
    return tuple(by_name.get(step.name) or Result(step, "skip", "", 0.0) for step in plan.steps)


@contextlib.contextmanager
def _aborted_by_interrupts(pool: ThreadPoolExecutor, abort: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        abort()  # the pool is left when its threads are done
        raise


def _refuse_moved(step: Step, commit: str) -> None:
    if commit and step.registry_digest and commit != step.registry_digest and not step.dirty:
        raise _moved(step, commit, step.registry_digest)


def _moved(step: Step, named: str, wanted: str) -> RegistryRefusedError:
    return RegistryRefusedError(
        f"{step.commit} names another image already ({named[:19]}…, not {wanted[:19]}…): a commit's tag never moves",
        "Something outside Git went into this image (a git-ignored file, a base that moved); commit again, or find out with: invoke plan",
    )


def _push_content_and_commit(step: Step, commit: str, uploader: Uploader, shelf: Shelf, say: Callable[[str], None]) -> Result:
    start = time.monotonic()
    digest, action = step.registry_digest, "none"
    if not digest:
        uploader.push_image(step.content)
        digest = _verified(shelf, step.content, "")
        action = "push"
        say(f"{step.name}: pushed {step.content}")
    if commit and commit != digest and not step.dirty:
        # the content tag was not there when asked first, so this could not be seen before
        raise _moved(step, commit, digest)
    if commit != digest:
        shelf.copy_tag(step.content, step.commit)
        _verified(shelf, step.commit, digest)
        action = "tag" if action == "none" else action
    beaten = step.image is not None and step.action == "pull"
    if beaten:
        say(f"{step.name}: the registry's image of this content wins; the engine's own build of it was not pushed")
    return Result(step, action, step.image.id if step.image and not beaten else "", time.monotonic() - start, digest)


def _move_branch(result: Result, branch: str, shelf: Shelf, say: Callable[[str], None]) -> Result:
    start = time.monotonic()
    action = result.action
    if branch != result.digest:
        shelf.copy_tag(result.step.content, result.step.branch)
        _verified(shelf, result.step.branch, result.digest)
        action = "tag" if action == "none" else action
    if action == "none":
        say(f"{result.step.name}: published already")
    elif action == "tag":
        say(f"{result.step.name}: tagged {result.step.commit.tag} and {result.step.branch.tag} in the registry")
    return Result(result.step, action, result.image_id, result.seconds + time.monotonic() - start, result.digest)


def _verified(shelf: Shelf, reference: Reference, expected: str) -> str:
    digest = shelf.digest(reference)
    if not digest or (expected and digest != expected):
        raise RegistryRefusedError(
            f"{reference} was pushed, but the registry has {digest or 'nothing'} under that name",
            "Another publisher may be at work: run the push again.",
        )
    return digest
