"""invoke build, push, plan, graph, pins.update"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invoke.context import Context

from pipeline.errors import ConfigurationError
from pipeline.tasks.command import command, read_project, say

SELECT = {"only": "An image; it and all it is made from. May be given several times."}
JSON = {"json": "Print one JSON document on stdout and nothing else."}


@command(
    iterable=["only"],
    help={
        **SELECT,
        **JSON,
        "jobs": "How many images are built at the same time (default: the number of processors).",
        "keep-going": "Build all that can be built, and report the failures at the end.",
        "no-cache": "Build again without any cache, changed or not. What is published already is not replaced.",
        "dry-run": "Say what would be done, as `invoke plan` does, and do nothing.",
    },
)
def build(
    _context: Context,
    only: list[str],
    jobs: int = 0,
    keep_going: bool = False,
    no_cache: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Build every image whose inputs changed, parents first. Example: invoke build --only tomcat"""
    from pipeline.images.build import as_json, build_images
    from pipeline.tasks.wiring import ImageProject

    _refuse_bare_only(sys.argv)
    if jobs < 0:
        raise ConfigurationError(f"--jobs {jobs}: there is no such number of builds", "Use 1 or more; 0 means one a processor.")
    with ImageProject(read_project(), say) as project:
        plan_made = project.read_plan(only, rebuild=no_cache, remember=not dry_run)
        if dry_run:
            _show_plan(plan_made, json)
            return
        results = build_images(
            plan_made, project.workshop(plan_made), project.config.state, jobs or os.cpu_count() or 1, say, keep_going, not no_cache
        )
    if json:
        _print_json(as_json(results))


@command(iterable=["only"], help={**SELECT, **JSON, "allow-dirty": "Push images made from uncommitted changes, marked as dirty."})
def push(_context: Context, only: list[str], allow_dirty: bool = False, json: bool = False) -> None:
    """Publish the images under content, commit and branch tags. Example: invoke build push"""
    from pipeline.images.build import as_json
    from pipeline.images.publish import check_publishable, push_images
    from pipeline.images.release import describe_release, image_sizes, take_release, write_release
    from pipeline.tasks.wiring import ImageProject, RegistryShelf

    _refuse_bare_only(sys.argv)
    with ImageProject(read_project(), say) as project:
        known_sizes = {} if only else take_release(project.config.state)
        plan_made = project.read_plan(only, need_registry=True)
        check_publishable(plan_made, allow_dirty)
        results = push_images(plan_made, project.engine, RegistryShelf(project.registry), say, project.abort)
        if not only:  # a release is all images of a revision
            sizes = image_sizes(results, known_sizes, project.size)
            path = write_release(project.config.state, describe_release(plan_made, results, sizes))
            say(f"release of {plan_made.revision}: {os.path.relpath(path)}")
    if json:
        _print_json(as_json(results))


@command(iterable=["only"], help={**SELECT, **JSON})
def plan(_context: Context, only: list[str], json: bool = False) -> None:
    """Show what would happen to each image, and why."""
    from pipeline.tasks.wiring import ImageProject

    with ImageProject(read_project(), say) as project:
        _show_plan(project.read_plan(only), json)


@command(help={"svg": "Write a picture to this file instead (needs Graphviz)."})
def graph(_context: Context, svg: str = "") -> None:
    """Draw the image hierarchy: Mermaid on stdout, or an SVG file."""
    from pipeline.adapters.graphviz import write_svg
    from pipeline.images.graph import draw_dot, draw_mermaid
    from pipeline.images.hierarchy import read_hierarchy

    hierarchy = read_hierarchy(read_project())
    if svg:
        write_svg(draw_dot(hierarchy), Path(svg))
    else:
        print(draw_mermaid(hierarchy))


@command(name="update")
def pins_update(_context: Context) -> None:
    """Ask for every base image anew and pin what is found in pipeline.lock."""
    from pipeline.images.bases import write_pins
    from pipeline.tasks.wiring import ImageProject

    with ImageProject(read_project(), say) as project:
        bases = project.bases(project.hierarchy, only_missing=False, remember=False)
    pinned = write_pins(project.config.root, bases)
    for reference in sorted(bases.found):
        print(f"{reference}: {bases.describe(reference)}" + ("" if reference in pinned else " (not pinned)"))


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
