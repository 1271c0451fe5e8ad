"""Which revision is being built, from git and from what the build server says, and the tags that it gives to images."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping

import msgspec

from pipeline.errors import RevisionError

SHORT = 12  # hexadecimal digits of a commit in a tag


class GitFacts(msgspec.Struct, frozen=True):
    """What git says of a work tree: `branch` is empty on a detached HEAD; `changed` are paths relative to the project.

    `missing`: submodules below the project that are not checked out.
    """

    commit: str
    branch: str
    changed: frozenset[str]
    remotes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class Revision(msgspec.Struct, frozen=True):
    """Branch and full commit, and whether anything that images are made of has an uncommitted change."""

    branch: str
    commit: str
    dirty: bool = False

    def __str__(self) -> str:
        return f"{self.branch} at {self.commit[:SHORT]}" + (" with uncommitted changes" if self.dirty else "")


def name_revision(git: GitFacts, environ: Mapping[str, str]) -> Revision:
    """The revision: the branch as PIPELINE_BRANCH, the build server or git names it, the commit as git does.

    Raises RevisionError where the build server and git disagree about the commit, or nobody names a branch.
    """
    environ = {name: value.strip() for name, value in environ.items() if value.strip()}
    branch = environ.get("PIPELINE_BRANCH", "")
    if not branch:
        said = _jenkins_branch(environ, git), _bamboo_branch(environ, git)
        branch = next(filter(None, said), git.branch)
    if not branch:
        raise RevisionError(
            f"HEAD is detached at {git.commit[:SHORT]} and nothing names a branch",
            "Check a branch out (git switch NAME), or name it: PIPELINE_BRANCH=NAME",
        )
    return Revision(branch, git.commit)


def _jenkins_branch(environ: Mapping[str, str], git: GitFacts) -> str:
    """The branch as Jenkins names it; empty where it does not. A pull request is `PR-<number>`, whoever made it.

    The variables: Jenkins' own reference of a pipeline's environment (JENKINS_URL/pipeline-syntax/globals#env) and the Git plugin's.
    """
    if "GIT_COMMIT" in environ:
        _check_commits(git, {"GIT_COMMIT": environ["GIT_COMMIT"]})
    if "BRANCH_NAME" in environ:  # multibranch; PR-24 on a pull request, the tag's name on a tag
        return environ["BRANCH_NAME"]
    branch = environ.get("GIT_BRANCH", "")  # with the name of the remote in front, which may be any name
    for prefix in ("refs/heads/", "refs/tags/", "refs/remotes/"):
        branch = branch.removeprefix(prefix)
    first, slash, rest = branch.partition("/")
    remotes = git.remotes or ("origin", first if rest == git.branch else "origin")
    name = rest if slash and first in remotes else branch
    return "" if name in ("detached", "HEAD") else name  # Jenkins' words for a commit that was asked for by its number


def _bamboo_branch(environ: Mapping[str, str], git: GitFacts) -> str:
    """The branch as Bamboo names it; empty where it does not. A pull request is `PR-<key>`, whoever made it.

    A plan may have several repositories, numbered from 1; the first is also given without a number, and by the names of older
    versions. The one that was checked out is the one whose revision git is at.
    Source: "Bamboo variables" in Atlassian's documentation; in a shell their dots are underscores.
    """
    numbers = sorted(int(found[1]) for name in environ if (found := re.fullmatch(r"bamboo_planRepository_(\d+)_\w+", name)))
    places = ["bamboo_planRepository", *(f"bamboo_planRepository_{number}" for number in dict.fromkeys(numbers))]
    said = {f"{place}_revision": place for place in places}
    said["bamboo_repository_revision_number"] = "bamboo_repository"
    commits = {name: environ[name] for name in said if name in environ}
    checked_out = [said[name] for name in _check_commits(git, commits)] or list(said.values())
    if "bamboo_repository_pr_key" in environ and checked_out[0] in (*places[:1], "bamboo_planRepository_1", "bamboo_repository"):
        return f"PR-{environ['bamboo_repository_pr_key']}"
    names = (f"{place}_{last}" for place in checked_out for last in ("branchName", "branch", "branch_name"))
    return next((environ[name].removeprefix("refs/heads/") for name in names if name in environ), "")


def _check_commits(git: GitFacts, said: Mapping[str, str]) -> list[str]:
    """Of variables that name a commit, those that name git's. Raises RevisionError where there are some, and none does."""
    right = [name for name, commit in said.items() if len(commit) >= 7 and git.commit.startswith(commit.lower())]
    if said and not right:
        name, commit = next(iter(said.items()))
        raise RevisionError(
            f"{name} says {commit[:SHORT]}, but the checkout is at {git.commit[:SHORT]}",
            f"Build in the checkout that the build server made, or name the branch yourself: PIPELINE_BRANCH=… (then {name} is not asked).",
        )
    return right


# Tags. Three kinds share one repository: content tags, commit tags and branch tags. The rules below make their three sets
# disjoint for any branch name, and different branches get different tags; tests hold this as a property.

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_RESERVED = re.compile(
    r"latest|content|content-.*"  # what others mean by a tag, and content tags
    r"|.*-[0-9a-f]{12}|.*-dirty"  # would look like a commit tag, or like uncommitted changes
    r"|[0-9a-f]{7,64}"  # would look like a commit
    r"|.*_x[0-9a-f]{20}"  # would look like an escaped name
)
_LONGEST = 128 - len("-") - SHORT - len("-dirty")  # 128: the longest tag (OCI distribution spec)


def content_tag(fingerprint: str) -> str:
    """The tag that stands for an image's content, whatever branch or commit it was made on."""
    return f"content-{fingerprint[:32]}"


def branch_tag(branch: str, dirty: bool = False) -> str:
    """The moving tag of a branch: the branch's own name where that can be a tag, `/` as `__`, else escaped."""
    return _slug(branch) + ("-dirty" if dirty else "")


def commit_tag(revision: Revision, dirty: bool = False) -> str:
    """The immutable tag of branch and commit (with uncommitted changes: marked, and not immutable)."""
    return f"{_slug(revision.branch)}-{revision.commit[:SHORT]}" + ("-dirty" if dirty else "")


def _slug(branch: str) -> str:
    plain = branch.replace("/", "__")
    reversible = "__" not in branch and "_/" not in branch and "/_" not in branch
    if reversible and _PLAIN.fullmatch(plain) and not _RESERVED.fullmatch(plain) and len(plain) <= _LONGEST:
        return plain
    mark = "_x" + hashlib.sha256(branch.encode("utf-8", "surrogateescape")).hexdigest()[:20]
    ascii_only = unicodedata.normalize("NFKD", branch).encode("ascii", "ignore").decode()
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", ascii_only).strip(".-") or "branch"
    return readable[: _LONGEST - len(mark)] + mark
