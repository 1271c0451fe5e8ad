"""The build context against Docker's own: the same files for every ignore file, however odd."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import docker
import pytest

from pipeline.errors import ConfigurationError
from pipeline.images.context import read_context
from tests.engine.conftest import Project

TREE = (
    "README.md",
    "a.txt",
    "b.txt",
    "c.log",
    "Makefile",
    ".env",
    ".hidden/file",
    "src/main.py",
    "src/main.pyc",
    "src/lib/util.py",
    "src/lib/util.pyc",
    "src/lib/deep/er/core.py",
    "src/lib/deep/er/a.txt",
    "src/README.md",
    "docs/index.md",
    "docs/internal/secret.md",
    "docs/internal/keep.md",
    "docs/internal/more/keep.md",
    "build/a.txt",
    "build/out/b.txt",
    "node_modules/left/index.js",
    "sub/node_modules/right/index.js",
    "sub/build/a.txt",
    "with space/a file.txt",
    "with space/other.txt",
    "odd/[bracket].txt",
    "odd/star*.txt",
    "odd/question?.txt",
    "odd/back\\slash.txt",
    "odd/#hash.txt",
    "odd/!bang.txt",
    "odd/plus+(1).txt",
    "odd/dollar$.txt",
    "odd/caret^.txt",
    "odd/umläut.txt",
    "#top.txt",
    "!top.txt",
    "x/y/z/foo",
    "x/foo",
    "foo",
    "foobar",
    "foo.d/bar",
)

RULES = {
    "nothing": "",
    "a name only at the top": "a.txt",
    "a leading slash": "/a.txt\n/src/lib",
    "a trailing slash": "build/\ndocs/internal/",
    "a dot in front": "./a.txt\n./src/",
    "a parent folder in it": "src/../a.txt\nsrc/lib/../main.py",
    "double slashes": "src//lib\ndocs//internal//keep.md",
    "a star does not cross folders": "*.md\nsrc/*.py",
    "a star for a folder": "*/a.txt\n*/*/a.txt",
    "a star alone": "*",
    "all but one": "*\n!a.txt",
    "all but a folder": "*\n!src",
    "all but a file far below": "*\n!src/lib/deep/er/core.py",
    "all but a folder's files": "*\n!src/**\n!docs/internal/*.md",
    "all but a suffix anywhere": "**\n!**/*.py",
    "two stars in front": "**/a.txt\n**/node_modules",
    "two stars at the end": "src/**",
    "two stars in the middle": "src/**/a.txt\nx/**/foo",
    "two stars alone": "**",
    "two stars without a slash": "**.pyc\n**foo",
    "two stars inside a name": "src/l**b\nfo**r",
    "two stars and a star": "**/*.txt",
    "three stars": "***/a.txt",
    "order: taken back and away again": "*.txt\n!a.txt\na.*",
    "order: brought back too early": "!docs/internal/keep.md\ndocs/internal",
    "brought back below an ignored folder": "docs\n!docs/internal/keep.md",
    "brought back with two stars": "docs/**\n!docs/**/keep.md",
    "a folder brought back, a file of it not": "docs\n!docs/internal\ndocs/internal/secret.md",
    "a child's parent brought back": "docs/internal/keep.md\n!docs/internal",
    "a parent brought back, and its own child": "docs\n!docs/internal\n*/internal/keep.md\n!docs/internal/more",
    "a parent brought back twice": "docs\n!docs\ndocs/internal\n!docs/internal",
    "away, back and away through parents": "src\n!src/lib\nsrc/lib/deep\n!src/lib/deep/er/core.py",
    "a suffix anywhere": "**.md\n**/*.py[co]",
    "a folder of any name": "*/\n!x/",
    "a negated slash": "*\n!/src/main.py",
    "a negated trailing slash": "*\n!src/",
    "a negated dot": "*\n!./src/main.py",
    "a negated space": "*\n! a.txt",
    "a doubled negation": "*\n!!a.txt",
    "only negations": "!a.txt\n!src",
    "comments": "# a.txt\n#b.txt\nc.log",
    "a comment after spaces": "  # a.txt\n  #top.txt",
    "a hash in a name": "odd/#hash.txt\n\\#top.txt",
    "a bang in a name": "odd/!bang.txt\n\\!top.txt",
    "spaces around": "  a.txt  \n\tb.txt\t",
    "spaces within": "with space/a file.txt",
    "empty lines and Windows line ends": "a.txt\r\n\r\n\nb.txt\r\n",
    "a byte order mark": "\ufeffa.txt\nb.txt",
    "a form feed and other separators": "a.txt\x0cb.txt\nc.log\x0b\nfoo\u2028foobar\nMakefile\x85",
    "a no-break space": "a.txt\u00a0\n\u2003b.txt",
    "a question mark": "?.txt\nodd/question?.txt",
    "a class": "[ab].txt\nodd/[[]bracket].txt",
    "a range": "[a-b].txt",
    "a negated class": "[^a].txt",
    "a class that a shell would negate": "[!a].txt",
    "a class with a slash": "src[/]main.py",
    "an escaped star": "odd/star\\*.txt",
    "an escaped bracket": "odd/\\[bracket\\].txt",
    "an escaped dot": "a\\.txt",
    "an escaped backslash": "odd/back\\\\slash.txt",
    "signs of regular expressions": "odd/plus+(1).txt\nodd/dollar$.txt\nodd/caret^.txt\n(a|b).txt\n.*",
    "dots are no wildcards": "a?txt\nsrc/main.p.\nf.o",
    "not ASCII": "odd/umläut.txt",
    "a file taken for a folder": "a.txt/x\nfoo/bar",
    "a name that begins another": "foo",
    "the current folder": ".",
    "the root": "/",
    "the parent folder": "..\n../a.txt",
    "the Dockerfile and the ignore file": "Dockerfile\n.dockerignore",
    "hidden files": ".*",
    "case": "A.TXT\nmakefile",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contexts") / "tree"
    for name in TREE:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("a.txt")
    (folder / "link-to-folder").symlink_to("src")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    return folder


def sent_by_docker(folder: Path, out: Path) -> set[str]:
    """The files and links of the context that docker itself sends of `folder`."""
    command = ["docker", "buildx", "build", "--quiet", "--output", f"type=local,dest={out}", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return files_below(out)


def files_below(folder: Path) -> set[str]:
    """Files and links; folders only where they are empty, since a file's are implied."""
    found = set()
    for top, folders, files in os.walk(folder):
        names = files + [name for name in folders if (Path(top) / name).is_symlink()]
        found |= {os.path.relpath(Path(top) / name, folder) for name in names}
        if not folders and not files and top != str(folder):
            found.add(os.path.relpath(top, folder) + "/")
    return found


def sent_by_us(folder: Path) -> set[str]:
    entries = read_context(folder).entries
    parents = {entry.path.rpartition("/")[0] for entry in entries}
    return {
        entry.path + ("/" if entry.kind == "folder" else "") for entry in entries if entry.kind != "folder" or entry.path not in parents
    }


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES.keys())
def test_the_same_files_as_docker(tree: Path, tmp_path: Path, rules: str) -> None:
    ignore = tree / ".dockerignore"
    ignore.write_text(rules, newline="")
    try:
        theirs, ours = sent_by_docker(tree, tmp_path / "out"), sent_by_us(tree)
    finally:
        ignore.unlink()
    # The Dockerfile is always sent, and BuildKit hides it from COPY where it is ignored.
    always = {"Dockerfile"}
    assert ours - always == theirs - always
    assert "Dockerfile" in ours


@pytest.mark.parametrize("rules", ["!", "[", "a[", "[]", "[]a]", "odd/back\\", "[a-", "[^]", "a\n[z-a]"])
def test_what_docker_refuses_is_refused(tree: Path, tmp_path: Path, rules: str) -> None:
    ignore = tree / ".dockerignore"
    ignore.write_text(rules)
    try:
        command = ["docker", "buildx", "build", "--quiet", "--output", f"type=local,dest={tmp_path}/out", str(tree)]
        assert subprocess.run(command, capture_output=True, check=False).returncode != 0
        with pytest.raises(ConfigurationError, match=r"\.dockerignore:\d+: "):
            read_context(tree)
    finally:
        ignore.unlink()


def test_an_ignore_file_of_the_dockerfiles_own_wins(tree: Path, tmp_path: Path) -> None:
    (tree / ".dockerignore").write_text("*.md\n")
    (tree / "Dockerfile.dockerignore").write_text("*.txt\n")
    try:
        assert sent_by_us(tree) == sent_by_docker(tree, tmp_path / "out")
        assert "README.md" in sent_by_us(tree)
        assert "a.txt" not in sent_by_us(tree)
    finally:
        (tree / ".dockerignore").unlink()
        (tree / "Dockerfile.dockerignore").unlink()


def test_a_base_whose_triggers_read_the_context_is_refused(hierarchy: Project, engine: docker.DockerClient, tiny_image: str) -> None:
    name = f"pipeline-test/triggers:{hierarchy.namespace}"
    dockerfile = f"FROM {tiny_image}\nONBUILD COPY more /more\n"
    subprocess.run(["docker", "build", "--quiet", "--tag", name, "-"], input=dockerfile.encode(), check=True, capture_output=True)
    try:
        hierarchy.image("triggered", f"from: {name}\n", "COPY own.txt /\n")
        hierarchy.write("dockerfiles/triggered/own.txt", "")
        hierarchy.write("dockerfiles/triggered/more/file", "")
        refused = hierarchy.run("build", "--only", "triggered")
        assert refused.returncode == 21
        assert f"the image {name} has ONBUILD triggers that read the build context: COPY more /more" in refused.stderr
        assert "dockerfiles/triggered/Dockerfile" in refused.stderr
        hierarchy.image("triggered", f"from: {name}\n", "COPY . /\n")  # all of it is sent
        hierarchy.invoke("build", "--only", "triggered")
    finally:
        for tag in [
            tag for image in engine.images.list(filters={"label": f"pipeline.project={hierarchy.namespace}"}) for tag in image.tags
        ]:
            engine.images.remove(tag, force=True)
        engine.images.remove(name)
