"""invoke release.list, release.show, release.promote, release.pull, release.users"""

from __future__ import annotations

import json as json_module
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from invoke.context import Context

from pipeline.tasks.build_server import refuse_fork
from pipeline.tasks.command import command, read_project, say

if TYPE_CHECKING:
    from pipeline.images.release import Release
    from pipeline.tasks.wiring import ImageProject

JSON = {"json": "Print one JSON document on stdout and nothing else."}


@command(
    name="list", help={**JSON, "branch": "Only those of this branch.", "limit": "Of so many commits, the newest (default: 20; 0: all)."}
)
def release_list(_context: Context, branch: str = "", limit: int = 20, json: bool = False) -> None:
    """List the releases in the registry, newest commit first.

    A star marks what a branch's tag names. Example: invoke release.list --branch main --limit 5
    """
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


@command(
    name="show",
    help={
        **JSON,
        "release": "A branch, a tag or a commit (default: this branch).",
        "against": "Another one: say which images differ from that release's, and what they are made of that differs.",
    },
)
def release_show(_context: Context, release: str = "", against: str = "", json: bool = False) -> None:
    """Show a release's images, or what differs between two.

    Examples: invoke release.show --release feature/login, invoke release.show --against main
    """
    from pipeline.tasks.wiring import ImageProject

    if against:
        _show_differences(against, release, json)
        return
    with ImageProject(read_project(), say) as project:
        found = _find(project, release)
    if json:
        _print_json(_fields(found))
        return
    print(f"release {found.tag}: {found}, committed {_time(found)}")
    width = max((len(name) for name in found.images), default=0)
    for name, image in sorted(found.images.items()):
        print(f"  {name:{width}}  " + (f"{image.digest}  {image.size / 1e6:.1f} MB" if image.digest else f"absent: {image.absent}"))


def _show_differences(old: str, new: str, json: bool) -> None:
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
    """Let the branch's tags name a release, after its tests.

    It was published with `push --commit-only`. Example: invoke release.promote --release main-1a2b3c4d5e6f
    """
    from pipeline.images.progress import PlainLines
    from pipeline.images.publish import promote_release
    from pipeline.revision import commit_tag
    from pipeline.tasks.wiring import ImageProject

    refuse_fork(os.environ)
    with ImageProject(read_project(), say) as project:
        found = project.find_release(release or commit_tag(project.revision()))
        promote_release(found, project.shelf, project.releases, project.relation, PlainLines(say), force)


@command(name="pull", help={"release": "A branch, a tag or a commit (default: this branch)."})
def release_pull(_context: Context, release: str = "") -> None:
    """Get a release's images onto this machine's engine.

    By digest, and under all their tags. Example: invoke release.pull --release main
    """
    from pipeline.tasks.wiring import ImageProject, pull_release

    with ImageProject(read_project(), say) as project:
        found = _find(project, release)
        pull_release(project, found)
    print(f"release {found.tag}: {len(found.present)} images are here")


@command(
    name="users",
    positional=["image"],
    iterable=["namespace"],
    help={
        **JSON,
        "image": "An image of this repository, or one that it takes from elsewhere, as its definition writes it.",
        "namespace": "Look only here; may be given several times (default: every repository that the registry lists).",
        "all": "Every release there is, and not only those that a branch's tag names.",
    },
)
def release_users(_context: Context, image: str, namespace: list[str], all: bool = False, json: bool = False) -> None:
    """Say which releases stand on an image, the old ones first.

    In every repository of the registry. Example: invoke release.users tomcat
    """
    from pipeline.images.users import users_as_json
    from pipeline.tasks.release_users import find_release_users
    from pipeline.tasks.wiring import ImageProject

    with ImageProject(read_project(), say) as project:
        found = find_release_users(project, image, namespace, all)
    if json:
        _print_json(users_as_json(found))
        return
    if not found:
        say(f"no release stands on {image}")
    for use in found:
        print(use)


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
