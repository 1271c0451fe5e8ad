"""A small hierarchy of images, and random changes to it: all that people do to build contexts, and what tools get wrong about it.

root ← lib ← app, and tools, which app uses; root and tools stand on one base, and app copies from another image that only the
engine has. Every state is one that Git could hold: modes are 0644 and 0755.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

IMAGES = ("root", "tools", "lib", "app")  # in build order
PARENTS = {"lib": "root", "app": "lib"}

DOCKERFILES = {
    "root": """\
# The first of the family.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
ARG VERSION=1
COPY etc/ /etc/app/
COPY *.txt conf/app.conf /app/
COPY share/*/info share/?/more /share/
COPY <<EOF /app/motd
# no comment, but text
hello
EOF
ENV VERSION=${VERSION}
""",
    "tools": """\
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY tools/ /tools/
""",
    "lib": """\
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
ARG LEVEL=1
ARG PART=a
RUN --mount=type=bind,source=data,target=/data \\
    # what lies in the folders
    for file in /data/*/*; do echo $file; done > /lib.out; \\
    cat /data/*/* >> /lib.out 2>&1; echo ${LEVEL} >> /lib.out
COPY ["bin", "/opt/with space/"]
COPY parts/${PART}/ /part/
""",
    "app": """\
ARG BASE_IMAGE
FROM tools AS tools-here
FROM ${BASE_IMAGE} AS build
ARG MODE=fast
COPY . /src
RUN echo ${MODE} > /mode
FROM ${BASE_IMAGE}
COPY --from=build /src /app
COPY --from=build /mode /mode
COPY --from=tools-here /tools /tools
COPY --from=USED /used /used
""",
}
DEFINITIONS = {"root": "from: BASE\n", "tools": "from: BASE\n", "lib": "parent: root\n", "app": "parent: lib\nuses: [tools, 'USED']\n"}
ARGUMENTS = {"root": "VERSION", "lib": "LEVEL", "app": "MODE"}

FILES = {
    "root": "etc/one/file etc/two/file etc/run.sh keep.txt b.txt conf/app.conf conf/unused.conf README.md "
    "share/a/info share/b/info share/b/more share/c/other share/info",
    "tools": "tools/bin/file tools/lib/file tools/run.sh docs/file notes.txt",
    "lib": "data/a/file data/b/file data/a/run.sh bin/run.sh bin/x/file src/file file parts/a/file README.md",
    "app": "src/a/file src/b/file src/a/deep/er/file src/run.sh logs/x.log logs/keep.log docs/a.md docs/b.md "
    "target/classes/file target/app.war .hidden umläut a+b/file",
}
ANCHORS = (
    "keep.txt",
    "conf/app.conf",
    "etc/run.sh",
    "tools/run.sh",
    "data/a/file",
    "bin/run.sh",
    "parts/a/file",
    "share/a/info",
    "share/b/more",
)
RULES = (
    "",
    "# nothing\n",
    "*.log\n",
    "logs\n!logs/keep.log\n",
    "**/*.log\n!logs/keep.log\n",
    "**/deep\n",
    "target\n!target/*.war\n",
    "docs/*\n!docs/a.md\n# the rest goes\n",
    "**/file\n!src/**/file\n",
    "src/a\nsrc/b\n!src/a/deep\n",
    "a+b\n.hidden\n.dockerignore\n",
    "*.dockerignore\n",
    "[l-m]ogs\n",
)
NAMES = ("file", "new.txt", "run.sh", "x.log", ".env", "a b", "ünï", "info", "more")


@dataclass
class Family:
    """The project in `root`, which mutations change. `bases`: which of its variants the base and the used image are, now."""

    root: Path
    base: str
    used: str
    variants: int
    bases: dict[str, int] = field(default_factory=lambda: {"base": 0, "used": 0})
    snapshots: list[tuple[Path, dict[str, int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.write("pipeline.yaml", "registry: 127.0.0.1:9\nnamespace: mutations\n")
        for name in IMAGES:
            self.write(f"dockerfiles/{name}/Dockerfile", DOCKERFILES[name].replace("USED", self.used))
            self.write(f"images/{name}.yaml", DEFINITIONS[name].replace("BASE", self.base).replace("USED", self.used))
            for path in FILES[name].split(" "):
                self.write(f"dockerfiles/{name}/{path}", f"{name} {path}\n", path.endswith(".sh"))
        self.write("dockerfiles/app/.dockerignore", RULES[2])
        (self.context("app") / "src/link").symlink_to("a/file")
        (self.context("root") / "etc/link").symlink_to("one")

    def context(self, image: str) -> Path:
        return self.root / "dockerfiles" / image

    def write(self, path: str, text: str, executable: bool = False) -> None:
        write(self.root / path, text, executable)

    def files(self, image: str) -> list[Path]:
        """The files and links of an image's context that may come and go, sorted."""
        top = self.context(image)
        found = [Path(folder) / name for folder, folders, names in os.walk(top) for name in names + links(Path(folder), folders)]
        kept = {*ANCHORS, "Dockerfile", ".dockerignore", "Dockerfile.dockerignore"}
        return sorted(path for path in found if path.relative_to(top).as_posix() not in kept)

    def folders(self, image: str) -> list[Path]:
        """The folders in which things may come and go: not `parts`, which is an input as a whole, for a variable follows."""
        top = self.context(image)
        return sorted(Path(folder) for folder, _, _ in os.walk(top) if Path(folder) not in (top, top / "parts"))

    def snapshot(self, folder: Path) -> None:
        shutil.copytree(self.root, folder, symlinks=True, ignore=shutil.ignore_patterns(".pipeline"))
        self.snapshots.append((folder, dict(self.bases)))
        if len(self.snapshots) > 6:
            shutil.rmtree(self.snapshots.pop(0)[0])

    def restore(self, number: int) -> None:
        """Back to an earlier state, by new files: other inodes, old times."""
        folder, bases = self.snapshots[number]
        for name in ("dockerfiles", "images"):
            shutil.rmtree(self.root / name)
            shutil.copytree(folder / name, self.root / name, symlinks=True)
        self.bases = dict(bases)


def write(path: Path, text: str, executable: bool = False) -> None:
    """A file as Git would check it out. The folders on the way are made; a link in its place is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in path.parents[:3]:
        if folder.name:
            folder.chmod(0o755)
    if path.is_symlink():
        path.unlink()
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755 if executable else 0o644)


def links(folder: Path, names: list[str]) -> list[str]:
    return [name for name in names if (folder / name).is_symlink()]


def is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


Mutation = Callable[[Family, random.Random, str], None]


def change_content(family: Family, source: random.Random, image: str) -> None:
    path = any_file(family, source, image)
    path.write_text(f"{source.random()}\n", encoding="utf-8")


def change_content_behind_the_back(family: Family, source: random.Random, image: str) -> None:
    """The same size, and the time set back."""
    path = any_file(family, source, image)
    before = path.stat()
    data = path.read_bytes()
    path.write_bytes(bytes([(data[0] + source.randrange(1, 256)) % 256]) + data[1:] if data else b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_an_anchor(family: Family, source: random.Random, image: str) -> None:
    anchors = [path for name in ANCHORS if is_file(path := family.context(image) / name)]
    if anchors:
        source.choice(anchors).write_text(f"{source.random()}\n", encoding="utf-8")


def change_mode(family: Family, source: random.Random, image: str) -> None:
    path = any_file(family, source, image)
    path.chmod(0o644 if path.stat().st_mode & stat.S_IXUSR else 0o755)


def add_file(family: Family, source: random.Random, image: str) -> None:
    folder = source.choice([family.context(image), *family.folders(image)])
    if source.random() < 0.3:
        folder = folder / source.choice("nmo") / source.choice("xyz")
    path = folder / source.choice(NAMES)
    if any(part.is_symlink() or part.is_file() for part in (path, *path.parents)) or path.is_dir():
        return
    write(path, f"{source.random()}\n", source.random() < 0.3)


def remove_file(family: Family, source: random.Random, image: str) -> None:
    if files := family.files(image):
        source.choice(files).unlink()


def swap_files_of_one_name(family: Family, source: random.Random, image: str) -> None:
    by_name: dict[str, list[Path]] = {}
    for path in filter(is_file, family.files(image)):
        by_name.setdefault(path.name, []).append(path)
    pairs = [paths for paths in by_name.values() if len(paths) > 1]
    if pairs:
        one, two = source.sample(source.choice(pairs), 2)
        between = one.with_name("between")
        one.rename(between)
        two.rename(one)
        between.rename(two)


def move_file(family: Family, source: random.Random, image: str) -> None:
    if files := family.files(image):
        target = source.choice([family.context(image), *family.folders(image)]) / source.choice(NAMES)
        if not target.exists() and not target.is_symlink():
            source.choice(files).rename(target)


def change_link(family: Family, source: random.Random, image: str) -> None:
    """Retarget one, or make one in a folder that is copied as a whole."""
    found = [path for path in family.files(image) if path.is_symlink()]
    folder = family.context(image) / {"root": "etc", "tools": "tools", "lib": "bin", "app": "src"}[image]
    path = source.choice([*found, folder / "extra-link"])
    if path.is_symlink():
        path.unlink()
    if path.exists() or not path.parent.is_dir():
        return
    path.symlink_to(source.choice(["a/file", "b/file", "one", "two", "nowhere", "/etc/passwd", "../keep.txt"]))


def file_becomes_link(family: Family, source: random.Random, image: str) -> None:
    inside = family.context(image) / {"root": "etc", "tools": "tools", "lib": "bin", "app": "src"}[image]
    files = [path for path in family.files(image) if is_file(path) and inside in path.parents]
    if files:
        path = source.choice(files)
        path.unlink()
        path.symlink_to(source.choice(["a/file", "nowhere"]))


def link_becomes_file(family: Family, source: random.Random, image: str) -> None:
    found = [path for path in family.files(image) if path.is_symlink()]
    if found:
        write(source.choice(found), f"{source.random()}\n")


def add_folder(family: Family, source: random.Random, image: str) -> None:
    path = source.choice([family.context(image), *family.folders(image)]) / source.choice(["empty", "b", "c"])
    if not path.exists() and not path.is_symlink():
        path.mkdir()
        path.chmod(0o755)


def remove_folder(family: Family, source: random.Random, image: str) -> None:
    anchors = [family.context(image) / name for name in ANCHORS]
    folders = [folder for folder in family.folders(image) if not any(folder in anchor.parents for anchor in anchors)]
    if folders:
        shutil.rmtree(source.choice(folders))


def change_ignore_file(family: Family, source: random.Random, image: str) -> None:
    write(family.context(image) / ".dockerignore", source.choice(RULES))


def change_own_ignore_file(family: Family, source: random.Random, image: str) -> None:
    path = family.context(image) / "Dockerfile.dockerignore"
    if path.exists() and source.random() < 0.6:
        path.unlink()
    else:
        write(path, source.choice(RULES))


def change_comment(family: Family, source: random.Random, image: str) -> None:
    """Comments and blank lines between instructions and within them, also where there is a here-document."""
    path = family.context(image) / "Dockerfile"
    lines = path.read_text(encoding="utf-8").split("\n")
    places = [
        number
        for number, line in enumerate(lines)
        if line.startswith(("ARG", "FROM", "COPY", "ENV", "RUN", "    for", "    cat")) or line.strip().startswith(("# said", "# what"))
    ]
    lines.insert(source.choice(places), source.choice([f"# said {source.random()}", "    # said twice \\", ""]))
    path.write_text("\n".join(lines), encoding="utf-8")


def change_here_document(family: Family, source: random.Random, image: str) -> None:
    """What looks like a comment in it is text."""
    path = family.context(image) / "Dockerfile"
    text = path.read_text(encoding="utf-8")
    if "<<EOF" in text:
        head, _, tail = text.rpartition("EOF\n")
        path.write_text(f"{head}# {source.randrange(9)}\nEOF\n{tail}", encoding="utf-8")


def change_instruction(family: Family, source: random.Random, image: str) -> None:
    if image == "tools":  # app takes its files only, and is built again all the same when it is another image: no case for a count
        return
    path = family.context(image) / "Dockerfile"
    text = path.read_text(encoding="utf-8")
    kept = re.sub(r"(?m)^(?:ENV ADDED|LABEL added|RUN echo added|COPY Docker).*\n|^COPY <<X /x\n.*\nX\n", "", text)
    added = source.choice(
        [
            f"ENV ADDED={source.randrange(5)}",
            "COPY Docker* /docker/",
            f"LABEL added={source.randrange(5)}",
            "RUN echo added > /added",
            f"COPY <<X /x\n# {source.randrange(3)}\nX",
        ]
    )
    path.write_text(kept if kept != text and source.random() < 0.5 else f"{kept}{added}\n", encoding="utf-8")


def change_default_argument(family: Family, source: random.Random, image: str) -> None:
    name = ARGUMENTS.get(image)
    if name:
        path = family.context(image) / "Dockerfile"
        lines = path.read_text(encoding="utf-8").split("\n")
        value = source.randrange(4)
        path.write_text("\n".join(f"ARG {name}={value}" if line.startswith(f"ARG {name}") else line for line in lines), encoding="utf-8")


def change_argument(family: Family, source: random.Random, image: str) -> None:
    name = ARGUMENTS.get(image)
    if name:
        path = family.root / "images" / f"{image}.yaml"
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("args:")]
        if source.random() < 0.8:
            lines.append(f"args: {{{name}: v{source.randrange(6)}}}")
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def move_base(family: Family, source: random.Random, image: str) -> None:
    name = source.choice(["base", "used"]) if image in ("root", "app") else "used"
    family.bases[name] = source.randrange(family.variants)


def touch_all(family: Family, source: random.Random, image: str) -> None:
    """Another time, and another inode: what a new checkout does."""
    for path in filter(is_file, family.files(image)):
        if source.random() < 0.5:
            os.utime(path, (1_000_000_000, 1_000_000_000))
        else:
            copied = path.with_name("copied")
            shutil.copy2(path, copied)
            copied.replace(path)


def comment_the_definition(family: Family, source: random.Random, image: str) -> None:
    path = family.root / "images" / f"{image}.yaml"
    path.write_text(f"# {source.random()}\n" + path.read_text(encoding="utf-8"), encoding="utf-8")


def go_back(family: Family, source: random.Random, image: str) -> None:
    if family.snapshots:
        family.restore(source.randrange(len(family.snapshots)))


def any_file(family: Family, source: random.Random, image: str) -> Path:
    files = [path for path in family.files(image) if is_file(path)]
    if not files:
        files = [family.context(image) / "README.md"]
        write(files[0], "")
    return source.choice(files)


MUTATIONS: tuple[Mutation, ...] = (
    change_content,
    change_content,
    change_content_behind_the_back,
    change_an_anchor,
    change_mode,
    add_file,
    add_file,
    remove_file,
    swap_files_of_one_name,
    move_file,
    change_link,
    file_becomes_link,
    link_becomes_file,
    add_folder,
    remove_folder,
    change_ignore_file,
    change_own_ignore_file,
    change_comment,
    change_here_document,
    change_instruction,
    change_default_argument,
    change_argument,
    move_base,
    touch_all,
    comment_the_definition,
    go_back,
)


def mutate(family: Family, source: random.Random) -> list[str]:
    """One to three mutations; their names with the image each was made to."""
    made = []
    for _ in range(source.choice([1, 1, 1, 2, 3])):
        mutation, image = source.choice(MUTATIONS), source.choice([*IMAGES, "app", "lib"])
        mutation(family, source, image)
        made.append(f"{mutation.__name__} {image}")
    return made
