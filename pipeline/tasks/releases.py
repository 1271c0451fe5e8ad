"""invoke release.list, release.show, release.diff, release.promote, release.pull"""

from __future__ import annotations

import json as json_module
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from invoke.context import Context

from pipeline.tasks.command import command, read_project, say

if TYPE_CHECKING:
    from pipeline.images.release import Release
    from pipeline.tasks.wiring import ImageProject

JSON = {"json": "Print one JSON document on stdout and nothing else."}


@command(
    name="list", help={**JSON, "branch": "Only those of this branch.", "limit": "Of so many commits, the newest (default: 20; 0: all)."}
)
def release_list(_context: Context, branch: str = "", limit: int = 20, json: bool = False) -> None:
    """List the releases in the registry, the newest commit first; a star marks what a branch's tag names."""
    from pipeline.tasks.wiring import ImageProject

    with ImageProject(read_project(), say) as project:
        found = project.releases.list(branch)
        shown = found[:limit] if limit else found
        promoted = {release.branch_tag: project.releases.read(release.branch_tag) for release in shown}
    if json:
        _print_json(
            [
                {
                    "tag": release.tag,
                    "promoted": promoted[release.branch_tag] == release,
                    "images": len(release.present),
                    "revision": _fields(release)["revision"],
                }
                for release in shown
            ]
        )
        return
    if not found:
        say("there is no release yet: invoke build push")
    width = max((len(release.tag) for release in shown), default=0)
    for release in shown:
        star = "*" if promoted[release.branch_tag] == release else " "
        print(f"{star} {release.tag:{width}}  {_time(release)}  {len(release.present)} images")
    if len(shown) < len(found):
        say(f"and {len(found) - len(shown)} older ones: --limit 0")


@command(name="show", help={**JSON, "release": "A branch, a tag or a commit (default: this branch)."})
def release_show(_context: Context, release: str = "", json: bool = False) -> None:
    """Show what a release consists of. Example: invoke release.show --release feature/login"""
    from pipeline.tasks.wiring import ImageProject

    with ImageProject(read_project(), say) as project:
        found = _find(project, release)
    if json:
        _print_json(_fields(found))
        return
    print(f"release {found.tag}: {found}, committed {_time(found)}")
    width = max((len(name) for name in found.images), default=0)
    for name, image in sorted(found.images.items()):
        print(f"  {name:{width}}  " + (f"{image.digest}  {image.size / 1e6:.1f} MB" if image.digest else f"absent: {image.absent}"))


@command(
    name="diff",
    positional=["old"],
    help={**JSON, "old": "A branch, a tag or a commit.", "new": "Another one (default: this branch)."},
)
def release_diff(_context: Context, old: str, new: str = "", json: bool = False) -> None:
    """Say which images differ between two releases, and what they are made of that differs. Example: invoke release.diff main"""
    from pipeline.images.fingerprint import changes
    from pipeline.images.release import differences
    from pipeline.tasks.shelf import together
    from pipeline.tasks.wiring import ImageProject

    with ImageProject(read_project(), say) as project:
        first, second = _find(project, old), _find(project, new)
        found = {name: what for name, what in differences(first, second).items() if what != "same"}
        changed = [name for name, what in found.items() if what == "changed"]
        sides = together(lambda name: [project.releases.inputs(side.images[name]) for side in (first, second)], changed)
        causes = {name: [f"{kind} {what}" for kind, what in changes(*pair)] for name, pair in zip(changed, sides, strict=True)}
    if json:
        images = [{"name": name, "change": what, "causes": causes.get(name, [])} for name, what in found.items()]
        _print_json({"old": first.tag, "new": second.tag, "images": images})
        return
    print(f"{first.tag} → {second.tag}: " + (f"{len(found)} of {len(second.images)} images differ" if found else "the same images"))
    width = max((len(name) for name in found), default=0)
    for name, what in found.items():
        print(f"  {name:{width}}  {what}" + "".join(f"\n  {'':{width}}    {cause}" for cause in causes.get(name, [])))


@command(
    name="promote",
    help={"release": "A tag or a commit (default: this commit).", "force": "Also backwards: whatever the branch's tags name now."},
)
def release_promote(_context: Context, release: str = "", force: bool = False) -> None:
    """Let the branch's tags name a release that was published with `push --commit-only`: its own tag, then its images'."""
    from pipeline.images.progress import PlainLines
    from pipeline.images.publish import promote_release
    from pipeline.revision import commit_tag
    from pipeline.tasks.wiring import ImageProject

    with ImageProject(read_project(), say) as project:
        found = project.find_release(release or commit_tag(project.revision()))
        promote_release(found, project.shelf, project.releases, project.relation, PlainLines(say), force)


@command(name="pull", help={"release": "A branch, a tag or a commit (default: this branch)."})
def release_pull(_context: Context, release: str = "") -> None:
    """Get every image of a release onto this machine's engine, by digest, under all its tags."""
    from pipeline.tasks.wiring import ImageProject, pull_release

    with ImageProject(read_project(), say) as project:
        found = _find(project, release)
        pull_release(project, found)
    print(f"release {found.tag}: {len(found.present)} images are here")


def _find(project: ImageProject, wanted: str) -> Release:
    return project.find_release(wanted or project.revision().branch)


def _fields(release: Release) -> dict[str, object]:
    import msgspec

    document: dict[str, object] = msgspec.to_builtins(release)
    return document


def _time(release: Release) -> str:
    return datetime.fromtimestamp(release.revision.committed, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _print_json(document: object) -> None:
    print(json_module.dumps(document, indent=2))
