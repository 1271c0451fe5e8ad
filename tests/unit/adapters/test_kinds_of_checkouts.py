"""Checkouts that are not a plain clone: each works, or says what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from git import Repo

from pipeline.adapters.git_push import checked_out
from pipeline.adapters.git_repository import (
    commit_time,
    find_commit,
    find_missing_below,
    find_top,
    is_shallow,
    merge_texts,
    read_git,
    relate_commits,
)
from pipeline.errors import RevisionError
from tests.unit.adapters.test_git_repository import commit, root_of

LOCAL = "protocol.file.allow=always"  # git takes no submodule from a folder of this machine otherwise


@pytest.fixture
def inner(tmp_path: Path) -> Iterator[Repo]:
    with Repo.init(tmp_path / "inner", initial_branch="main") as made:
        commit(made, docker__Dockerfile="FROM x\n", docker__f="1", other="1")
        yield made


@pytest.fixture
def outer(tmp_path: Path, inner: Repo) -> Iterator[Repo]:
    """A repository with another one as its submodule vendor/inner."""
    with Repo.init(tmp_path / "outer", initial_branch="main") as made:
        commit(made, app__f="1")
        made.git.execute(["git", "-c", LOCAL, "submodule", "add", root_of(inner).as_posix(), "vendor/inner"])
        commit(made)
        yield made


def changed(repository: Repo, *folders: str) -> set[str]:
    return set(read_git(root_of(repository), folders).changed)


def clone(repository: Repo, to: Path, *options: str) -> Repo:
    Repo(root_of(repository)).git.execute(["git", "clone", "--quiet", *options, f"file://{root_of(repository)}", str(to)])
    return Repo(to)


@pytest.mark.parametrize("folder", ["vendor/inner/docker", "vendor/inner", "vendor", "."])
def test_a_change_in_a_submodule_is_a_change(outer: Repo, folder: str) -> None:
    inside = root_of(outer) / "vendor/inner/docker"
    assert changed(outer, folder) == set()
    (inside / "f").write_text("2")
    assert "vendor/inner/docker/f" in changed(outer, folder)
    (inside / "f").write_text("1")
    (inside / "new").write_text("1")
    assert "vendor/inner/docker/new" in changed(outer, folder)


def test_settings_that_hide_submodules_hide_no_change(outer: Repo) -> None:
    with outer.config_writer() as config:
        config.set_value("diff", "ignoreSubmodules", "all")
    (root_of(outer) / "vendor/inner/docker/f").write_text("2")
    assert "vendor/inner/docker/f" in changed(outer, "vendor/inner/docker")


@pytest.mark.parametrize("staged", [False, True])
def test_another_commit_of_a_submodule_is_a_change_of_what_differs(outer: Repo, staged: bool) -> None:
    commit(Repo(root_of(outer) / "vendor/inner"), docker__f="2")
    if staged:
        outer.git.add("vendor/inner")
    found = changed(outer, "vendor/inner/docker", "app")
    assert "vendor/inner/docker/f" in found
    assert "vendor/inner/other" not in found
    commit(outer)
    assert changed(outer, "vendor/inner/docker") == set()


def test_all_of_a_submodule_that_is_new_or_of_an_unknown_commit_is_changed(outer: Repo, inner: Repo) -> None:
    outer.git.execute(["git", "-c", LOCAL, "submodule", "add", root_of(inner).as_posix(), "new"])
    assert {"new/docker/f", "new/other"} <= changed(outer, "new/docker")
    commit(Repo(root_of(outer) / "new"), docker__f="2")
    assert {"new/docker/f", "new/other"} <= changed(outer, "new/docker")
    commit(outer)
    outer.git.update_index("--cacheinfo", f"160000,{'1' * 40},new")
    outer.git.commit("-m", "a commit that its clone has not")
    assert {"new/docker/f", "new/other"} <= changed(outer, "new/docker")


def test_a_submodule_in_a_submodule(outer: Repo, tmp_path: Path) -> None:
    with Repo.init(tmp_path / "outermost", initial_branch="main") as outermost:
        outermost.git.execute(["git", "-c", LOCAL, "submodule", "add", root_of(outer).as_posix(), "deep"])
        outermost.git.execute(["git", "-c", LOCAL, "submodule", "update", "--init", "--recursive"])
        commit(outermost)
        assert changed(outermost, "deep/vendor/inner/docker") == set()
        (root_of(outermost) / "deep/vendor/inner/docker/f").write_text("2")
        assert "deep/vendor/inner/docker/f" in changed(outermost, "deep/vendor/inner/docker")


def test_what_is_pushed_has_its_submodules(outer: Repo, tmp_path: Path) -> None:
    with Repo.init(tmp_path / "outermost", initial_branch="main") as outermost:
        outermost.git.execute(["git", "-c", LOCAL, "submodule", "add", root_of(outer).as_posix(), "deep"])
        outermost.git.execute(["git", "-c", LOCAL, "submodule", "update", "--init", "--recursive"])
        deep = root_of(outermost) / "deep"
        commit(Repo(deep / "vendor/inner"), docker__f="not pushed anywhere")
        commit(Repo(deep))
        pushed = commit(outermost)
        (deep / "vendor/inner/docker/f").write_text("not committed")
        with checked_out(root_of(outermost), pushed) as folder:
            assert (folder / "deep/vendor/inner/docker/f").read_text() == "not pushed anywhere"
            assert read_git(folder, ["deep/vendor/inner/docker"]).changed == frozenset()
        assert len(outermost.git.worktree("list").splitlines()) == 1


def test_submodules_that_are_not_checked_out_are_named(outer: Repo, tmp_path: Path) -> None:
    commit(outer, sub__project__f="1")
    outer.git.execute(["git", "-c", LOCAL, "submodule", "add", root_of(outer).as_posix() + "/../inner", "sub/project/lib"])
    commit(outer)
    made = root_of(clone(outer, tmp_path / "clone"))
    assert find_missing_below(made) == ("sub/project/lib", "vendor/inner")
    assert read_git(made / "sub/project", ["."]).missing == ("lib",)
    assert find_missing_below(root_of(outer)) == ()


def test_a_repository_that_is_itself_a_submodule(outer: Repo, inner: Repo) -> None:
    project = root_of(outer) / "vendor/inner"
    assert read_git(project, ["docker"]).commit == inner.head.commit.hexsha
    (project / "docker/f").write_text("2")
    assert read_git(project, ["docker"]).changed == {"docker/f"}
    assert find_top(project / "docker") == project


def test_a_repository_that_only_lies_there_is_uncommitted(outer: Repo) -> None:
    with Repo.init(root_of(outer) / "tools") as tools:
        commit(tools, docker__f="1")
        for folder in ("tools/docker", "tools", "."):
            assert "tools/docker/f" in changed(outer, folder)
        assert changed(outer, "app") == set()


def test_several_projects_in_one_repository_have_changes_of_their_own(outer: Repo) -> None:
    commit(outer, one__pipeline_yaml="", one__image__f="1", two__image__f="1")
    (root_of(outer) / "one/image/f").write_text("2")
    assert read_git(root_of(outer) / "one", ["image"]).changed == {"image/f"}
    assert read_git(root_of(outer) / "two", ["image"]).changed == set()


def test_a_shallow_clone_knows_its_commit_and_no_more(inner: Repo, tmp_path: Path) -> None:
    old = inner.head.commit.hexsha
    new = commit(inner, other="2")
    made = root_of(clone(inner, tmp_path / "clone", "--depth", "1"))
    assert is_shallow(made)
    assert not is_shallow(root_of(inner))
    assert read_git(made, ["docker"]).commit == new
    assert read_git(made, ["docker"]).branch == "main"
    assert commit_time(made, new) > 0
    assert find_commit(made, "HEAD~1") == ""
    assert relate_commits(made, old, new) == "unknown"
    with pytest.raises(RevisionError):
        commit_time(made, old)


def test_merging_needs_no_repository() -> None:
    base = "".join(f"{number}\n" for number in range(20))
    assert merge_texts(base.replace("2\n", "two\n", 1), base, base + "end\n") == base.replace("2\n", "two\n", 1) + "end\n"
    assert merge_texts("ours\n", "base\n", "theirs\n") is None
