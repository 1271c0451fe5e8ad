"""Publishing a revision as a whole: the images under content and commit tags, then the release, then the branch's tags.

Registries have no compare-and-set, so the order of the steps is what holds. An image is uploaded under its commit's tag, and
the content tag is written in a request of its own, right after a look whether another publisher has written it meanwhile;
whatever it names then is the image of this content, for everybody. The release names these digests. The branch's release is
one request; the branch's tags of the images follow it, and whoever finds that another publisher has promoted meanwhile lets
the newer one win.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from pipeline.errors import BuildError, DirtyError, ImageUnavailableError, RegistryRefusedError, RegistryUnreachableError, TagImmutableError
from pipeline.images.build import Result
from pipeline.images.plan import BuildPlan, Step
from pipeline.images.progress import Event, Progress
from pipeline.images.release import Relation, Release, Releases, describe_release, encode_inputs, judge_move, release_name
from pipeline.reference import Reference, parse_reference

CONNECTIONS = 8  # requests to the registry at the same time
PROMOTIONS = 5  # how often a branch is promoted again because another publisher was there at the same time


class Uploader(Protocol):
    """Something that uploads an image with its layers: the engine."""

    def push_image(self, reference: Reference) -> str:
        """Push a tag the engine has; return the digest."""

    def tag_image(self, source: str, target: Reference) -> None:
        """Let a tag name an image."""

    def platform_of(self, reference: str) -> str:
        """OS/ARCHITECTURE[/VARIANT] of an image."""


class Shelf(Protocol):
    """The registry's side: digests and tags."""

    def digests(self, references: Sequence[Reference]) -> list[str]:
        """The digest each tag names, in order; empty where there is no such tag."""

    def check_writable(self, reference: Reference) -> None:
        """Raise RegistryRefusedError where nothing may be pushed to the reference's repository."""

    def copy_tag(self, source: Reference, target: Reference) -> None:
        """Let `target` name the manifest that `source` names, in the same repository."""

    def fingerprint(self, reference: Reference) -> str:
        """The fingerprint in an image's labels."""

    def size(self, reference: Reference) -> int:
        """The bytes of an image's config and layers, compressed."""


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
    plan: BuildPlan, uploader: Uploader, shelf: Shelf, progress: Progress, abort: Callable[[], None] = lambda: None
) -> tuple[Result, ...]:
    """Publish every image of the plan under its content and commit tags, parents before those that are built on them: what
    a child shares with its parent is then in the registry already, and mounted.

    Raises RegistryRefusedError for a commit's tag that names another image, BuildError for an image of another platform.
    `abort` breaks off what is under way, and is called when a person or a CI server interrupts.
    """
    steps = [step for step in plan.steps if step.action != "skip"]
    for step in steps:
        progress(Event(step.name, "waiting"))
    commits = dict(zip((step.name for step in steps), shelf.digests([step.commit for step in steps]), strict=True))
    for step in steps:  # before anything is pushed
        if step.registry_digest:
            _refuse_moved(step, commits[step.name], step.registry_digest)
        elif step.image:
            _refuse_platform(step, uploader)
    unpublished = [step.content for step in steps if not step.registry_digest]
    if unpublished:  # the engine takes a read-only registry's refusal for a fault, and tries for most of a minute (seen: 50 s)
        shelf.check_writable(unpublished[0])
    if not unpublished and all(commits[step.name] == step.registry_digest for step in steps):
        published = {step.name: _published(step, step.registry_digest, "none", 0.0, progress) for step in steps}
    else:
        published = _publish_together(steps, commits, uploader, shelf, progress, abort)
    for step in plan.steps:
        if step.action == "skip":
            progress(Event(step.name, "skipped"))
    return tuple(published.get(step.name) or Result(step, "skip", "", 0.0) for step in plan.steps)


def publish_release(
    plan: BuildPlan, results: Sequence[Result], shelf: Shelf, releases: Releases, committed: Callable[[], int], progress: Progress
) -> Release:
    """Keep the release of what was published, under the commit's tag; nothing is written where it is kept already.

    `committed`: asks for the commit's time, seconds since 1970.
    """
    digests = {result.step.name: result.digest for result in results if result.digest}
    for _ in range(PROMOTIONS):
        release, written = _keep_release(plan, digests, shelf, releases, committed, progress)
        moved = _moved_contents(plan, digests, shelf) if written else {}
        if not moved:
            return release
        # Another publisher of this revision had looked at a content tag before it was written, and has written it since. Each
        # looks again after its own release, so that the last one sees what all of them have written.
        for name, digest in moved.items():
            digests[name] = digest
            _name_commit(plan[name], digest, shelf, Result(plan[name], "tag", "", 0.0, digest))
    raise RegistryUnreachableError(
        f"the images of {plan.revision} are being published by others again and again", "Run it again when they are done: invoke push"
    )


def _keep_release(
    plan: BuildPlan,
    digests: Mapping[str, str],
    shelf: Shelf,
    releases: Releases,
    committed: Callable[[], int],
    progress: Progress,
) -> tuple[Release, bool]:
    """The release with these digests, and whether it had to be written."""
    kept = releases.read(release_name(plan.revision))
    if kept and {name: image.digest for name, image in kept.present.items()} == digests:
        progress.say(f"release {kept.tag}: published already")
        return kept, False
    last = kept or releases.read(plan.steps[0].branch.tag)
    known = {image.digest: image.size for image in last.present.values()} if last else {}
    unknown = [step for step in plan.steps if step.name in digests and digests[step.name] not in known]
    asked = releases.together(lambda step: shelf.size(step.content.with_digest(digests[step.name])), unknown)
    sizes = {name: known.get(digest, 0) for name, digest in digests.items()} | dict(
        zip((step.name for step in unknown), asked, strict=True)
    )
    inputs = {step.name: encode_inputs(step.fingerprint.inputs) for step in plan.steps if step.name in digests}
    release = describe_release(plan, digests, sizes, inputs, committed())
    releases.write(release, inputs)
    progress.say(f"release {release.tag}: published, {len(release.present)} images")
    return release, True


def _moved_contents(plan: BuildPlan, digests: Mapping[str, str], shelf: Shelf) -> dict[str, str]:
    """Image → what its content tag names, of those that name something else than `digests` say."""
    steps = [step for step in plan.steps if step.name in digests]
    there = shelf.digests([step.content for step in steps])
    return {step.name: digest for step, digest in zip(steps, there, strict=True) if digest and digest != digests[step.name]}


def promote_release(
    release: Release, shelf: Shelf, releases: Releases, relation: Callable[[str, str], Relation], progress: Progress, force: bool = False
) -> bool:
    """Let the branch's tags name a release: its own first, in one request, then those of its images.

    Forward only, unless `force`: whether the release comes after the one that is promoted now is looked up right before it is
    set. `relation`: of a commit to a later one, as git knows it. Returns whether the branch names the release afterwards.
    """
    for attempt in range(PROMOTIONS):
        if attempt:  # another publisher of this very revision may have kept what the two agree upon
            release = releases.read(release.tag) or release
        current = releases.read(release.branch_tag)
        changed = current != release
        after_what = ""
        if current is not None and changed:
            forward, why = judge_move(relation(current.revision.commit, release.revision.commit), current, release)
            if not forward and not force:
                progress.say(f"branch tag {release.branch_tag}: stays at {current.tag} ({why})")
                return False
            after_what = f", after {current.tag}" + (f" ({why})" if why else "")
        if changed:
            _say_immutable(functools.partial(releases.promote, release), release.branch_tag)
        if not _move_branch_tags(release, shelf, releases) and not changed:
            progress.say(f"branch tag {release.branch_tag}: names {release.tag} already")
            return True
        now = releases.read(release.branch_tag)
        if now is None or now == release:
            progress.say(f"branch tag {release.branch_tag}: names {release.tag}{after_what}")
            return True
        # Another publisher promoted meanwhile. Who comes later in history wins, whoever was later on the clock: either its
        # images get their tags back that were just moved, or ours is promoted once more.
        if not judge_move(relation(now.revision.commit, release.revision.commit), now, release)[0]:
            _move_branch_tags(now, shelf, releases)
    raise RegistryUnreachableError(
        f"the branch tag {release.branch_tag} is being moved by other publishers again and again",
        "Run it again when they are done: invoke release.promote",
    )


def _publish_together(
    steps: Sequence[Step], commits: Mapping[str, str], uploader: Uploader, shelf: Shelf, progress: Progress, abort: Callable[[], None]
) -> dict[str, Result]:
    futures: dict[str, Future[Result]] = {}

    def publish(step: Step) -> Result:
        for name in step.needs:
            if name in futures:
                futures[name].result()
        return _publish(step, commits[step.name], uploader, shelf, progress)

    with ThreadPoolExecutor(max_workers=CONNECTIONS) as pool, _aborted_by_interrupts(pool, abort):
        for step in steps:  # in build order, so that a thread waits only for one that runs
            futures[step.name] = pool.submit(publish, step)
        published = {name: future.result() for name, future in futures.items()}
    uploaded = [result for result in published.values() if result.action == "push"]
    # Between a look and a write another publisher may have written, too. By now it shows whose image the content tag names.
    for result, digest in zip(uploaded, shelf.digests([result.step.content for result in uploaded]), strict=True):
        if digest != result.digest:
            published[result.step.name] = _name_commit(result.step, _present(result.step.content, digest), shelf, result)
    return published


def _publish(step: Step, commit: str, uploader: Uploader, shelf: Shelf, progress: Progress) -> Result:
    start = time.monotonic()
    if step.registry_digest:
        action = "none"
        if commit != step.registry_digest:
            shelf.copy_tag(step.content.with_digest(step.registry_digest), step.commit)
            action = "tag"
        return _published(step, step.registry_digest, action, time.monotonic() - start, progress)
    uploaded = commit if commit and not step.dirty else ""
    if uploaded:  # a publisher was ended between its two tags, or is between them just now
        if shelf.fingerprint(step.commit.with_digest(uploaded)) != step.fingerprint.value:
            raise _moved(step, uploaded)
    else:
        uploaded = _upload(step, uploader, shelf, progress)
    digest = _claim_content(step, uploaded, shelf)
    image_id = step.image.id if step.image else ""
    result = _name_commit(step, digest, shelf, Result(step, "push", image_id, time.monotonic() - start, uploaded))
    progress(Event(step.name, "done", f"pushed {step.content}"))
    return result


def _upload(step: Step, uploader: Uploader, shelf: Shelf, progress: Progress) -> str:
    """Upload under the commit's tag; the digest."""
    if step.image:
        uploader.tag_image(step.image.id, step.commit)
    progress(Event(step.name, "pushing"))
    try:
        return uploader.push_image(step.commit) or _present(step.commit, *shelf.digests([step.commit]))
    except TagImmutableError:  # another publisher was quicker, and this registry lets nobody overwrite
        (there,) = shelf.digests([step.commit])
        if not there or shelf.fingerprint(step.commit.with_digest(there)) != step.fingerprint.value:
            raise
        return there


def _claim_content(step: Step, uploaded: str, shelf: Shelf) -> str:
    """Let the content tag name what was uploaded, unless it names an image already; the digest that it names."""
    (there,) = shelf.digests([step.content])
    if not there:
        with contextlib.suppress(TagImmutableError):  # another publisher was quicker
            shelf.copy_tag(step.commit.with_digest(uploaded), step.content)
        (there,) = shelf.digests([step.content])
    if _present(step.content, there) != uploaded and shelf.fingerprint(step.content.with_digest(there)) != step.fingerprint.value:
        raise RegistryRefusedError(f"{step.content} names an image of other content ({there[:19]}…)", "Remove that tag, and push again.")
    return there


def _name_commit(step: Step, digest: str, shelf: Shelf, result: Result) -> Result:
    """Let the commit's tag name the image of this content."""
    (commit,) = shelf.digests([step.commit])
    if commit != digest:
        shelf.copy_tag(step.content.with_digest(digest), step.commit)
    beaten = result.digest != digest
    return Result(step, result.action, "" if beaten else result.image_id, result.seconds, digest)


def _move_branch_tags(release: Release, shelf: Shelf, releases: Releases) -> bool:
    """Let the branch's tag of every image name that of the release; whether one had to be moved."""
    targets = [(parse_reference(f"{image.repository}:{release.branch_tag}"), image.digest) for image in release.present.values()]
    there = shelf.digests([target for target, _ in targets])
    wrong = [(target, digest) for (target, digest), found in zip(targets, there, strict=True) if found != digest]

    def move(pair: tuple[Reference, str]) -> None:
        target, digest = pair
        _say_immutable(lambda: shelf.copy_tag(target.with_digest(digest), target), str(target))

    list(releases.together(move, wrong))
    return bool(wrong)


def _published(step: Step, digest: str, action: str, seconds: float, progress: Progress) -> Result:
    beaten = step.action == "pull" and step.image is not None
    if beaten:
        text = "the registry's image of this content wins; the engine's own build of it was not pushed"
    else:
        text = f"tagged {step.commit.tag} in the registry" if action == "tag" else "published already"
    progress(Event(step.name, "unchanged" if action == "none" else "done", text))
    return Result(step, action, step.image.id if step.image and not beaten else "", seconds, digest)


@contextlib.contextmanager
def _aborted_by_interrupts(pool: ThreadPoolExecutor, abort: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        abort()  # the pool is left when its threads are done
        raise


def _refuse_moved(step: Step, commit: str, wanted: str) -> None:
    if commit and commit != wanted and not step.dirty:
        raise _moved(step, commit)


def _moved(step: Step, named: str) -> RegistryRefusedError:
    return RegistryRefusedError(
        f"{step.commit} names another image already ({named[:19]}…): a commit's tag never moves",
        "Something outside Git went into this image (a git-ignored file, a base that moved); commit again, or find out with: invoke plan",
    )


def _refuse_platform(step: Step, uploader: Uploader) -> None:
    wanted, found = step.definition.platform, uploader.platform_of(step.image.id if step.image else str(step.content))
    if found.split("/")[:2] != wanted.split("/")[:2]:
        raise BuildError(
            f"{step.name} was built for {found}, but its definition says {wanted}: it is not pushed",
            f"Its base may be for another platform: name one for {wanted} in {step.definition.file}, or say `platform:` there.",
        )


def _say_immutable(write: Callable[[], None], tag: str) -> None:
    try:
        write()
    except TagImmutableError as error:
        raise TagImmutableError(
            f"the branch's tag {tag} cannot be moved: {error.message}",
            "Images and release are published under content and commit tags. Allow this user to overwrite the branch's tags, "
            "or leave them out: invoke push --commit-only",
        ) from error


def _present(reference: Reference, digest: str) -> str:
    if not digest:
        raise RegistryRefusedError(
            f"{reference} was pushed, but the registry has nothing under that name", "Something removes tags there: run the push again."
        )
    return digest
