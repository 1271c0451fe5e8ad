"""Git, with real repositories."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from git import Actor, Repo

from pipeline.adapters.git_repository import commit_time, read_git, relate_commits, source_url
from pipeline.errors import RevisionError
from pipeline.revision import GitFacts

SOMEBODY = Actor("Somebody", "somebody@example.com")


def commit(repository: Repo, **files: str) -> str:
    folder = Path(repository.working_dir)
    for path, text in files.items():
        target = folder / path.replace("__", "/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    repository.git.add("--all")
    return repository.index.commit("a change", author=SOMEBODY, committer=SOMEBODY).hexsha


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repo]:
    with Repo.init(tmp_path / "repository", initial_branch="main") as made:
        commit(made, dockerfiles__a__Dockerfile="FROM x\n", dockerfiles__a__f="1", other="1")
        yield made


def root_of(repository: Repo) -> Path:
    return Path(repository.working_dir)


def changed(repository: Repo, *folders: str) -> set[str]:
    return set(read_git(root_of(repository), folders or ["dockerfiles"]).changed)


def test_a_clean_checkout(repository: Repo) -> None:
    facts = read_git(root_of(repository), ["dockerfiles"])
    assert (facts.branch, facts.commit, facts.changed) == ("main", repository.head.commit.hexsha, frozenset())


def test_each_way_a_file_may_change(repository: Repo) -> None:
    root = root_of(repository)
    commit(
        repository, dockerfiles__a__deleted="1", dockerfiles__a__renamed="a file of some length", dockerfiles__a__staged="1", _gitignore=""
    )
    (root / ".gitignore").write_text("*.class\n")
    (root / "dockerfiles/a/f").write_text("2")
    (root / "dockerfiles/a/new").write_text("1")
    (root / "dockerfiles/a/X.class").write_text("1")
    (root / "dockerfiles/a/deleted").unlink()
    repository.git.mv("dockerfiles/a/renamed", "dockerfiles/a/moved")
    (root / "dockerfiles/a/staged").write_text("2")
    repository.git.add("dockerfiles/a/staged")
    (root / "other").write_text("2")
    assert changed(repository) == {f"dockerfiles/a/{name}" for name in ("f", "new", "deleted", "renamed", "moved", "staged")}


def test_chmod_and_a_retargeted_link_are_changes(repository: Repo) -> None:
    root = root_of(repository)
    (root / "dockerfiles/a/link").symlink_to("f")
    commit(repository)
    (root / "dockerfiles/a/f").chmod(0o755)
    (root / "dockerfiles/a/link").unlink()
    (root / "dockerfiles/a/link").symlink_to("Dockerfile")
    assert changed(repository) == {"dockerfiles/a/f", "dockerfiles/a/link"}


def test_a_conflict_is_a_change(repository: Repo) -> None:
    repository.git.switch("-c", "side")
    commit(repository, dockerfiles__a__f="side")
    repository.git.switch("main")
    commit(repository, dockerfiles__a__f="main")
    with repository.config_writer() as config:
        config.set_value("user", "name", "x").set_value("user", "email", "x@example.com")
    assert repository.git.execute(["git", "merge", "side"], with_extended_output=True, with_exceptions=False)[0] == 1
    assert changed(repository) == {"dockerfiles/a/f"}


@pytest.mark.parametrize("name", ["with space", "größe", "new\nline", '"quoted"', "tab\there", " -> ", "? x", "\udcff"])
def test_odd_file_names(repository: Repo, name: str) -> None:
    path = root_of(repository) / "dockerfiles/a" / name
    path.write_text("1")
    assert changed(repository) == {f"dockerfiles/a/{name}"}
    repository.git.add("--all")
    repository.git.execute(["git", "-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "--message", "odd"])
    path.write_text("2")
    assert changed(repository) == {f"dockerfiles/a/{name}"}


def test_a_folder_that_looks_like_a_pattern_is_a_folder(repository: Repo) -> None:
    commit(repository, **{"a*b__f": "1", "axb__f": "1"})
    (root_of(repository) / "axb/f").write_text("2")
    assert changed(repository, "a*b") == set()
    assert changed(repository, ":!other", "a*b") == set()


def test_a_project_in_a_subfolder_sees_its_own_paths(repository: Repo) -> None:
    commit(repository, sub__project__dockerfiles__a__f="1", sub__project2__f="1")
    for path in ("dockerfiles/a/f", "sub/project/dockerfiles/a/f", "sub/project2/f"):
        (root_of(repository) / path).write_text("2")
    facts = read_git(root_of(repository) / "sub/project", ["dockerfiles", "."])
    assert facts.changed == {"dockerfiles/a/f"}


def test_a_detached_head_has_no_branch_but_remotes(repository: Repo) -> None:
    repository.create_remote("origin", "https://example.com/x")
    repository.create_remote("upstream", "https://example.com/y")
    repository.git.checkout("--detach")
    facts = read_git(root_of(repository), ["dockerfiles"])
    assert facts.branch == ""
    assert set(facts.remotes) == {"origin", "upstream"}


def test_a_worktree_has_a_branch_and_changes_of_its_own(repository: Repo, tmp_path: Path) -> None:
    repository.git.worktree("add", "-b", "feature/x", str(tmp_path / "tree"))
    (tmp_path / "tree/dockerfiles/a/f").write_text("2")
    facts = read_git(tmp_path / "tree", ["dockerfiles"])
    assert facts.branch == "feature/x"
    assert facts.changed == {"dockerfiles/a/f"}
    assert changed(repository) == set()


def test_no_commit_and_no_repository(tmp_path: Path) -> None:
    with pytest.raises(RevisionError, match="is not in a Git repository"):
        read_git(tmp_path, ["x"])
    Repo.init(tmp_path)
    with pytest.raises(RevisionError, match="has no commit yet"):
        read_git(tmp_path, ["x"])


def test_a_source_archive_says_its_commit_itself(repository: Repo, tmp_path: Path) -> None:
    made = commit(repository, REVISION="$Format:%H%n%ct$\n", **{".gitattributes": "REVISION export-subst\n"})
    unpacked = tmp_path / "unpacked"
    repository.git.archive("HEAD", output=str(tmp_path / "archive.tar"))
    with tarfile.open(tmp_path / "archive.tar") as tar:
        tar.extractall(unpacked, filter="data")
    assert read_git(unpacked / "dockerfiles", []) == GitFacts(made, "", frozenset())
    assert commit_time(unpacked, made) == commit_time(root_of(repository), made)
    assert relate_commits(unpacked, "0" * 40, made) == "unknown"
    assert source_url(unpacked) == ""


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("", "'' is not a whole commit"),
        ("$Format:%H%n%ct$", "is not a whole commit"),
        ("a" * 39, "whole"),
        ("a" * 40 + "\nnow", "'now' is no time"),
    ],
)
def test_a_source_archive_that_names_no_commit_is_refused(tmp_path: Path, said: str, wrong: str) -> None:
    (tmp_path / "REVISION").write_text(said, encoding="utf-8")
    with pytest.raises(RevisionError, match=re.escape(wrong)) as caught:
        read_git(tmp_path, [])
    assert "git log -1 --format='%H%n%ct' > REVISION" in caught.value.hint


def test_the_time_of_a_source_archives_commit_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "REVISION").write_text("a" * 40 + "\n", encoding="utf-8")
    with pytest.raises(RevisionError, match="does not say when aaaaaaaaaaaa was committed"):
        commit_time(tmp_path, "a" * 40)


def test_a_repository_in_which_a_file_is_called_so_is_a_repository(repository: Repo) -> None:
    made = commit(repository, REVISION="whatever\n")
    assert read_git(root_of(repository), ["."]).commit == made


def test_what_git_says_is_passed_on(repository: Repo) -> None:
    (root_of(repository) / ".git/HEAD").write_text("nonsense")
    with pytest.raises(RevisionError, match=r"git status failed in .*: fatal: "):
        read_git(root_of(repository), ["x"])


def test_git_is_not_installed(repository: Repo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RevisionError, match="git is not installed"):
        read_git(root_of(repository), ["x"])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.com/team/x.git", "https://example.com/team/x.git"),
        ("https://user:secret@example.com/team/x.git", "https://example.com/team/x.git"),
        ("https://secret@example.com:8443/x?token=secret", "https://example.com:8443/x"),
        ("https://example.com/x#secret", "https://example.com/x"),
        ("ssh://git:secret@example.com:22/x", "ssh://example.com:22/x"),
        ("git@example.com:team/x.git", "git@example.com:team/x.git"),
        ("/srv/git/x.git", "/srv/git/x.git"),
    ],
)
def test_the_source_has_no_credentials(repository: Repo, url: str, shown: str) -> None:
    repository.create_remote("origin", url)
    assert source_url(root_of(repository)) == shown


def test_no_remote_no_source(repository: Repo) -> None:
    assert source_url(root_of(repository)) == ""


def test_reading_leaves_the_checkout_as_it_is(repository: Repo) -> None:
    root = root_of(repository)
    before = {path: path.stat().st_mtime_ns for path in sorted(root.rglob("*"))}
    os.utime(root / "other")  # git would like to refresh its index now
    read_git(root, ["."])
    after = {path: path.stat().st_mtime_ns for path in sorted(root.rglob("*"))}
    assert before.keys() == after.keys()


def test_of_many_folders_in_one_place_all_changes_are_found(tmp_path: Path) -> None:
    repository = Repo.init(tmp_path, initial_branch="main")
    names = [f"dockerfiles/image-{number}" for number in range(20)]
    commit(repository, **{f"{name.replace('/', '__')}__file": "1" for name in names})
    (tmp_path / names[3] / "file").write_text("2")
    (tmp_path / names[4] / "new").write_text("")
    (tmp_path / "beside").write_text("")
    assert read_git(tmp_path, names).changed == {f"{names[3]}/file", f"{names[4]}/new"}
