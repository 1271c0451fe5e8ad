"""What a push is about to send, and a checkout of just that, as git's pre-push hook needs them (githooks(5))."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from pipeline.adapters.git_repository import SETTINGS, ask_git, find_commit, find_missing_below
from pipeline.errors import ConfigurationError, RevisionError

HEADS = "refs/heads/"
MARK = "# Written by `invoke hooks.install`; `invoke hooks.install` writes it anew."


class Pushed(NamedTuple):
    """A branch that is about to be pushed: the commit it will be at, and the one the remote has now, empty where it has none."""

    branch: str
    commit: str
    old: str


def read_pushed(project: Path, lines: str, environ: Mapping[str, str]) -> list[Pushed]:
    """Branches from what git gives a pre-push hook on its standard input, or from what the pre-commit framework makes of that.

    Tags, notes and deleted branches are left out: nothing is named after them, and nothing is built of them.
    """
    if "PRE_COMMIT_REMOTE_BRANCH" in environ:
        remote, new, old = (environ.get(f"PRE_COMMIT_{name}", "") for name in ("REMOTE_BRANCH", "TO_REF", "FROM_REF"))
        # of a history that is pushed from its first commit on, the framework says no commits, only what the branch is called here
        found = [Pushed(remote, new or find_commit(project, environ.get("PRE_COMMIT_LOCAL_BRANCH", "")), old)]
    else:
        found = [Pushed(remote, new, old) for _, new, remote, old in (line.split() for line in lines.splitlines() if line.strip())]
    return [
        Pushed(branch.removeprefix(HEADS), commit, "" if set(old) == {"0"} else old)
        for branch, commit, old in found
        if branch.startswith(HEADS) and commit.strip("0")
    ]


def pushed_paths(project: Path, pushed: Pushed) -> set[str]:
    """What the commits change that no remote has yet: paths relative to the repository's top. A merge counts where it changes more."""
    known = [f"^{pushed.old}"] if pushed.old and find_commit(project, pushed.old) else []
    arguments = ["--format=", "--name-only", "--no-renames", "-c", "-z", pushed.commit, *known, "--not", "--remotes"]
    return {path for path in ask_git(project, "log", *arguments).split("\0") if path}


def top_of(project: Path) -> Path:
    """The top folder of the work tree that `project` lies in."""
    return Path(ask_git(project, "rev-parse", "--show-toplevel").rstrip("\n"))


@contextlib.contextmanager
def checked_out(project: Path, commit: str) -> Iterator[Path]:
    """A temporary work tree of `commit`; the path of `project` in it. Uncommitted changes and ignored files are not there.

    Submodules are, at the commits that it records, as far as they are checked out at `project`.
    """
    top = top_of(project)
    inside = project.relative_to(top)
    with TemporaryDirectory(prefix="pipeline-push-") as folder:
        tree = Path(folder) / project.name
        try:
            ask_git(project, "worktree", "add", "--quiet", "--detach", str(tree), commit)
            _check_out_submodules(top, tree)
            yield tree / inside
        finally:
            with contextlib.suppress(RevisionError):  # it was not made
                ask_git(project, "worktree", "remove", "--force", str(tree))


def _check_out_submodules(source: Path, tree: Path) -> None:
    """Those of `tree`, from their clones in `source`: a commit that nobody else has yet is there, too, and nothing is fetched."""
    for path in find_missing_below(tree):
        if (source / path / ".git").exists():
            recorded = ask_git(tree, "rev-parse", f"HEAD:{path}").strip()
            ask_git(tree, "clone", "--quiet", "--shared", "--no-checkout", str(source / path), str(tree / path))
            ask_git(tree / path, "checkout", "--quiet", "--detach", recorded)
            _check_out_submodules(source / path, tree / path)


def install_hook(project: Path, text: str) -> Path:
    """Write the repository's pre-push hook; its path. Raises ConfigurationError where another one is there already."""
    with contextlib.suppress(RevisionError):
        elsewhere = ask_git(project, "config", "--get", "core.hooksPath").strip()
        raise ConfigurationError(
            f"this repository's hooks are those of {elsewhere} (core.hooksPath)", f"Add this to its pre-push:\n{text.strip()}"
        )
    hook = Path(ask_git(project, "rev-parse", "--path-format=absolute", "--git-path", "hooks/pre-push").rstrip("\n"))
    if hook.exists() and MARK not in hook.read_text(encoding="utf-8", errors="replace"):
        raise ConfigurationError(f"there is another hook already: {hook}", f"Add this to it, or remove it:\n{text.strip()}")
    hook.parent.mkdir(parents=True, exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{MARK}\n{text}", encoding="utf-8")
    hook.chmod(0o755)
    return hook


def without_git_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what git tells its hooks of the repository: in another work tree that would be wrong."""
    return {name: value for name, value in environ.items() if name not in SETTINGS}
