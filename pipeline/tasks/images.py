"""invoke build, push, plan"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invoke.context import Context

from pipeline.errors import ConfigurationError
from pipeline.tasks.build_server import refuse_fork
from pipeline.tasks.command import command, read_project, refuse_others, say

SELECT = {"only": "An image; it and all it is made from. May be given several times."}
JSON = {"json": "Print one JSON document on stdout and nothing else."}
QUIET = {"quiet": "Say nothing but errors."}


@command(
    iterable=["only"],
    help={
        **SELECT,
        **JSON,
        "jobs": "How many images are built at the same time (default: the number of processors).",
        "keep-going": "Build all that can be built, and report the failures at the end, each with what was not built because of it.",
        "no-cache": "Build again without any cache, changed or not. What is published already is not replaced.",
        "pull": "Have every image in the engine afterwards, not only those that something is built on.",
        "dry-run": "Say what would be done, as `invoke plan` does, and do nothing.",
        **QUIET,
    },
)
def build(
    _context: Context,
    only: list[str],
    jobs: int = 0,
    keep_going: bool = False,
    no_cache: bool = False,
    pull: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
    json: bool = False,
) -> None:
    """Build every image whose inputs changed, parents first.

    Example: invoke build --only tomcat
    """
    from pipeline.images.build import as_json, build_images
    from pipeline.tasks.display import shown_progress
    from pipeline.tasks.wiring import ImageProject

    _refuse_bare_only(sys.argv)
    if jobs < 0:
        raise ConfigurationError(f"--jobs {jobs}: there is no such number of builds", "Use 1 or more; 0 means one a processor.")
    with shown_progress(quiet) as progress, ImageProject(read_project(), progress.say) as project:
        plan_made = project.read_plan(only, rebuild=no_cache, remember=not dry_run, demanded=project.hierarchy.names if pull else ())
        if dry_run:
            _show_plan(plan_made, json)
            return
        results = build_images(
            plan_made,
            lambda: project.workshop(plan_made),
            project.config.state,
            jobs or os.cpu_count() or 1,
            progress,
            keep_going,
            not no_cache,
        )
    if json:
        _print_json(as_json(results))


@command(
    iterable=["only"],
    help={
        **SELECT,
        **JSON,
        "allow-dirty": "Push images made from uncommitted changes, marked as dirty.",
        "commit-only": "Leave the branch's tags alone: `invoke release.promote` moves them later, when the tests have passed.",
        **QUIET,
    },
)
def push(
    _context: Context,
    only: list[str],
    allow_dirty: bool = False,
    commit_only: bool = False,
    quiet: bool = False,
    json: bool = False,
) -> None:
    """Publish the images, their release, and the branch's tags.

    Example: invoke build push
    """
    from pipeline.adapters.git_repository import commit_time
    from pipeline.images.build import as_json
    from pipeline.images.publish import check_publishable, promote_release, publish_release, push_images
    from pipeline.images.release import remove_release, write_release
    from pipeline.tasks.display import shown_progress
    from pipeline.tasks.wiring import ImageProject

    _refuse_bare_only(sys.argv)
    refuse_fork(os.environ)
    with shown_progress(quiet) as progress, ImageProject(read_project(), progress.say) as project:
        if not only:
            remove_release(project.config.state)
        plan_made = project.read_plan(only, need_registry=True, remember=True, as_built=True)
        check_publishable(plan_made, allow_dirty)
        results = push_images(plan_made, project.engine, project.shelf, progress, project.abort)
        if not only:  # a release is all images of a revision, and a branch's tags name a release
            commit = plan_made.revision.commit
            release = publish_release(
                plan_made, results, project.shelf, project.releases, lambda: commit_time(project.config.root, commit), progress
            )
            if not commit_only:
                promote_release(release, project.shelf, project.releases, project.relation, progress)
            path = write_release(project.config.state, release)
            progress.say(f"release of {plan_made.revision}: {os.path.relpath(path)}")
    if json:
        _print_json(as_json(results))


@command(
    iterable=["only"],
    help={
        **SELECT,
        **JSON,
        "explain": "Every cause of each action, against the last release of this branch.",
        "against": "Explain against this release: a branch, a tag or a commit.",
        "graph": "Draw the image hierarchy instead: Mermaid on stdout.",
        "svg": "Draw it into this file (needs Graphviz).",
    },
)
def plan(
    _context: Context,
    only: list[str],
    explain: bool = False,
    against: str = "",
    graph: bool = False,
    svg: str = "",
    json: bool = False,
) -> None:
    """Show what would happen to each image, and why.

    It writes nothing, but for the picture that `--svg` asks for. Example: invoke plan --against main
    """
    from pipeline.tasks.wiring import ImageProject

    if graph or svg:
        refuse_others("--svg" if svg else "--graph", only=only, explain=explain, against=against, json=json)
        _draw(svg)
        return
    with ImageProject(read_project(), say) as project:
        if not explain and not against:
            _show_plan(project.read_plan(only), json)
            return
        explained = project.explain(only, against)
    if json:
        _print_json(explained.as_json())
        return
    print(f"{explained.plan.revision}, against release {explained.against.tag if explained.against else '(none)'}")
    width = max(len(image.name) for image in explained.images)
    for image in explained.images:
        for number, cause in enumerate(image.causes):
            name, action = (image.name, image.action) if number == 0 else ("", "")
            print(f"  {name:{width}}  {action:5}  {cause.kind}: {cause.what}")
    for name in explained.removed:
        print(f"  {name:{width}}  none   removed: no image definition any more")


def _draw(svg: str) -> None:
    """The image hierarchy: as a picture in the file `svg`, or as Mermaid on stdout."""
    from pipeline.adapters.graphviz import write_svg
    from pipeline.images.graph import draw_dot, draw_mermaid
    from pipeline.images.hierarchy import read_hierarchy

    hierarchy = read_hierarchy(read_project())
    if svg:
        write_svg(draw_dot(hierarchy), Path(svg))
    else:
        print(draw_mermaid(hierarchy))


def _refuse_bare_only(arguments: Sequence[str]) -> None:
    """To Invoke, `--only` without a value (an empty variable of a CI script) is no `--only` at all, and would mean everything."""
    for position, argument in enumerate(arguments):
        following = arguments[position + 1 : position + 2]
        if argument == "--only" and (not following or following[0].startswith("-")):
            raise ConfigurationError("--only names no image", "Write for example: --only tomcat")


def _show_plan(made: Any, as_document: bool) -> None:
    if as_document:
        _print_json(made.as_json())
        return
    print(f"{made.revision}")
    width = max(len(step.name) for step in made.steps)
    for step in made.steps:
        print(f"  {step.name:{width}}  {step.action:5}  {step.reasons[0].what}")
        for reason in step.reasons[1:]:
            print(f"  {'':{width}}         {reason.what}")


def _print_json(document: object) -> None:
    print(json.dumps(document, indent=2))
