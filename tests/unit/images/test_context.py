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

from pipeline.config import read_config
from pipeline.errors import BuildError, ConfigurationError
from pipeline.images.context import MTIME, BuildContext, Entry, read_context, read_contexts, write_context
from pipeline.images.hashes import HashCache
from pipeline.images.hierarchy import read_hierarchy

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a build context of these files (path → text) in a folder of its own."""

    def make_context(name: str = "context", /, **files: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "Dockerfile").write_text("FROM x\nCOPY . /\n")
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
    assert entries["link"] == Entry("link", "link:-:a/run")
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


def dockerfile(folder: Path, *lines: str) -> Path:
    (folder / "Dockerfile").write_text("\n".join(["FROM x", *lines, ""]))
    return folder


def test_only_what_the_dockerfile_takes_goes_in_with_the_folders_it_lies_in(make: Make) -> None:
    folder = make(src__a="1", src__deep__b="1", lib__x="1", lib__y="1", README="1", a="1", srcs="1")
    dockerfile(folder, "COPY src /src", "RUN --mount=type=bind,source=lib/x,target=/x true")
    assert paths(folder) == ["Dockerfile", "lib", "lib/x", "src", "src/a", "src/deep", "src/deep/b"]
    assert paths(dockerfile(folder, "RUN true")) == ["Dockerfile"]
    assert paths(dockerfile(folder, "COPY */? /x/")) == ["Dockerfile", "lib", "lib/x", "lib/y", "src", "src/a"]


def test_what_is_not_taken_is_not_even_looked_at(make: Make) -> None:
    folder = dockerfile(make(src__a="1"), "COPY src /src")
    os.mkfifo(folder / "pipe")
    before = read_context(folder).entries
    write(folder, "README", "1")
    (folder / "link").symlink_to("src")
    assert read_context(folder).entries == before


@pytest.mark.parametrize("lines", [("COPY current/app /app",), ("COPY current /app",), ("COPY curr* /app",), ("COPY */app /app/",)])
def test_a_link_that_a_source_names_or_leads_through_takes_everything(make: Make, lines: tuple[str, ...]) -> None:
    folder = dockerfile(make(v1__app="1", v2__app="1", README="1"), *lines)
    (folder / "current").symlink_to("v1")
    assert paths(folder) == ["Dockerfile", "README", "current", "v1", "v1/app", "v2", "v2/app"]


def test_a_link_further_down_is_sent_as_a_link(make: Make) -> None:
    folder = dockerfile(make(src__a="1", README="1"), "COPY src /src")
    (folder / "src/link").symlink_to("../README")
    assert paths(folder) == ["Dockerfile", "src", "src/a", "src/link"]


def test_an_ignored_source_is_not_taken(make: Make) -> None:
    folder = dockerfile(make(src__a="1", src__b="1", lib__c="1"), "COPY src lib /src")
    write(folder, ".dockerignore", "src\n!src/b\nlib\n")
    assert paths(folder) == ["Dockerfile", "src", "src/b"]


def test_the_dockerfile_is_an_input_by_its_recipe_unless_it_is_taken(make: Make) -> None:
    folder = dockerfile(make(a="1"), "COPY a /")
    context = read_context(folder)
    assert [entry.path for entry in context.taken()] == ["a"]
    dockerfile(folder, "# said", "COPY a /")
    assert read_context(folder).recipe == context.recipe
    dockerfile(folder, "COPY Docker* /")
    assert [entry.path for entry in read_context(folder).taken()] == ["Dockerfile"]


def test_a_dockerfile_in_an_archive_is_taken_though_it_is_ignored(make: Make) -> None:
    """BuildKit reads no ignore file in an archive, and the Dockerfile has to be there: COPY . sees it, so it is an input."""
    folder = dockerfile(make(a="1"), "COPY . /")
    write(folder, ".dockerignore", "*\n!a\n")
    assert [entry.path for entry in read_context(folder).taken()] == ["Dockerfile", "a"]


def test_a_dockerfile_that_is_a_link_is_refused(make: Make) -> None:
    folder = make()
    (folder / "Dockerfile").rename(folder / "real")
    (folder / "Dockerfile").symlink_to("real")
    with pytest.raises(ConfigurationError, match="context/Dockerfile is a link"):
        read_context(folder)


def test_whoever_is_built_on_triggers_that_read_the_context_takes_all_of_it(images: Callable[[dict[str, str]], Path]) -> None:
    root = images({"root": "from: x", "child": "parent: root", "user": "from: x\nuses: [root]", "leaf": "parent: child"})
    begin = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n"
    for name, more in {"root": "ONBUILD COPY . /x\n", "child": "", "user": "FROM root\n", "leaf": ""}.items():
        (root / f"dockerfiles/{name}/Dockerfile").write_text(begin + more)
        write(root, f"dockerfiles/{name}/file", "1")

    def whole() -> set[str]:
        contexts = read_contexts(root, read_hierarchy(read_config(root)), HashCache())
        return {name for name, context in contexts.items() if "file" in {entry.path for entry in context.entries}}

    assert whole() == {"root", "child", "user"}  # root: a later stage of its own could run the trigger, too; leaf: triggers run once
    (root / "dockerfiles/root/Dockerfile").write_text(begin + "ONBUILD RUN true\n")
    assert whole() == set()


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
