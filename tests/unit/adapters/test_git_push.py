"""What a pre-push hook is told, and what is built of it, with real repositories."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.adapters.git_push import Pushed, checked_out, install_hook, pushed_paths, read_pushed
from pipeline.errors import ConfigurationError, RevisionError

ONE, TWO, NONE = "1" * 40, "2" * 40, "0" * 40


class Clone:
    """A clone with a remote of its own."""

    def __init__(self, folder: Path) -> None:
        self.root, self.remote = folder / "clone", folder / "remote.git"
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", self.remote], check=True)
        subprocess.run(["git", "init", "-q", "-b", "main", self.root], check=True)
        self.git("remote", "add", "origin", str(self.remote))
        self.commit("first", "one")
        self.git("push", "-q", "origin", "main")

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.com"]
        return subprocess.run(["git", "-C", self.root, *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, path: str, text: str) -> str:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "-q", "-m", path)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_branches_are_read_from_what_git_says() -> None:
    lines = f"refs/heads/x {ONE} refs/heads/feature/x {TWO}\nHEAD {TWO} refs/heads/new {NONE}\n"
    assert read_pushed(Path(), lines, {}) == [Pushed("feature/x", ONE, TWO), Pushed("new", TWO, "")]


def test_tags_and_deleted_branches_are_left_out() -> None:
    lines = f"refs/tags/v1 {ONE} refs/tags/v1 {NONE}\n(delete) {NONE} refs/heads/old {ONE}\nrefs/notes/n {ONE} refs/notes/n {NONE}\n"
    assert read_pushed(Path(), lines, {}) == []


def test_a_branch_is_read_from_what_pre_commit_says() -> None:
    environ = {"PRE_COMMIT_FROM_REF": NONE, "PRE_COMMIT_TO_REF": ONE, "PRE_COMMIT_REMOTE_BRANCH": "refs/heads/x"}
    assert read_pushed(Path(), "", environ) == [Pushed("x", ONE, "")]


def test_of_a_whole_history_pre_commit_says_the_branch_alone(clone: Clone) -> None:
    environ = {"PRE_COMMIT_LOCAL_BRANCH": "refs/heads/main", "PRE_COMMIT_REMOTE_BRANCH": "refs/heads/x"}
    assert read_pushed(clone.root, "", environ) == [Pushed("x", clone.git("rev-parse", "HEAD"), "")]


def test_what_no_remote_has_is_what_is_pushed(clone: Clone) -> None:
    old = clone.git("rev-parse", "HEAD")
    clone.commit("a/one", "1")
    new = clone.commit("b/two", "2")
    assert pushed_paths(clone.root, Pushed("main", new, old)) == {"a/one", "b/two"}
    assert pushed_paths(clone.root, Pushed("other", new, "")) == {"a/one", "b/two"}
    assert pushed_paths(clone.root, Pushed("forced", new, TWO)) == {"a/one", "b/two"}  # what the remote has is not known here
    clone.git("push", "-q", "origin", "HEAD:elsewhere")
    assert pushed_paths(clone.root, Pushed("main", new, old)) == set()


def test_a_merge_counts_where_it_changes_more_than_it_merges(clone: Clone) -> None:
    base = clone.git("rev-parse", "HEAD")
    clone.git("switch", "-q", "-c", "side")
    clone.commit("side", "1")
    clone.git("push", "-q", "origin", "side")
    clone.git("switch", "-q", "main")
    clone.commit("mine", "1")
    clone.git("push", "-q", "origin", "main")
    clone.git("merge", "-q", "--no-edit", "side")
    assert pushed_paths(clone.root, Pushed("main", clone.git("rev-parse", "HEAD"), base)) == set()
    (clone.root / "side").write_text("otherwise", encoding="utf-8")
    (clone.root / "mine").write_text("otherwise", encoding="utf-8")
    clone.git("commit", "-q", "-a", "--amend", "--no-edit")
    assert pushed_paths(clone.root, Pushed("main", clone.git("rev-parse", "HEAD"), base)) == {"side", "mine"}


def test_a_checkout_holds_what_is_committed_and_is_gone_afterwards(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = clone.commit("sub/file", "committed")
    (clone.root / "sub/file").write_text("not committed", encoding="utf-8")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a hook
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere")
    with checked_out(clone.root / "sub", commit) as folder:
        assert (folder / "file").read_text(encoding="utf-8") == "committed"
    monkeypatch.undo()
    assert not folder.exists()
    assert len(clone.git("worktree", "list").splitlines()) == 1


def test_a_commit_that_is_not_there_leaves_nothing(clone: Clone) -> None:
    with pytest.raises(RevisionError, match="worktree"), checked_out(clone.root, ONE):
        pass
    assert len(clone.git("worktree", "list").splitlines()) == 1


def test_a_hook_is_written_once_and_again_but_not_over_another_one(clone: Clone) -> None:
    hook = install_hook(clone.root, "echo one\n")
    assert install_hook(clone.root, "echo two\n") == hook
    assert subprocess.run([hook], capture_output=True, text=True, check=True).stdout == "two\n"
    hook.write_text("#!/bin/sh\necho mine\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="another hook") as caught:
        install_hook(clone.root, "echo three\n")
    assert "echo three" in caught.value.hint
    assert "mine" in hook.read_text(encoding="utf-8")


def test_hooks_that_are_kept_elsewhere_are_left_alone(clone: Clone) -> None:
    clone.git("config", "core.hooksPath", ".husky")
    with pytest.raises(ConfigurationError, match=r"\.husky \(core.hooksPath\)"):
        install_hook(clone.root, "echo one\n")
    assert not (clone.root / ".husky").exists()
