"""What goes into a build context: the very bytes that are hashed are sent, and nothing that differs between two checkouts."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import BuildError, ConfigurationError
from pipeline.images.context import MTIME, BuildContext, Entry, read_context, write_context

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a build context of these files (path → text) in a folder of its own."""

    def make_context(name: str = "context", /, **files: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "Dockerfile").write_text("FROM x\n")
        for path, text in files.items():
            write(folder, path.replace("__", "/"), text)
        return folder

    return make_context


def write(folder: Path, path: str, text: str) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(text, encoding="utf-8")


def paths(folder: Path) -> list[str]:
    return [entry.path for entry in read_context(folder).entries]


def parts(folder: Path) -> tuple[tuple[str, str], ...]:
    """What of a context goes into a fingerprint."""
    return tuple((entry.path, entry.identity) for entry in read_context(folder).entries)


def archive(context: BuildContext) -> bytes:
    stream = io.BytesIO()
    write_context(context, stream)
    return stream.getvalue()


def test_entries_are_files_folders_and_links(make: Make) -> None:
    folder = make(a__run="echo")
    (folder / "a/run").chmod(0o755)
    (folder / "link").symlink_to("a/run")
    (folder / "empty").mkdir()
    entries = {entry.path: entry for entry in read_context(folder).entries}
    assert list(entries) == ["Dockerfile", "a", "a/run", "empty", "link"]
    assert entries["a/run"].executable
    assert not entries["Dockerfile"].executable
    assert entries["link"] == Entry("link", "link", target="a/run")
    assert entries["empty"].kind == "folder"


def test_two_files_of_the_same_name_swapped_between_folders_differ(make: Make) -> None:
    assert parts(make("one", a__f="1", b__f="2")) != parts(make("two", a__f="2", b__f="1"))


def test_chmod_of_the_executable_bit_differs_and_of_others_does_not(make: Make) -> None:
    folder = make(f="1")
    (folder / "f").chmod(0o644)
    before = parts(folder)
    (folder / "f").chmod(0o600)
    assert parts(folder) == before
    (folder / "f").chmod(0o744)
    assert parts(folder) != before


def test_a_retargeted_link_differs(make: Make) -> None:
    folder = make(a="same", b="same")
    (folder / "link").symlink_to("a")
    before = parts(folder)
    (folder / "link").unlink()
    (folder / "link").symlink_to("b")
    assert parts(folder) != before


def test_a_removed_file_and_an_empty_folder_differ(make: Make) -> None:
    folder = make(a__f="")
    before = parts(folder)
    (folder / "a/f").unlink()
    between = parts(folder)
    (folder / "a").rmdir()
    assert len({before, between, parts(folder)}) == 3


def test_the_same_content_elsewhere_is_the_same_to_the_byte(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another checkout path, umask, owner and time: git keeps none of them."""
    one = make("one", a__f="1", g="2")
    mask = os.umask(0o077)
    try:
        two = make("far/away", g="2", a__f="1")
    finally:
        os.umask(mask)
    for path in two.rglob("*"):
        os.utime(path, (1, 1))
        if os.geteuid() == 0:
            os.chown(path, 4711, 4711)
    assert (one / "g").stat().st_mode != (two / "g").stat().st_mode
    assert parts(one) == parts(two)
    assert archive(read_context(one)) == archive(read_context(two))


def test_the_tar_holds_nothing_of_this_machine(make: Make) -> None:
    folder = make(a__run="1")
    (folder / "a/run").chmod(0o700)
    (folder / "link").symlink_to("/etc/passwd")
    with tarfile.open(fileobj=io.BytesIO(archive(read_context(folder)))) as tar:
        members = tar.getmembers()
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", MTIME)}
    assert {m.name: oct(m.mode) for m in members} == {"Dockerfile": "0o644", "a": "0o755", "a/run": "0o755", "link": "0o777"}
    assert next(m.linkname for m in members if m.name == "link") == "/etc/passwd"


def test_names_that_are_no_text_and_long_ones_survive(make: Make) -> None:
    folder = make()
    names = [b"\xff", "größe".encode(), b"a\nb", b"x" * 200]
    for name in names:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text("1")
    with tarfile.open(fileobj=io.BytesIO(archive(read_context(folder)))) as tar:
        assert {os.fsencode(name) for name in tar.getnames()} == {b"Dockerfile", *names}


@pytest.mark.parametrize("change", ["other", "", None])
def test_a_file_that_changes_between_hashing_and_sending_is_an_error(make: Make, change: str | None) -> None:
    folder = make(f="hashed")
    context = read_context(folder)
    if change is None:
        (folder / "f").unlink()
    else:
        (folder / "f").write_text(change)
    with pytest.raises(BuildError, match="context/f changed while it was being built"):
        archive(context)


def test_the_ignore_file_is_followed(make: Make) -> None:
    folder = make(a__f="1", b__f="1", secret="1")
    write(folder, ".dockerignore", "a\nsecret\n")
    assert paths(folder) == [".dockerignore", "Dockerfile", "b", "b/f"]


def test_negation_brings_back_with_the_folders_it_lies_in(make: Make) -> None:
    folder = make(a__b__keep="1", a__b__drop="1", a__c="1")
    write(folder, ".dockerignore", "*\n!a/b/keep\n")
    assert paths(folder) == ["Dockerfile", "a", "a/b", "a/b/keep"]


def test_the_dockerfiles_own_ignore_file_takes_the_place_of_the_other(make: Make) -> None:
    folder = make(a="1", b="1")
    write(folder, ".dockerignore", "a\n")
    write(folder, "Dockerfile.dockerignore", "b\n*ignore\n")
    assert paths(folder) == ["Dockerfile", "a"]


def test_the_dockerfile_is_there_even_if_ignored(make: Make) -> None:
    folder = make(a="1")
    write(folder, ".dockerignore", "*\n")
    assert paths(folder) == ["Dockerfile"]


def test_an_ignored_file_may_change(make: Make) -> None:
    folder = make(log="1")
    write(folder, ".dockerignore", "log\n")
    before = read_context(folder).entries
    write(folder, "log", "2")
    assert read_context(folder).entries == before


def test_git_s_own_folder_is_no_input(make: Make) -> None:
    """Where the context is the whole repository, every commit would be another image."""
    folder = make(a="1")
    before = read_context(folder)
    write(folder, ".git/index", "moved")
    write(folder, ".gitattributes", "* text")
    assert [entry.path for entry in read_context(folder).entries] == sorted([*(entry.path for entry in before.entries), ".gitattributes"])


def test_the_pipelines_own_state_is_no_input(make: Make) -> None:
    """Where the context is the whole project, the log of the very build that is running lies in it."""
    folder = make(a="1")
    before = read_context(folder)
    write(folder, ".pipeline/logs/a.log", "growing")
    assert read_context(folder) == before
    archive(before)
    write(folder, "sub/.pipeline/x", "1")
    assert "sub/.pipeline/x" in paths(folder)


def test_sockets_are_left_out_and_pipes_are_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make()
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert paths(folder) == ["Dockerfile"]
    os.mkfifo("pipe")
    with pytest.raises(ConfigurationError, match="context/pipe is neither a file, a folder nor a link"):
        read_context(folder)
    write(folder, ".dockerignore", "pipe\n")
    assert "pipe" not in paths(folder)


def test_an_ignore_file_that_docker_refuses_is_named(make: Make) -> None:
    folder = make()
    write(folder, ".dockerignore", "a\n[\n")
    with pytest.raises(ConfigurationError, match=r"^context/\.dockerignore:2: '\[' is not a pattern"):
        read_context(folder)


def test_an_ignore_file_that_is_a_folder_is_named(make: Make) -> None:
    folder = make()
    (folder / ".dockerignore").mkdir()
    with pytest.raises(ConfigurationError, match=r"^context/\.dockerignore cannot be read"):
        read_context(folder)


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_what_cannot_be_read_is_named(make: Make, closed: str) -> None:
    folder = make(folder__x="1", file="1")
    (folder / closed).chmod(0)
    program = "import sys; from pathlib import Path; from pipeline.images.context import read_context; read_context(Path(sys.argv[1]))"
    try:
        if os.geteuid() == 0:  # root reads everything: look with another user's eyes
            for parent in [folder, *folder.parents]:
                if parent.is_relative_to(tempfile.gettempdir()) and parent != Path(tempfile.gettempdir()):
                    parent.chmod(0o755)
            program = "import os; import pipeline.images.context, encodings.idna; os.setuid(65534);" + program
        result = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=False)
    finally:
        (folder / closed).chmod(0o755)
    assert f"context/{closed}" in result.stderr
    assert "cannot be read: Permission denied" in result.stderr
