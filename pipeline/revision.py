"""Which revision is being built, from git and from what the CI server says, and the tags that it gives to images."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping

import msgspec

from pipeline.errors import RevisionError

SHORT = 12  # hexadecimal digits of a commit in a tag


class GitFacts(msgspec.Struct, frozen=True):
    """What git says of a work tree: `branch` is empty on a detached HEAD; `changed` are paths relative to the project."""

    commit: str
    branch: str
    changed: frozenset[str]
    remotes: tuple[str, ...] = ()


class Revision(msgspec.Struct, frozen=True):
    """Branch and full commit, and whether anything that images are made of has an uncommitted change."""

    branch: str
    commit: str
    dirty: bool = False

    def __str__(self) -> str:
        return f"{self.branch} at {self.commit[:SHORT]}" + (" with uncommitted changes" if self.dirty else "")


def name_revision(git: GitFacts, environ: Mapping[str, str]) -> Revision:
    """The revision: the branch as PIPELINE_BRANCH, the CI server or git names it, the commit as git does.

    Raises RevisionError where the CI server and git disagree about the commit, or nobody names a branch.
    """
    branch = environ.get("PIPELINE_BRANCH", "").strip()
    if not branch:
        for name in (
            "GIT_COMMIT",
            "bamboo_planRepository_revision",
            "bamboo_planRepository_1_revision",
            "bamboo_repository_revision_number",
        ):
            said = environ.get(name, "").strip()
            if said and said.lower() != git.commit and not (len(said) >= 7 and git.commit.startswith(said.lower())):
                raise RevisionError(
                    f"{name} says {said[:SHORT]}, but the checkout is at {git.commit[:SHORT]}",
                    f"Build in the checkout that the CI server made, or name the branch yourself: PIPELINE_BRANCH=… (then {name} is not asked).",
                )
        branch = _ci_branch(environ, git) or git.branch
    if not branch:
        raise RevisionError(
            f"HEAD is detached at {git.commit[:SHORT]} and nothing names a branch",
            "Check a branch out (git switch NAME), or name it: PIPELINE_BRANCH=NAME",
        )
    return Revision(branch, git.commit)


def _ci_branch(environ: Mapping[str, str], git: GitFacts) -> str:
    """The branch as Jenkins or Bamboo names it; empty where neither does. A pull request is `PR-<key>`, whoever made it."""
    if environ.get("BRANCH_NAME"):  # Jenkins multibranch; PR-24 on a pull request
        return environ["BRANCH_NAME"]
    if environ.get("GIT_BRANCH"):  # Jenkins: with the name of the remote in front, which may be any name
        branch = environ["GIT_BRANCH"].removeprefix("refs/heads/").removeprefix("refs/remotes/")
        first, slash, rest = branch.partition("/")
        if branch == "detached":  # Jenkins' word for a commit that was asked for by its number
            return ""
        remotes = git.remotes or ("origin", first if rest == git.branch else "origin")
        return rest if slash and first in remotes else branch
    if environ.get("bamboo_repository_pr_key"):
        return f"PR-{environ['bamboo_repository_pr_key']}"
    names = ("bamboo_planRepository_branchName", "bamboo_planRepository_branch", "bamboo_planRepository_1_branchName",
             "bamboo_planRepository_1_branch", "bamboo_repository_branch_name")  # fmt: skip
    return next((environ[name].removeprefix("refs/heads/") for name in names if environ.get(name)), "")


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
