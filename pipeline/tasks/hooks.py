"""invoke hooks.install, hooks.pre-push: what is about to be pushed is built first, as it is committed."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context

from pipeline.tasks.command import command, read_project, say

if TYPE_CHECKING:
    from pipeline.adapters.git_push import Pushed
    from pipeline.config import Config

LIMIT = 600  # seconds
CHOICES = {
    "itest": "Run the integration tests of the pushed commit, too.",
    "first": "A command to run in the checkout before the build, for what is not committed. Example: --first 'mvn -q -o package'",
    "limit": f"Seconds that it may take (default: {LIMIT}).",
}


@command(name="install", help=CHOICES)
def hooks_install(_context: Context, itest: bool = False, first: str = "", limit: int = LIMIT) -> None:
    """Let git build the images that a push touches, before it.

    `git push --no-verify` skips it. Example: invoke hooks.install --itest --limit 900
    """
    from pipeline.adapters.git_push import install_hook, top_of

    config = read_project()
    folder = config.root.relative_to(top_of(config.root)).as_posix()
    own = config.root / "invokew"
    program = "./invokew" if own.is_file() else f"{shlex.quote(sys.executable)} -m invoke"
    options = [f"--limit {limit}", *(["--itest"] if itest else []), *([f"--first {shlex.quote(first)}"] if first else [])]
    hook = install_hook(config.root, f"cd {shlex.quote(folder)} && exec {program} hooks.pre-push {' '.join(options)}\n")
    say(f"hooks: {hook}")


@command(name="pre-push", help=CHOICES)
def hooks_pre_push(_context: Context, itest: bool = False, first: str = "", limit: int = LIMIT) -> None:
    """Build the images that the pushed commits touch, as committed, not as they lie here.

    Git's hook calls this, with what is pushed on standard input; it is not listed. Example: invoke hooks.pre-push --limit 60
    """
    from pipeline.adapters.git_push import read_pushed
    from pipeline.errors import ConfigurationError

    if limit <= 0:
        raise ConfigurationError(f"--limit {limit}: there is no such time", "Write seconds, for example --limit 600.")
    config = read_project()
    ends = time.monotonic() + limit
    for pushed in read_pushed(config.root, "" if sys.stdin.isatty() else sys.stdin.read(), os.environ):
        touched = _touched(config, pushed)
        only_tests = itest and not config.defines_images
        if touched is not None and not touched and not only_tests:
            say(f"pre-push: {pushed.branch} touches no image")
            continue
        _build(config, pushed, touched or [], first, itest, ends)


class WithHidden(Collection):
    """A collection that also has `pre-push`, and does not list it: programs call it, not people."""

    @property
    def task_names(self) -> dict[str, list[str]]:
        return {**super().task_names, _HIDDEN: []}

    def task_with_config(self, name: str | None) -> tuple[Any, dict[str, Any]]:
        return (hooks_pre_push, self.configuration()) if name == _HIDDEN else super().task_with_config(name)


_HIDDEN = "pre-push"


def _touched(config: Config, pushed: Pushed) -> list[str] | None:
    """The images that the pushed commits change, with those built on them; None where only their own checkout can tell."""
    from pipeline.adapters.git_push import pushed_paths, top_of
    from pipeline.adapters.git_repository import find_commit
    from pipeline.config import CONFIG_FILE
    from pipeline.images.bases import LOCK_FILE
    from pipeline.images.hierarchy import read_hierarchy

    folder = config.root.relative_to(top_of(config.root)).as_posix()
    prefix = "" if folder == "." else f"{folder}/"
    paths = [path.removeprefix(prefix) for path in pushed_paths(config.root, pushed) if path.startswith(prefix)]
    if not paths:
        return []
    if pushed.commit != find_commit(config.root, "HEAD") or {CONFIG_FILE, LOCK_FILE}.intersection(paths):
        return None
    if not config.defines_images:
        return []
    hierarchy = read_hierarchy(config)
    known = {definition.file for definition in hierarchy}
    if any(Path(path).match(pattern) and path not in known for path in paths for pattern in config.images):
        return None  # it is not, or is no longer, in this work tree
    found: list[str] = []
    for definition in hierarchy:  # parents first
        context = "" if definition.context == "." else f"{definition.context}/"
        # what lies above a context is a submodule, at another commit
        own = any(path == definition.file or path.startswith(context) or context.startswith(f"{path}/") for path in paths)
        if own or set(found).intersection(hierarchy.needs(definition)):
            found.append(definition.name)
    return found


def _build(config: Config, pushed: Pushed, images: list[str], first: str, itest: bool, ends: float) -> None:
    from pipeline.adapters.git_push import checked_out, without_git_settings
    from pipeline.adapters.processes import run_program
    from pipeline.config import CONFIG_FILE, read_config
    from pipeline.errors import BuildError

    environment = {**without_git_settings(os.environ), "PIPELINE_BRANCH": pushed.branch}
    only = [word for name in images for word in ("--only", name)]
    commands = [shlex.split(first)] if first else []
    begun = time.monotonic()
    with checked_out(config.root, pushed.commit) as folder:
        if not (folder / CONFIG_FILE).is_file():
            say(f"pre-push: {pushed.branch} at {pushed.commit[:12]} has no {CONFIG_FILE}")
            return
        builds = read_config(folder).defines_images
        commands += [[sys.executable, "-m", "invoke", "build", *only]] if builds else []
        commands += [[sys.executable, "-m", "invoke", "itest"]] if itest else []
        if not commands:
            say(f"pre-push: {pushed.branch} touches no image")
            return
        what = f"{', '.join(images) or ('the images' if builds else 'what is there')} of {pushed.branch} at {pushed.commit[:12]}"
        say(f"pre-push: {'building' if builds else 'trying'} {what}")
        for words in commands:
            code = run_program(words, folder, environment, quiet=True, timeout=max(ends - time.monotonic(), 0.0))
            if code:
                kept = _keep(folder / config.state.name, config.state / "pre-push")
                late = time.monotonic() >= ends
                why = "took too long (--limit)" if late else f"ended with exit code {code}"
                raise BuildError(
                    f"{shlex.join(words)} {why}; nothing was pushed",
                    f"{f'Logs are in {os.path.relpath(kept)}. ' if kept else ''}To push all the same: git push --no-verify",
                )
    say(f"pre-push: {what}: good after {time.monotonic() - begun:.1f} s")


def _keep(state: Path, place: Path) -> Path | None:
    """Copy what the build has written down, since its checkout is removed; where to, or None where there is nothing."""
    shutil.rmtree(place, ignore_errors=True)
    if not state.is_dir():
        return None
    shutil.copytree(state, place, ignore_dangling_symlinks=True)
    return place
