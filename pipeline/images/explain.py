"""Why each image is built, or is not: what differs from the images of a release."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from pipeline.images.fingerprint import Input, changes
from pipeline.images.plan import Action, BuildPlan, Reason, Step
from pipeline.images.release import Release, ReleasedImage, Together, own_inputs, shortened


class Explanation(msgspec.Struct, frozen=True):
    """One image: what would happen to it, and every cause of that."""

    name: str
    action: Action
    causes: tuple[Reason, ...]


class ExplainedPlan(msgspec.Struct, frozen=True):
    """A plan beside a release; `against` is None where there is none to compare with. `removed`: images only the release has."""

    plan: BuildPlan
    against: Release | None
    images: tuple[Explanation, ...]
    removed: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The document that `invoke plan --explain --json` prints."""
        return {
            "revision": self.plan.as_json()["revision"],
            "against": self.against.tag if self.against else None,
            "images": [
                {
                    "name": image.name,
                    "action": image.action,
                    "causes": [{"kind": cause.kind, "what": cause.what} for cause in image.causes],
                }
                for image in self.images
            ],
            "removed": list(self.removed),
        }


def explain_plan(
    plan: BuildPlan, against: Release | None, inputs: Callable[[ReleasedImage], tuple[Input, ...]], together: Together
) -> ExplainedPlan:
    """Compare what a plan's images are made of with what those of a release were made of.

    `inputs`: those of an image of the release; asked for, `together`, only where the fingerprint is another one.
    """
    if against is None:
        return ExplainedPlan(plan, None, tuple(Explanation(step.name, step.action, step.reasons) for step in plan.steps), ())
    before = against.present
    changed = [
        step.name
        for step in plan.steps
        if step.name in before and before[step.name].fingerprint != step.fingerprint.value and before[step.name].own != own_inputs(step)
    ]
    made_of = dict(zip(changed, together(lambda name: inputs(before[name]), changed), strict=True))
    explained = [Explanation(step.name, step.action, _causes(step, against, made_of)) for step in plan.steps]
    return ExplainedPlan(plan, against, tuple(explained), tuple(sorted(before.keys() - {step.name for step in plan.steps})))


def _causes(step: Step, against: Release, made_of: dict[str, tuple[Input, ...]]) -> tuple[Reason, ...]:
    if step.action == "skip":
        return step.reasons
    if step.name not in against.present:
        return (Reason("new", f"not in release {against.tag}"),)
    if step.name in made_of:
        found = (Reason(kind, what) for kind, what in changes(made_of[step.name], shortened(step.fingerprint.inputs)))
        return tuple(_moved_release(step, against) or cause if cause.kind == "base" else cause for cause in found)
    if against.present[step.name].fingerprint != step.fingerprint.value:  # it is made from others that are new
        return tuple(
            Reason(item.kind, f"{item.name} changed")
            for item in step.fingerprint.inputs
            if item.kind in ("parent", "uses") and item.name in step.needs and _is_new(item, against)
        )
    if not step.registry_digest:
        return (Reason("missing", "unchanged, but missing in the registry"),)
    return (Reason("unchanged", f"as in release {against.tag}"), *(reason for reason in step.reasons if reason.kind in ("registry", "tag")))


def _moved_release(step: Step, against: Release) -> Reason | None:
    """Of a parent in another repository's release, people want to read the releases, not two digests."""
    before, now = against.present[step.name].stands_on[:1], step.stands_on[0]
    if before and before[0].name == now.name and before[0].release and now.release:
        return Reason("base", f"{now.name} changed: release {before[0].release} → {now.release}")
    return None


def _is_new(item: Input, against: Release) -> bool:
    return item.name not in against.present or against.present[item.name].fingerprint != item.identity
