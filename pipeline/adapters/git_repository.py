"""Git, asked through its own command: one process for branch, commit and changes together (3 ms; GitPython costs 100)."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

from pipeline.errors import RevisionError
from pipeline.revision import GitFacts

MANY = 8  # paths in one folder
# Which repository is meant: git gives these to its hooks, and they would win over the folder (git rev-parse --local-env-vars).
SETTINGS = frozenset(
    f"GIT_{name}"
    for name in [
        "ALTERNATE_OBJECT_DIRECTORIES",
        "COMMON_DIR",
        "DIR",
        "GRAFT_FILE",
        "IMPLICIT_WORK_TREE",
        "INDEX_FILE",
        "INTERNAL_SUPER_PREFIX",
        "NO_REPLACE_OBJECTS",
        "OBJECT_DIRECTORY",
        "PREFIX",
        "REPLACE_REF_BASE",
        "SHALLOW_FILE",
        "WORK_TREE",
    ]
)
ARCHIVE = "REVISION"  # names the commit of a source archive, where there is no git
ARCHIVE_HINT = (
    "Its first line is the commit, the second the time of it: git log -1 --format='%H%n%ct' > REVISION before packing, or commit it "
    "with the content $Format:%H%n%ct$ and the line `REVISION export-subst` in .gitattributes, for git archive."
)


def read_git(project: Path, folders: Sequence[str]) -> GitFacts:
    """Read commit, branch, and the uncommitted changes below `folders` (relative to `project`; ignored files are none).

    Changes beside them may be among them: of many folders in one place, the place itself is looked at.
    Of an unpacked source archive its file REVISION is read instead; nobody can say what was changed in it since.
    Raises RevisionError where `project` is in no work tree, has no commit yet, or git fails.
    """
    top = _top(project)
    if not (top / ".git").exists():
        return GitFacts(_read_archive(top)[0], "", frozenset())
    prefix = project.relative_to(top).as_posix() + "/" if project != top else ""
    status = _read_status(project, top, _few(_visible(project, folders)) or ["."])
    if status.commit == "(initial)":
        raise RevisionError(f"{project} has no commit yet", "Images are named after a commit: git add … && git commit")
    detached = status.branch == "(detached)"
    return GitFacts(
        commit=status.commit,
        branch="" if detached else status.branch,
        changed=frozenset(path.removeprefix(prefix) for path in status.changed if path.startswith(prefix)),
        remotes=tuple(ask_git(project, "remote").split()) if detached else (),
        missing=find_missing_below(project),
    )


class _Status(NamedTuple):
    commit: str
    branch: str
    changed: set[str]  # relative to the top


def _read_status(folder: Path, top: Path, paths: Sequence[str]) -> _Status:
    """What git says of `paths` (relative to `folder`), with what is changed within submodules and other repositories among them."""
    command = ["status", "--porcelain=v2", "--branch", "--no-renames", "--untracked-files=all", "--ignore-submodules=none"]
    commit = branch = ""
    changed: set[str] = set()
    for record in ask_git(folder, *command, "--no-ahead-behind", "-z", "--", *paths).split("\0"):
        kind, _, rest = record.partition(" ")
        if record.startswith("# branch.oid "):
            commit = record.removeprefix("# branch.oid ")
        elif record.startswith("# branch.head "):
            branch = record.removeprefix("# branch.head ")
        elif kind == "1":
            state, module, _, _, _, recorded, _, path = rest.split(" ", 7)
            changed.add(path)
            if module.startswith("S") and (top / path / ".git").exists():
                moved = module[1] == "C" or state[0] != "."  # against the index, or the index against the commit
                changed.update(f"{path}/{inner}" for inner in _changed_in_submodule(top / path, recorded if moved else ""))
        elif kind == "u":
            changed.add(rest.split(" ", 9)[9])
        elif kind == "?" and rest.endswith("/"):  # a repository that is no submodule: nothing of it is in this one's commit
            inside = ask_git(top / rest, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
            changed.update(f"{rest}{inner}" for inner in inside if inner)
        elif kind == "?":
            changed.add(rest)
    return _Status(commit, branch, changed)


def _changed_in_submodule(folder: Path, recorded: str) -> set[str]:
    """What is uncommitted there, and what differs from the commit that was `recorded`, where that is another one.

    All of it where that commit is not there: the submodule is new, or its clone holds only a part of the history.
    """
    changed = _read_status(folder, folder, ["."]).changed
    if recorded:
        differing = ["diff", "--name-only", "--no-renames", recorded, "HEAD"] if find_commit(folder, recorded) else ["ls-files", "--cached"]
        changed.update(filter(None, ask_git(folder, *differing, "-z").split("\0")))
    return changed


def _visible(project: Path, folders: Sequence[str]) -> list[str]:
    """`folders`, those within a repository below the project by that repository: git says nothing of paths in it, only of itself."""
    known: dict[str, str] = {"": "", ".": ""}  # folder → the outermost repository that it is, or lies in

    def repository_of(folder: str) -> str:
        if folder not in known:
            known[folder] = repository_of(folder.rpartition("/")[0]) or (folder if (project / folder / ".git").exists() else "")
        return known[folder]

    return [repository_of(folder) or folder for folder in folders]


def find_missing_below(project: Path) -> tuple[str, ...]:
    """The submodules below `project` that are not checked out, relative to it."""
    top = find_top(project)
    if top is None or not (top / ".gitmodules").is_file():
        return ()
    prefix = project.relative_to(top).as_posix() + "/" if project != top else ""
    try:
        listed = ask_git(top, "config", "--file", ".gitmodules", "--null", "--get-regexp", r"^submodule\..*\.path$").split("\0")
    except RevisionError:
        return ()  # a file that names none
    paths = [path for entry in listed if (path := entry.partition("\n")[2]).startswith(prefix) and entry]
    return tuple(sorted(path.removeprefix(prefix) for path in paths if not (top / path / ".git").exists()))


def is_shallow(project: Path) -> bool:
    """Whether this clone holds only the newest part of the history."""
    try:
        return ask_git(project, "rev-parse", "--is-shallow-repository").strip() == "true"
    except RevisionError:
        return False


def commit_time(project: Path, commit: str) -> int:
    """When a commit was committed, in seconds since 1970. Raises RevisionError for one that is not in this clone."""
    top = _top(project)
    if not (top / ".git").exists():
        known, seconds = _read_archive(top)
        if known == commit and seconds is not None:
            return seconds
        raise RevisionError(f"{top / ARCHIVE} does not say when {commit[:12]} was committed", ARCHIVE_HINT)
    return int(ask_git(project, "show", "--no-patch", "--format=%ct", commit).split()[-1])


def find_commit(project: Path, name: str) -> str:
    """The full commit that a name stands for in this clone; empty where it stands for none."""
    try:
        return ask_git(project, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
    except RevisionError:
        return ""


def relate_commits(project: Path, old: str, new: str) -> Literal["same", "forward", "backward", "diverged", "unknown"]:
    """How `new` stands to `old` in history; `unknown` where this clone does not hold enough of it (it is shallow, or too old)."""
    if old == new:
        return "same"
    if not find_commit(project, old) or not find_commit(project, new):
        return "unknown"
    if _is_ancestor(project, old, new):
        return "forward"
    if _is_ancestor(project, new, old):
        return "backward"
    return "unknown" if is_shallow(project) else "diverged"


def _is_ancestor(project: Path, old: str, new: str) -> bool:
    """Of a shallow clone, only a yes can be believed."""
    try:
        ask_git(project, "merge-base", "--is-ancestor", old, new)
    except RevisionError:
        return False
    return True


def source_url(project: Path) -> str:
    """Where the project comes from (the remote `origin`), without credentials; empty where there is no such remote."""
    try:
        if not (_top(project) / ".git").exists():
            return ""  # a source archive, unpacked within another repository perhaps
        url = ask_git(project, "config", "--get", "remote.origin.url").strip()
    except RevisionError:
        return ""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url  # user@host:path, or a folder: has no room for a password
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{re.split('[?#]', path)[0]}"


def find_top(folder: Path) -> Path | None:
    """The top of the work tree that `folder` is in; None where it is in none."""
    return next((above for above in (folder, *folder.parents) if (above / ".git").exists()), None)


def merge_texts(ours: str, base: str, theirs: str) -> str | None:
    """Both sides' changes together, as git puts them together; None where they contradict each other."""
    with TemporaryDirectory(prefix="pipeline-") as folder:
        files = [Path(folder, name) for name in ("ours", "base", "theirs")]
        for file, text in zip(files, (ours, base, theirs), strict=True):
            file.write_text(text, encoding="utf-8")
        try:
            return ask_git(Path(folder), "merge-file", "--stdout", *map(str, files))
        except RevisionError:
            return None


def _few(folders: Sequence[str]) -> list[str]:
    """git compares each file with each path it is given: 20,000 files with 2,000 paths take over a second (seen), with 3 none."""
    places = Counter(folder.rpartition("/")[0] for folder in folders)
    return sorted({place if places[place := folder.rpartition("/")[0]] > MANY and place else folder for folder in folders})


def _top(project: Path) -> Path:
    for folder in (project, *project.parents):
        if (folder / ".git").exists() or (folder / ARCHIVE).is_file():
            return folder
    raise RevisionError(
        f"{project} is not in a Git repository",
        "Images are named after branch and commit: git init && git add … && git commit. "
        f"A source archive needs a file {ARCHIVE}, whose first line is the commit.",
    )


def _read_archive(top: Path) -> tuple[str, int | None]:
    """Commit, and when it was committed, as the archive's REVISION says."""
    commit, seconds, *_ = [*(top / ARCHIVE).read_text(encoding="utf-8", errors="replace").split(), "", ""]
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", commit):
        raise RevisionError(f"{top / ARCHIVE}:1: '{commit}' is not a whole commit", ARCHIVE_HINT)
    if not re.fullmatch(r"[0-9]{0,12}", seconds):
        raise RevisionError(f"{top / ARCHIVE}:2: '{seconds}' is no time in seconds since 1970", ARCHIVE_HINT)
    return commit, int(seconds) if seconds else None


def ask_git(folder: Path, *arguments: str) -> str:
    """What git prints, started in `folder`. Raises RevisionError with what it says where it fails."""
    try:
        result = subprocess.run(
            ["git", "--literal-pathspecs", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            check=False,
            env={name: value for name, value in os.environ.items() if name not in SETTINGS},
        )
    except FileNotFoundError:
        raise RevisionError("git is not installed", "On Debian or Ubuntu: apt-get install git") from None
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip() or f"exit code {result.returncode}"
        raise RevisionError(f"git {arguments[0]} failed in {folder}: {said}", "What git says above tells how to mend it.")
    return result.stdout.decode("utf-8", "surrogateescape")
