"""A remembered hash is taken only where the file cannot have changed since."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.images.context import BuildContext, read_context, write_context
from pipeline.images.hashes import FILE_NAME, SLACK, HashCache, hash_cache

HOUR = 3_600_000_000_000


class Clock:
    """This machine's clock; `ahead` nanoseconds are added to it, so that what was just written is old."""

    def __init__(self, ahead: int = 0) -> None:
        self.ahead = ahead

    def __call__(self) -> int:
        return time.time_ns() + self.ahead


class Project:
    """A folder `image` with a Dockerfile that takes everything."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("Dockerfile", "FROM x\nCOPY . /\n")

    def write(self, path: str, text: str) -> Path:
        file = self.root / "image" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    @property
    def file(self) -> Path:
        return self.root / ".pipeline" / FILE_NAME

    def read(self, hashes: HashCache) -> BuildContext:
        return read_context(self.root / "image", hashes=hashes)

    def digests(self, hashes: HashCache) -> dict[str, str]:
        return {entry.path: entry.value for entry in self.read(hashes).entries if entry.kind == "file"}

    def remember(self) -> None:
        """A run that saves; the files count as old, and nothing else is different."""
        hashes = settled(self.root)
        self.read(hashes)
        hashes.save()

    def hashed(self) -> int:
        """How many files a new run reads, which must see what is there."""
        hashes = HashCache(self.root)
        assert self.digests(hashes) == self.digests(HashCache())
        return hashes.hashed


def settled(root: Path) -> HashCache:
    """A cache to which all files are long finished, and which saves as if the clock were right."""
    clock = Clock(HOUR)
    hashes = HashCache(root, clock)
    save = hashes.save

    def save_by_the_right_clock() -> None:
        clock.ahead = 0
        save()
        clock.ahead = HOUR

    hashes.save = save_by_the_right_clock  # type: ignore[method-assign]
    return hashes


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "project")
    made.write("a", "one")
    made.write("b/c", "two")
    return made


def test_what_has_not_changed_is_not_read_again(project: Project) -> None:
    assert project.hashed() == 2
    project.remember()
    assert project.hashed() == 0


def test_without_saving_nothing_is_remembered(project: Project) -> None:
    project.read(settled(project.root))
    assert not project.file.exists()
    assert project.hashed() == 2


def test_two_commands_of_one_process_share_it(project: Project) -> None:
    hashes = settled(project.root)
    project.read(hashes)
    hashes.save()
    project.read(hashes)
    assert hashes.hashed == 2
    assert hash_cache(project.root) is hash_cache(project.root)


def write_same_size(file: Path) -> None:
    file.write_text("1ne")


def write_and_set_the_time_back(file: Path) -> None:
    before = file.stat()
    file.write_text("1ne")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_a_file_of_the_same_time(file: Path) -> None:
    before = file.stat()
    other = file.with_name("other")
    other.write_text("1ne")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)


def rename_another_file_over_it(file: Path) -> None:
    (file.parent / "b/c").replace(file)


@pytest.mark.parametrize(
    "change", [write_same_size, write_and_set_the_time_back, replace_by_a_file_of_the_same_time, rename_another_file_over_it]
)
def test_a_change_is_seen(project: Project, change: Callable[[Path], None]) -> None:
    project.remember()
    change(project.root / "image/a")
    assert project.hashed() == 1


def test_a_mode_that_changes_is_seen_and_its_file_hashed_again(project: Project) -> None:
    project.remember()
    (project.root / "image/a").chmod(0o755)
    hashes = HashCache(project.root)
    assert next(entry for entry in project.read(hashes).entries if entry.path == "a").executable


@pytest.mark.parametrize("age", [0, SLACK // 2, -HOUR])
def test_a_file_that_was_just_written_or_will_be_is_never_remembered(project: Project, age: int) -> None:
    """Git's racy case: a write in the same tick would leave no trace."""
    file = project.root / "image/a"
    os.utime(file, ns=(time.time_ns() - age,) * 2)
    hashes = HashCache(project.root, Clock(SLACK // 2))
    project.read(hashes)
    hashes.save()
    assert project.hashed() == 2


def test_an_old_time_alone_is_not_enough(project: Project) -> None:
    """A file unpacked just now with its old mtime: its ctime tells."""
    for name in ("a", "b/c"):
        os.utime(project.root / "image" / name, (1, 1))
    hashes = HashCache(project.root)
    project.read(hashes)
    hashes.save()
    assert project.hashed() == 2


def test_a_file_that_is_another_one_after_hashing_than_before(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written, or replaced, or replaced and put back, while it was hashed."""
    file, look = project.root / "image/a", os.fstat

    def meanwhile(descriptor: int) -> os.stat_result:
        found = look(descriptor)
        return os.stat(project.root) if found.st_ino == file.stat().st_ino else found

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", meanwhile)
        project.remember()
    assert project.hashed() == 1


def test_a_file_server_with_another_clock_is_not_trusted(project: Project) -> None:
    """By this machine's clock the files are an hour old, and so is the file that is written now."""
    hashes = HashCache(project.root, Clock(HOUR))
    project.read(hashes)
    hashes.save()
    assert not project.file.exists()
    project.read(hashes)
    assert hashes.hashed == 4
    assert list((project.root / ".pipeline").iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"something else\n" + data,
        lambda data: data.replace(b"hashes 1", b"hashes 0"),
        lambda data: b"\x00" * len(data),
    ],
)
def test_a_damaged_or_foreign_cache_is_ignored(project: Project, damage: Callable[[bytes], bytes]) -> None:
    project.remember()
    project.file.write_bytes(damage(project.file.read_bytes()))
    assert project.hashed() == 2
    project.remember()
    assert project.hashed() == 0


def test_a_folder_in_its_place_is_ignored(project: Project) -> None:
    project.file.mkdir(parents=True)
    project.remember()
    assert project.hashed() == 2
    assert project.file.is_dir()
    assert list(project.file.parent.iterdir()) == [project.file]


def test_a_full_disk_costs_only_time(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        project.remember()
    assert project.hashed() == 2


def test_files_that_are_gone_are_forgotten(project: Project) -> None:
    for number in range(200):
        project.write(f"many/{number}", str(number))
        project.write(f"more/{number}", str(number))
    project.remember()
    size = project.file.stat().st_size
    shutil.rmtree(project.root / "image/many")
    for number in range(199):
        (project.root / "image/more" / str(number)).unlink()
    project.write("new", "1")
    project.remember()
    assert project.file.stat().st_size < size / 10
    assert project.hashed() == 0


def test_a_run_of_some_images_forgets_none_of_the_others(project: Project) -> None:
    project.remember()
    other = project.root / "other"
    other.mkdir()
    (other / "Dockerfile").write_text("FROM x\nCOPY . /\n")
    (other / "file").write_text("1")
    hashes = settled(project.root)
    read_context(other, hashes=hashes)
    hashes.save()
    assert hashes.hashed == 1
    assert project.hashed() == 0


def test_nothing_new_is_not_saved(project: Project) -> None:
    project.remember()
    inode = project.file.stat().st_ino
    project.remember()
    assert project.file.stat().st_ino == inode


def test_a_name_that_is_no_text_is_hashed_each_time(project: Project) -> None:
    Path(os.fsdecode(os.fsencode(project.root / "image") + b"/\xff")).write_text("1")
    folder = Path(os.fsdecode(os.fsencode(project.root / "image") + b"/\xfe"))
    folder.mkdir()
    (folder / "x").write_text("1")
    project.remember()
    assert project.hashed() == 2


def test_a_hash_that_is_wrong_all_the_same_is_thrown_away_when_the_file_is_sent(project: Project) -> None:
    project.remember()
    hashes = HashCache(project.root)
    known = hashes._known["image/"]
    known["a"] = known["a"][:-1] + bytes([known["a"][-1] ^ 1])
    with pytest.raises(Exception, match="image/a changed while it was being built"), open(os.devnull, "wb") as nowhere:
        write_context(project.read(hashes), nowhere)
    assert not project.file.exists()
    assert project.digests(hashes) == project.digests(HashCache())
