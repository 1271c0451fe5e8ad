"""Fingerprints against BuildKit's own cache: no image that changed is taken for unchanged, and next to none is built in vain.

After each round of random changes every image is built the plain way, `docker buildx build FOLDER`, and BuildKit's cache says
whether it is another image: the same image id means that nothing that counts has changed. Nothing of this project takes part in that.
FOLDER is a copy with a name of its own each time: of folders of one name BuildKit fetches only what differs from the last one, and
after some changes (seen with 0.13) the hash it then has is not that of the same content fetched as a whole.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import subprocess
import tarfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest

from pipeline.config import read_config
from pipeline.images.bases import Base, Bases
from pipeline.images.context import BuildContext, read_contexts, write_context
from pipeline.images.dockerfile import parse_dockerfile
from pipeline.images.fingerprint import SHOWN, Fingerprint, changes
from pipeline.images.hashes import HashCache
from pipeline.images.hierarchy import read_hierarchy
from pipeline.images.plan import make_fingerprints
from tests.engine.conftest import RUN
from tests.engine.mutations import ARGUMENTS, IMAGES, PARENTS, Family, mutate, write

SEED = 20260101
ROUNDS, LONG_ROUNDS = 24, 1000
VARIANTS = 4
BASE, USED = f"pipeline-test/mutations-base:{RUN}", f"pipeline-test/mutations-used:{RUN}"

Raw = dict[str, tuple[str, str]]  # path in a context → kind with mode, content or target: what lies on the disk


@dataclass
class Seen:
    """All that is known of one state of the family."""

    fingerprints: Mapping[str, Fingerprint]
    contexts: Mapping[str, BuildContext]
    ids: Mapping[str, str]
    raw: Mapping[str, Raw]
    bases: Mapping[str, int]


@dataclass
class Bench:
    """The family on a real engine."""

    family: Family
    engine: docker.DockerClient
    variants: Mapping[str, list[str]]  # "base" and "used" → image ids
    made: list[str] = field(default_factory=list)  # image ids; the next round takes the tag away
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2))

    def look(self) -> Seen:
        """Fingerprint every image, and let BuildKit build it from a raw folder. Raises CalledProcessError."""
        for name, reference in (("base", BASE), ("used", USED)):
            self.engine.images.get(self.variants[name][self.family.bases[name]]).tag(reference)
        fingerprints, contexts = self.fingerprint(self.family.root)
        arguments = {definition.name: definition.args for definition in read_hierarchy(read_config(self.family.root))}
        ids: dict[str, str] = {}
        for together in (("root", "tools"), ("lib",), ("app",)):
            ids.update(zip(together, self.pool.map(lambda name: self.build(name, arguments[name]), together), strict=True))
        raw = {name: read_raw(self.family.context(name)) for name in IMAGES}
        return Seen(fingerprints, contexts, ids, raw, dict(self.family.bases))

    def fingerprint(self, root: Path) -> tuple[dict[str, Fingerprint], dict[str, BuildContext]]:
        hierarchy = read_hierarchy(read_config(root))
        now = {name: self.variants[name][self.family.bases[name]] for name in ("base", "used")}
        bases = Bases({BASE: Base("local", now["base"]), USED: Base("local", now["used"])})
        hashes = HashCache(root)
        contexts = read_contexts(root, hierarchy, hashes)
        hashes.save()
        return make_fingerprints(hierarchy, bases, contexts), contexts

    def build(self, name: str, arguments: Mapping[str, str], context: BuildContext | None = None) -> str:
        """The image id that `docker buildx build` gives to the raw folder, or to what the pipeline sends of it."""
        base = tag(PARENTS[name]) if name in PARENTS else BASE
        command = ["docker", "buildx", "build", "--quiet", "--provenance=false", "--load", "--build-arg", f"BASE_IMAGE={base}"]
        for key, value in arguments.items():
            command += ["--build-arg", f"{key}={value}"]
        if name == "app":
            command += ["--build-context", f"tools=docker-image://{tag('tools')}", "--build-context", f"{USED}=docker-image://{USED}"]
        stream = io.BytesIO()
        if context is None:
            folder = self.family.root.parent / f"{name}-{uuid.uuid4().hex[:8]}"
            shutil.copytree(self.family.context(name), folder, symlinks=True)
            command += ["--tag", tag(name), str(folder)]
        else:
            write_context(context, stream)
            command.append("-")
        environment = {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
        result = subprocess.run(command, input=stream.getvalue(), capture_output=True, check=False, env=environment)
        if context is None:
            shutil.rmtree(folder)
        if result.returncode:
            raise subprocess.CalledProcessError(result.returncode, command, result.stdout, result.stderr)
        self.made.append(image_id := result.stdout.decode().strip())
        return image_id


def tag(name: str) -> str:
    return f"pipeline-test/mutations-{name}:{RUN}"


def read_raw(folder: Path) -> Raw:
    found: Raw = {}
    for top, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(top) / name
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink():
                found[relative] = ("link", os.readlink(path))
            elif path.is_dir():
                found[relative] = ("folder", "")
            else:
                found[relative] = ("file x" if path.stat().st_mode & 0o100 else "file -", path.read_bytes().hex())
    return found


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, engine: docker.DockerClient, tiny_image: str) -> Iterator[Bench]:
    def make(dockerfile: str) -> str:
        command = ["docker", "buildx", "build", "--quiet", "--provenance=false", "--load", "-"]
        return subprocess.run(command, input=dockerfile.encode(), capture_output=True, check=True).stdout.decode().strip()

    variants = {
        "base": [
            make(f"FROM {tiny_image}\n" + ("ENV BASE=3\n" if number == 3 else f"COPY <<EOF /base\n{number % 3}\nEOF\n"))
            for number in range(VARIANTS)
        ],
        "used": [make(f"FROM scratch\nCOPY <<EOF /used/file\n{number}\nEOF\n") for number in range(VARIANTS)],
    }
    for name, ids in variants.items():
        for number, image_id in enumerate(ids):
            engine.images.get(image_id).tag(f"pipeline-test/mutations-{name}:{RUN}-{number}")
    mask = os.umask(0o022)
    family = Family(tmp_path_factory.mktemp("mutations") / "project", BASE, USED, VARIANTS)
    made = Bench(family, engine, variants)
    yield made
    os.umask(mask)
    made.pool.shutdown()
    for image_id in {*made.made}:
        with contextlib.suppress(docker.errors.APIError):
            engine.images.remove(image_id)
    for image in engine.images.list(filters={"reference": "pipeline-test/mutations-*"}):
        for name in [name for name in image.tags if RUN in name]:
            engine.images.remove(name, force=True)


def check_causes(before: Seen, after: Seen, image: str) -> None:
    """Every cause named is one that was made, and every one that was made, and counts, is named."""
    old, new = before.raw[image], after.raw[image]
    named: dict[str, set[str]] = {}
    for kind, what in changes(before.fingerprints[image].inputs, after.fingerprints[image].inputs):
        named.setdefault(kind, set()).add(what)

    differing = {path for path in old.keys() | new.keys() if old.get(path) != new.get(path)}
    selects = {"Dockerfile", ".dockerignore", "Dockerfile.dockerignore"}
    seen = {entry.path for context in (before.contexts[image], after.contexts[image]) for entry in context.taken()}
    made = {words(path, old.get(path), new.get(path)) for path in differing & seen}
    if differing.isdisjoint(selects) and before.contexts[image].sources == after.contexts[image].sources:
        assert named.pop("file", set()) == made
    else:  # what is selected may have changed, too
        may = {f"{path} added" for path in new} | {f"{path} removed" for path in old}
        assert named.pop("file", set()) <= made | may
    if named.pop("dockerfile", None):
        assert "Dockerfile" in differing
    if image in ARGUMENTS and (said := named.pop("argument", None)):
        assert all(what.split()[0] == ARGUMENTS[image] for what in said)
    if named.pop("base", None):
        assert before.bases["base"] != after.bases["base"]
    if named.pop("parent", None):
        assert before.fingerprints[PARENTS[image]] != after.fingerprints[PARENTS[image]]
    for what in named.pop("uses", ()):
        moved = (
            before.bases["used"] != after.bases["used"]
            if what.startswith(USED)
            else before.fingerprints["tools"] != after.fingerprints["tools"]
        )
        assert moved
    assert not named


def words(path: str, old: tuple[str, str] | None, new: tuple[str, str] | None) -> str:
    if old is None or new is None:
        return f"{path} {'added' if old is None else 'removed'}"
    kinds = [state[0].split()[0] for state in (old, new)]
    if kinds[0] != kinds[1]:
        return f"{path} changed kind: {kinds[0]} → {kinds[1]}"
    if kinds[0] == "link":
        assert max(map(len, (old[1], new[1]))) <= SHOWN
        return f"{path} changed target: {old[1]} → {new[1]}"
    mode = "changed mode: " + ("executable" if new[0] == "file x" else "not executable any more")
    if old[0] == new[0]:
        return f"{path} changed"
    return f"{path} {mode}" if old[1] == new[1] else f"{path} changed, and {mode}"


def test_fingerprints_agree_with_buildkits_cache(bench: Bench, tmp_path: Path, long_run: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Over the whole history: the same fingerprint has always one image id, and one image id (all but) always one fingerprint."""
    rounds = LONG_ROUNDS if long_run else ROUNDS
    source = random.Random(SEED)
    count: Counter[str] = Counter()
    id_of: dict[str, dict[str, str]] = {name: {} for name in IMAGES}  # fingerprint → image id
    fingerprints_of: dict[str, dict[str, str]] = {name: {} for name in IMAGES}  # image id → its first fingerprint
    stale: list[str] = []
    needless: list[str] = []
    wrong: list[str] = []  # causes
    unlike: list[str] = []  # archives
    before: Seen | None = None
    for number in range(rounds + 1):
        made = mutate(bench.family, source) if number else ["begin"]
        bench.family.snapshot(tmp_path / f"snapshot-{number}")
        try:
            now = bench.look()
        except subprocess.CalledProcessError as error:
            count["rounds that BuildKit refuses"] += 1
            print(number, made, error.stderr.decode()[-300:])
            bench.family.snapshots.pop()
            bench.family.restore(-1)
            continue
        count["rounds"] += 1
        for image in IMAGES:
            fingerprint, image_id = now.fingerprints[image].value, now.ids[image]
            count["images compared"] += 1
            where = f"round {number}: {image} after {made}"
            if fingerprint not in id_of[image]:
                count["builds"] += 1
                if image_id in fingerprints_of[image]:
                    needless.append(
                        f"{where}: {changes(before.fingerprints[image].inputs, now.fingerprints[image].inputs) if before else ''}"
                    )
            if id_of[image].setdefault(fingerprint, image_id) != image_id:
                stale.append(where)
            fingerprints_of[image].setdefault(image_id, fingerprint)
            if before:
                count["images changed"] += before.ids[image] != image_id
                try:
                    check_causes(before, now, image)
                except AssertionError as error:
                    wrong.append(f"{where}: {error}")
        if number % 10 == 0:  # what the pipeline sends is to BuildKit what Docker itself sends
            arguments = {definition.name: definition.args for definition in read_hierarchy(read_config(bench.family.root))}
            for image in IMAGES:
                count["archives compared"] += 1
                if bench.build(image, arguments[image], now.contexts[image]) != now.ids[image]:
                    unlike.append(f"round {number}: {image} after {made}")
        before = now
    with capsys.disabled():
        lists = {"stale hits": stale, "needless builds": needless, "wrong causes": wrong, "archives unlike the folder": unlike}
        print(
            "\nmutations: "
            + ", ".join(f"{value} {key}" for key, value in (*count.items(), *((key, len(lines)) for key, lines in lists.items())))
        )
        print("".join(f"  {key}: {line}\n" for key, lines in lists.items() for line in lines), end="")
    assert not stale
    assert not wrong
    assert not unlike
    assert len(needless) <= max(1, count["builds"] / 100)
    assert count["rounds that BuildKit refuses"] <= rounds / 20
    assert count["rounds"] >= rounds * 0.95


class One:
    """A project of one image, which BuildKit builds beside the pipeline's fingerprint."""

    def __init__(self, root: Path, bench: Bench) -> None:
        self.root, self.folder, self._bench = root, root / "dockerfiles/one", bench
        write(root / "pipeline.yaml", "registry: 127.0.0.1:9\nnamespace: mutations\n")
        write(root / "images/one.yaml", f"from: {BASE}\n")
        self.dockerfile("COPY . /x")
        for path in ("a/file", "b/file", "src/main.txt", "src/other.md", "README.md"):
            write(self.folder / path, f"{path}\n")
        write(self.folder / "run.sh", "exit\n", True)
        (self.folder / "link").symlink_to("a/file")

    def dockerfile(self, *lines: str) -> None:
        write(self.folder / "Dockerfile", "\n".join(["ARG BASE_IMAGE", "FROM ${BASE_IMAGE}", *lines, ""]))

    def fingerprint(self) -> Fingerprint:
        return self._both()[0]

    def image_id(self) -> str:
        """The image id that BuildKit gives to the raw folder."""
        image_id = self._build("--quiet", "--load").decode().strip()
        self._bench.made.append(image_id)
        return image_id

    def files(self) -> dict[str, object]:
        """What is in the image of the raw folder: names, modes, owners, links and content."""
        return read_archive(self._build("--output", "type=tar,dest=-"))

    def sent_files(self) -> dict[str, object]:
        """The same of what the pipeline sends. (The ids differ for COPY of everything: BuildKit's hash counts the mode of the root.)"""
        return read_archive(self._build("--output", "type=tar,dest=-", context=self._both()[1]))

    def _build(self, *options: str, context: BuildContext | None = None) -> bytes:
        hierarchy = read_hierarchy(read_config(self.root))
        command = ["docker", "buildx", "build", "--provenance=false", *options, "--build-arg", f"BASE_IMAGE={BASE}"]
        command += [part for item in hierarchy["one"].args.items() for part in ("--build-arg", "=".join(item))]
        stream = io.BytesIO()
        if context:
            write_context(context, stream)
            command.append("-")
        else:
            copied = self.root.parent / f"one-{uuid.uuid4().hex[:8]}"
            shutil.copytree(self.folder, copied, symlinks=True)
            command.append(str(copied))
        result = subprocess.run(command, input=stream.getvalue(), capture_output=True, check=False)
        assert result.returncode == 0, result.stderr.decode()
        return result.stdout

    def _both(self) -> tuple[Fingerprint, BuildContext]:
        hierarchy = read_hierarchy(read_config(self.root))
        contexts = read_contexts(self.root, hierarchy, HashCache())
        bases = Bases({BASE: Base("local", self._bench.engine.images.get(BASE).id or "")})
        return make_fingerprints(hierarchy, bases, contexts)["one"], contexts["one"]


def read_archive(data: bytes) -> dict[str, object]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {
            member.name: (member.mode, member.uid, member.gid, member.linkname, (tar.extractfile(member) or io.BytesIO()).read())
            if member.isfile()
            else (member.mode, member.uid, member.gid, member.linkname, member.type)
            for member in tar
        }


@pytest.fixture
def one(bench: Bench, tmp_path: Path) -> One:
    bench.engine.images.get(bench.variants["base"][0]).tag(BASE)
    return One(tmp_path / "project", bench)


def swap(one: One) -> None:
    (one.folder / "a/file").rename(one.folder / "c")
    (one.folder / "b/file").rename(one.folder / "a/file")
    (one.folder / "c").rename(one.folder / "b/file")


def retarget(one: One) -> None:
    (one.folder / "link").unlink()
    (one.folder / "link").symlink_to("b/file")


def ignore_all_but_one(one: One) -> None:
    write(one.folder / ".dockerignore", ".dockerignore\nsrc\n!src/main.txt\n")


def change_what_is_brought_back(one: One) -> None:
    write(one.folder / "src/main.txt", "changed\n")


def change_what_is_ignored(one: One) -> None:
    write(one.folder / "src/other.md", "changed\n")


MOUNT = "RUN --mount=type=bind,source=src,target=/s cat /s/* > /out"
HOLES: dict[str, tuple[tuple[str, ...], Callable[[One], None], Callable[[One], None], list[tuple[str, str]]]] = {
    "two files of one name swapped": (
        ("COPY . /x",),
        lambda one: None,
        swap,
        [("file", "a/file changed"), ("file", "b/file changed")],
    ),
    "chmod": (
        ("COPY . /x",),
        lambda one: None,
        lambda one: (one.folder / "a/file").chmod(0o755),
        [("file", "a/file changed mode: executable")],
    ),
    "a link retargeted": (("COPY . /x",), lambda one: None, retarget, [("file", "link changed target: a/file → b/file")]),
    "a file removed": (("COPY . /x",), lambda one: None, lambda one: (one.folder / "a/file").unlink(), [("file", "a/file removed")]),
    "an empty folder added": (("COPY . /x",), lambda one: None, lambda one: (one.folder / "empty").mkdir(), [("file", "empty added")]),
    "brought back by a negation": (("COPY . /x",), ignore_all_but_one, change_what_is_brought_back, [("file", "src/main.txt changed")]),
    "not brought back by a negation": (("COPY . /x",), ignore_all_but_one, change_what_is_ignored, []),
    "Dockerfile.dockerignore wins": (
        ("COPY src /x",),
        lambda one: write(one.folder / ".dockerignore", "**/*.md\n"),
        lambda one: write(one.folder / "Dockerfile.dockerignore", "**/*.txt\n"),
        [("file", "src/main.txt removed"), ("file", "src/other.md added")],
    ),
    "the source of a bind mount": ((MOUNT,), lambda one: None, change_what_is_ignored, [("file", "src/other.md changed")]),
    "beside the source of a bind mount": ((MOUNT,), lambda one: None, lambda one: write(one.folder / "a/file", "changed\n"), []),
    "a used argument": (
        ("ARG LEVEL", "RUN echo $LEVEL > /out"),
        lambda one: write(one.root / "images/one.yaml", f"from: {BASE}\nargs: {{LEVEL: 1}}\n"),
        lambda one: write(one.root / "images/one.yaml", f"from: {BASE}\nargs: {{LEVEL: 2}}\n"),
        [("argument", "LEVEL changed: 1 → 2")],
    ),
    "the file of another wildcard": (("COPY src/*.txt /x/",), lambda one: None, change_what_is_ignored, []),
    "a new file of a wildcard": (
        ("COPY src/*.txt /x/",),
        lambda one: None,
        lambda one: write(one.folder / "src/.txt", "1"),
        [("file", "src/.txt added")],
    ),
    "a comment": (("COPY src /x",), lambda one: None, lambda one: one.dockerfile("# said", "", "COPY src /x"), []),
    "a comment that is copied": (
        ("COPY Docker* /x/",),
        lambda one: None,
        lambda one: one.dockerfile("# said", "COPY Docker* /x/"),
        [("file", "Dockerfile changed")],
    ),
    "the text of a here-document": (
        ("COPY <<EOF /x", "# one", "EOF"),
        lambda one: None,
        lambda one: one.dockerfile("COPY <<EOF /x", "# two", "EOF"),
        [("dockerfile", "Dockerfile changed")],
    ),
}


@pytest.mark.parametrize("hole", HOLES)
def test_a_known_hole_is_closed(one: One, hole: str) -> None:
    lines, prepare, change, causes = HOLES[hole]
    one.dockerfile(*lines)
    prepare(one)
    before, before_id = one.fingerprint(), one.image_id()
    change(one)
    after, after_id = one.fingerprint(), one.image_id()
    assert changes(before.inputs, after.inputs) == causes
    assert (before.value != after.value) == (before_id != after_id) == bool(causes)


def test_the_base_moved_under_its_name(one: One, bench: Bench) -> None:
    before, before_id = one.fingerprint(), one.image_id()
    bench.engine.images.get(bench.variants["base"][1]).tag(BASE)
    after, after_id = one.fingerprint(), one.image_id()
    assert [kind for kind, _ in changes(before.inputs, after.inputs)] == ["base"]
    assert before_id != after_id


FORMS = {
    "a file": ("COPY a/file /x",),
    "several": ("COPY README.md a /x/",),
    "the JSON form": ('COPY ["a", "README.md", "/x/"]',),
    "wildcards": ("COPY */file src/*.t?t /x/",),
    "a class": ("COPY src/[mo]*.txt /x/",),
    "a variable": ("ARG PART=src", "COPY ${PART}/main.txt a/$NOTHING /x/"),
    "a link to a file": ("COPY link /x",),
    "everything but": ("COPY --link . /x/",),
    "with its parents": ("COPY a/file b/file /x/",),
    "ADD": ("ADD src README.md /x/",),
    "a continued line": ("COPY a/file \\", "  # said", "", "  b/file \\", "  /x/"),
    "a mount": ("RUN --mount=type=bind,source=a,target=/a --mount=target=/b,source=b/file cat /a/* /b > /out",),
    "a mount of everything": ("RUN --mount=target=/a cat /a/README.md > /out",),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_sent_is_enough_for_every_form_of_taking(one: One, form: str) -> None:
    one.dockerfile(*FORMS[form])
    assert one.sent_files() == one.files()


def test_a_source_behind_a_linked_folder(one: One) -> None:
    (one.folder / "current").symlink_to("src")
    one.dockerfile("COPY current/main.txt /x")
    assert one.sent_files() == one.files()


def test_another_checkout_path_umask_user_and_time_are_the_same(one: One, bench: Bench, tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        other = One(tmp_path / "another" / "path", bench)
    finally:
        os.umask(mask)
    for path in other.root.rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o700)
            os.utime(path, (1, 1))
        if os.geteuid() == 0:
            os.chown(path, 4711, 4711, follow_symlinks=False)
    assert one.fingerprint() == other.fingerprint()
    assert one.sent_files() == other.sent_files() == one.files()


# Where a line that begins with # is text, and where it is a comment, each with a %s in that line.
LINES = {
    "a here-document": "COPY <<EOF /out\n# %s\nEOF\n",
    "one with a quoted mark": "COPY <<'EOF' /out\n# %s\nEOF\n",
    "one with a half quoted mark": "COPY <<E'O'F /out\n# %s\nEOF\n",
    "one with an escaped mark": "COPY <<E\\OF /out\n# %s\nEOF\n",
    "one without leading tabs": "COPY <<-EOF /out\n\t# %s\n  EOF\n\tEOF\n",
    "one with a number": "COPY 3<<EOF /out\n# %s\nEOF\n",
    "two": "COPY <<A <<B /out/\na\nA\n# %s\nB\n",
    "after what looks like its end": "COPY <<EOF /out\nEOF \n# %s\nEOF\n",
    "one of ADD": "ADD <<EOF /out\n# %s\nEOF\n",
    "one of a trigger": "ONBUILD COPY <<EOF /out\n# %s\nEOF\n",
    "one with Windows line ends": "COPY <<EOF /out\r\n# %s\r\nEOF\r\n",
    "after one": "COPY <<EOF /out\na\nEOF\n# %s\n",
    "what looks like one in a label": 'LABEL a="<<EOF"\n# %s\nLABEL b=1\n',
    "within an instruction": "LABEL a=b \\\n  # %s\n\n  c=d\n",
    "within one, after spaces": "LABEL a=b \\ \t\n# %s\n  c=d\n",
    "within one, indented by a no-break space": "LABEL a=b \\\n\u00a0# %s\n  c=d\n",
    "within one, before a here-document": "COPY \\\n# %s\n <<A \\\n  /out/\na\nA\n",
    "at the end of an instruction": "LABEL a=b#%s\n",
}


@pytest.mark.parametrize("form", LINES)
def test_a_comment_is_what_buildkit_takes_for_one(bench: Bench, form: str) -> None:
    def look(word: str) -> tuple[str, str]:
        text = "FROM scratch\n" + LINES[form] % word
        command = ["docker", "buildx", "build", "--quiet", "--provenance=false", "--load", "-"]
        result = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
        assert result.returncode == 0, result.stderr.decode()
        bench.made.append(image_id := result.stdout.decode().strip())
        return parse_dockerfile(text, {}).recipe, image_id

    (recipe, image_id), (other_recipe, other_id) = look("one"), look("two")
    assert (recipe == other_recipe) == (image_id == other_id)
