"""A push builds what it touches first: as committed, within its time, or not at all."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import docker
import pytest

from tests.engine.conftest import INVOKE, ROOT, Project, new_project


@pytest.fixture
def pushing(hierarchy: Project, tmp_path: Path) -> Project:
    """The hierarchy with a remote that has everything so far, and the hook."""
    git(hierarchy, "init", "-q", "--bare", "-b", "main", str(tmp_path / "remote.git"))
    git(hierarchy, "remote", "add", "origin", str(tmp_path / "remote.git"))
    assert push(hierarchy).returncode == 0
    hierarchy.invoke("hooks.install")
    return hierarchy


def git(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=project.root, env=dict(os.environ), capture_output=True, text=True, check=False)


def push(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return git(project, "push", *(arguments or ("origin", "main")))


def said(project: Project, *arguments: str) -> list[str]:
    """What the hook says of a push that takes place."""
    result = push(project, *arguments)
    assert result.returncode == 0, result.stderr
    return [line for line in result.stderr.splitlines() if not line.startswith(("To ", " ", "remote:"))]


def remote_has(project: Project) -> str:
    return git(project, "ls-remote", "origin", "main").stdout.split()[0]


def file_of(engine: docker.DockerClient, image: str, path: str) -> str:
    container = engine.containers.create(image, ["none"])
    try:
        stream, _ = container.get_archive(path)
        return b"".join(stream)[512:].rstrip(b"\0").decode()
    finally:
        container.remove()


def test_what_is_pushed_is_built_as_it_is_committed(pushing: Project, engine: docker.DockerClient) -> None:
    pushing.write("notes/README.md", "of no image\n")
    pushing.commit("notes")
    assert said(pushing) == ["pre-push: main touches no image"]

    pushing.write("dockerfiles/middle/middle.txt", "committed\n")
    commit = pushing.commit("middle")
    pushing.write("dockerfiles/middle/middle.txt", "not committed\n")
    pushing.write("dockerfiles/base/base.txt", "not committed\n")
    lines = said(pushing, "origin", "main:feature/x")
    assert lines[0] == f"pre-push: building middle, leaf of feature/x at {commit[:12]}"
    assert lines[-1].startswith(f"pre-push: middle, leaf of feature/x at {commit[:12]}: good after ")
    assert [line.partition(":")[0] for line in lines if ": build (" in line] == ["base", "middle", "leaf"]
    image = f"{pushing.registry}/{pushing.namespace}/leaf:feature__x-{commit[:12]}"
    assert file_of(engine, image, "/middle.txt") == "committed\n"
    assert file_of(engine, image, "/base.txt") == "base\n"


def test_what_cannot_be_built_is_not_pushed_unless_one_insists(pushing: Project) -> None:
    before = remote_has(pushing)
    pushing.write("dockerfiles/leaf/Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY nothing-of-that-name /\n")
    commit = pushing.commit("broken")
    result = push(pushing)
    assert result.returncode == 1
    assert "invoke build --only leaf ended with exit code" in result.stderr
    assert "git push --no-verify" in result.stderr
    assert "nothing-of-that-name" in result.stderr
    assert list((pushing.root / ".pipeline" / "pre-push" / "logs").glob("leaf*.log"))
    assert remote_has(pushing) == before
    assert len(git(pushing, "worktree", "list").stdout.splitlines()) == 1
    assert push(pushing, "--no-verify", "origin", "main").returncode == 0
    assert remote_has(pushing) == commit


def test_a_build_that_takes_too_long_ends_with_the_push(pushing: Project) -> None:
    before = remote_has(pushing)
    pushing.write("dockerfiles/leaf/leaf.txt", "changed\n")
    pushing.commit("slow")
    pushing.invoke("hooks.install", "--limit", "1", "--first", "sleep 60")
    result = push(pushing)
    assert result.returncode == 1
    assert "sleep 60 took too long (--limit); nothing was pushed" in result.stderr
    assert remote_has(pushing) == before
    assert len(git(pushing, "worktree", "list").stdout.splitlines()) == 1


def test_another_branch_than_the_one_checked_out_is_built_whole(pushing: Project) -> None:
    git(pushing, "switch", "-qc", "other")
    pushing.image("more", "parent: base\n", "COPY more.txt /more.txt\n")
    pushing.write("dockerfiles/more/more.txt", "more\n")
    commit = pushing.commit("one image more")
    git(pushing, "switch", "-q", "main")
    lines = said(pushing, "origin", "other")
    assert lines[0] == f"pre-push: building the images of other at {commit[:12]}"
    assert {line.partition(":")[0] for line in lines if ": build (" in line} == {"base", "middle", "leaf", "more"}


def test_an_image_of_a_submodule_is_built_as_the_submodule_is_recorded(
    pushing: Project, engine: docker.DockerClient, tmp_path: Path
) -> None:
    library = new_project(tmp_path / "library", pushing.registry)
    library.write("image/Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY file /file\n")
    library.write("image/file", "first\n")
    library.commit()
    git(pushing, "-c", "protocol.file.allow=always", "submodule", "add", "--quiet", str(library.root), "lib")
    pushing.write("images/library.yaml", "parent: base\ncontext: ../lib/image\n")
    pushing.commit("an image of a submodule")
    assert push(pushing).returncode == 0
    inside = Project(pushing.root / "lib", "", "")
    inside.write("image/file", "second\n")
    for setting in ("user.name", "user.email"):
        git(inside, "config", setting, "test@example.com")
    inside.commit()
    commit = pushing.commit("another commit of it")
    inside.write("image/file", "not committed\n")
    assert said(pushing)[0] == f"pre-push: building library of main at {commit[:12]}"
    assert file_of(engine, f"{pushing.registry}/{pushing.namespace}/library:main-{commit[:12]}", "/file") == "second\n"


def test_the_pre_commit_framework(hierarchy: Project, tmp_path: Path) -> None:
    hooks = tmp_path / "hooks"  # this repository, as far as the framework looks at it
    hooks.mkdir()
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", hooks)
    for command in ("init -q -b main", "add --all", "-c user.name=x -c user.email=x commit -qm hooks"):
        subprocess.run(["git", *command.split()], cwd=hooks, check=True)
    release = subprocess.run(["git", "rev-parse", "HEAD"], cwd=hooks, capture_output=True, text=True, check=True).stdout.strip()
    [shown] = re.findall(
        r"^```yaml\n(repos:.*?)^```$", (ROOT / "docs/developer-machine.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    [url], [version] = re.findall(r"repo: (.*)", shown), re.findall(r"rev: (.*)", shown)
    hierarchy.write(".pre-commit-config.yaml", shown.replace(url, str(hooks)).replace(version, release))
    hierarchy.write("invokew", f'#!/bin/sh\nexec {INVOKE} "$@"\n', 0o755)
    commit = hierarchy.commit("framework")
    git(hierarchy, "init", "-q", "--bare", "-b", "main", str(tmp_path / "remote.git"))
    git(hierarchy, "remote", "add", "origin", str(tmp_path / "remote.git"))
    environment = {**os.environ, "PRE_COMMIT_HOME": str(tmp_path / "pre-commit")}
    program = str(Path(INVOKE).with_name("pre-commit"))
    subprocess.run([program, "install", "--hook-type", "pre-push"], cwd=hierarchy.root, env=environment, check=True, capture_output=True)

    def pushed() -> tuple[int, str]:
        done = subprocess.run(["git", "push", "origin", "main"], cwd=hierarchy.root, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    code, said_of_it = pushed()  # of everything there is, which the framework calls all files
    assert (code, f"of main at {commit[:12]}: good after" in said_of_it) == (0, True), said_of_it
    hierarchy.write("notes.md", "of no image\n")
    hierarchy.commit("notes")
    code, said_of_it = pushed()
    assert (code, "pre-push: main touches no image" in said_of_it) == (0, True), said_of_it
    hierarchy.write("dockerfiles/leaf/leaf.txt", "changed\n")
    commit = hierarchy.commit("leaf")
    code, said_of_it = pushed()
    assert (code, f"pre-push: building leaf of main at {commit[:12]}" in said_of_it) == (0, True), said_of_it
    assert remote_has(hierarchy) == commit
    hierarchy.write("dockerfiles/leaf/Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY nothing-of-that-name /\n")
    hierarchy.commit("broken")
    code, said_of_it = pushed()
    assert (code, "nothing was pushed" in said_of_it) == (1, True), said_of_it
    assert remote_has(hierarchy) == commit


def test_a_repository_that_only_tests_and_a_branch_of_before_the_pipeline(project: Project, tmp_path: Path) -> None:
    git(project, "add", ".gitignore")
    git(project, "commit", "-qm", "before")
    git(project, "branch", "old")
    project.commit("begin")
    git(project, "init", "-q", "--bare", "-b", "main", str(tmp_path / "remote.git"))
    git(project, "remote", "add", "origin", str(tmp_path / "remote.git"))
    project.invoke("hooks.install")
    first = git(project, "rev-parse", "--short=12", "old").stdout.strip()
    assert said(project, "origin", "old") == [f"pre-push: old at {first} has no pipeline.yaml"]
    assert said(project) == ["pre-push: main touches no image"]
    project.write("notes.md", "changed\n")
    project.commit("notes")
    project.invoke("hooks.install", "--itest")
    result = push(project)
    assert "pre-push: trying what is there of main" in result.stderr
    assert "invoke itest ended with exit code" in result.stderr  # it says no `itest.run`
    assert result.returncode == 1
