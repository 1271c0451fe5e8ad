"""Which revision is built, as CI servers and git say it, and the tags it gives to images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pipeline.errors import RevisionError
from pipeline.revision import GitFacts, Revision, branch_tag, commit_tag, content_tag, name_revision

COMMIT = "1a2b3c4d5e6f" + "0" * 28
OTHER = "f" * 40


def git(branch: str = "", remotes: tuple[str, ...] = ("origin",)) -> GitFacts:
    return GitFacts(COMMIT, branch, frozenset(), remotes)


ENVIRONMENTS = yaml.safe_load((Path(__file__).parent / "build_environments.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", ENVIRONMENTS, ids=lambda case: case["name"])
def test_build_environments(case: dict[str, Any]) -> None:
    stand_for = {"COMMIT": COMMIT, "OTHER": OTHER, "COMMIT_IN_CAPITALS": COMMIT.upper()}
    environ = {name: stand_for.get(value, value) for name, value in case["variables"].items()}
    says = {"branch": "", "remotes": ["origin"], **case.get("git", {})}
    facts = git(says["branch"], tuple(says["remotes"]))
    if "branch" in case:
        assert name_revision(facts, environ) == Revision(case["branch"], COMMIT)
    else:
        with pytest.raises(RevisionError, match=re.escape(case["refused"])) as caught:
            name_revision(facts, environ)
        assert "PIPELINE_BRANCH=" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["GIT_COMMIT", "bamboo_planRepository_revision", "bamboo_planRepository_1_revision", "bamboo_repository_revision_number"]
)
@pytest.mark.parametrize("said", [OTHER, OTHER[:12], COMMIT[:6]])
def test_a_server_that_disagrees_about_the_commit_is_an_error(name: str, said: str) -> None:
    with pytest.raises(RevisionError, match=f"{name} says {said[:12]}, but the checkout is at {COMMIT[:12]}") as caught:
        name_revision(git("main"), {name: said, "BRANCH_NAME": "main"})
    assert "PIPELINE_BRANCH" in caught.value.hint


def test_a_detached_head_that_nobody_names_is_an_error() -> None:
    with pytest.raises(RevisionError, match="HEAD is detached at 1a2b3c4d5e6f") as caught:
        name_revision(git(), {})
    assert "PIPELINE_BRANCH=NAME" in caught.value.hint


@pytest.mark.parametrize("variable", ["PIPELINE_BRANCH", "BRANCH_NAME", "GIT_BRANCH", "bamboo_planRepository_branchName"])
def test_an_empty_variable_names_nothing(variable: str) -> None:
    assert name_revision(git("main"), {variable: ""}).branch == "main"


def test_a_revision_reads_well() -> None:
    assert str(Revision("main", COMMIT)) == "main at 1a2b3c4d5e6f"
    assert str(Revision("main", COMMIT, True)) == "main at 1a2b3c4d5e6f with uncommitted changes"


@pytest.mark.parametrize(
    ("branch", "tag"),
    [
        ("main", "main"),
        ("release-1.2", "release-1.2"),
        ("feature/a", "feature__a"),
        ("feature_a", "feature_a"),
        ("PR-24", "PR-24"),
        ("user/fix/1", "user__fix__1"),
        ("v1.0", "v1.0"),
        ("2026", "2026"),
    ],
)
def test_ordinary_names_stay_plain(branch: str, tag: str) -> None:
    assert branch_tag(branch) == tag
    assert commit_tag(Revision(branch, COMMIT)) == f"{tag}-1a2b3c4d5e6f"
    assert branch_tag(branch, dirty=True) == f"{tag}-dirty"
    assert commit_tag(Revision(branch, COMMIT), dirty=True) == f"{tag}-1a2b3c4d5e6f-dirty"


@pytest.mark.parametrize(
    "branch",
    ["latest", "content", "content-x", "content-" + "a" * 32, "1a2b3c4", COMMIT, f"main-{COMMIT[:12]}", "main-dirty", "feature__a", "a_/b",
     "größe", "日本", "-x", ".x", "a b", "x" * 110, "main_x" + "0" * 20, ""],
)  # fmt: skip
def test_names_that_would_collide_or_are_no_tag_are_escaped(branch: str) -> None:
    assert re.search(r"_x[0-9a-f]{20}$", branch_tag(branch))


def test_known_pairs_of_other_tools_stay_apart() -> None:
    names = ["feature/a", "feature_a", "feature__a", "feature-a", "Feature/a", "feature/A", "feature_/a", "feature/_a", "日", "本"]
    assert len({branch_tag(name) for name in names}) == len(names)


TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
PARTS = ["feature", "a", "_", "__", "/", "-", ".", "dirty", "-dirty", "latest", "content-", "x", "_x", "0" * 20, "ab" * 16, "A", "é", "日"]
BRANCHES = (
    st.text(min_size=1, max_size=200)
    | st.from_regex(r"[a-z_/.-]{1,12}", fullmatch=True)
    | st.lists(st.sampled_from([*PARTS, "-" + COMMIT[:12], COMMIT[:12], COMMIT]), min_size=1, max_size=5).map("".join)
)
COMMITS = st.from_regex(r"[0-9a-f]{40}", fullmatch=True)


@given(BRANCHES, COMMITS, st.booleans())
@example("x" * 300, COMMIT, True)
def test_every_tag_is_a_valid_tag(branch: str, commit: str, dirty: bool) -> None:
    assert TAG.fullmatch(branch_tag(branch, dirty))
    assert TAG.fullmatch(commit_tag(Revision(branch, commit), dirty))


@given(BRANCHES, BRANCHES, COMMITS, COMMITS, st.booleans(), st.booleans())
@example("feature/a", "feature__a", COMMIT, COMMIT, False, False)
@example("a", f"a-{COMMIT[:12]}", COMMIT, COMMIT, False, False)
@example("a", "a-dirty", COMMIT, COMMIT, True, False)
def test_different_branches_never_share_a_tag(one: str, two: str, first: str, second: str, dirty: bool, other: bool) -> None:
    assume(one != two)
    assert branch_tag(one, dirty) != branch_tag(two, other)
    assert commit_tag(Revision(one, first), dirty) != commit_tag(Revision(two, second), other)


@given(BRANCHES, BRANCHES, COMMITS, st.from_regex(r"[0-9a-f]{64}", fullmatch=True), st.booleans(), st.booleans())
@example(f"a-{COMMIT[:12]}", "a", COMMIT, "0" * 64, False, False)
@example("content-" + "0" * 32, "content", COMMIT, "0" * 64, False, False)
def test_the_three_kinds_never_collide(one: str, two: str, commit: str, fingerprint: str, dirty: bool, other: bool) -> None:
    tags = {branch_tag(one, dirty), commit_tag(Revision(two, commit), other), content_tag(fingerprint)}
    assert len(tags) == 3
    assert "latest" not in tags


@given(BRANCHES, COMMITS)
def test_dirty_never_equals_clean(branch: str, commit: str) -> None:
    assert branch_tag(branch, True) != branch_tag(branch)
    assert commit_tag(Revision(branch, commit), True) != commit_tag(Revision(branch, commit))
