"""SHA-256 of files, remembered from run to run, so that a run with nothing to do reads no file, only its inode.

A file's hash is looked up by its path and is taken only where size, mtime, ctime, inode and device are still those of the file
that was hashed. How each way to be wrong is closed:

- Written in the same tick of the file system's clock in which it was hashed: mtime and ctime would stay the same, git's "racily
  clean" entry (git-scm.com, technical/racy-git). So a hash is kept only if both times lay more than SLACK before hashing began;
  that covers file systems that count whole seconds, or two (FAT). Any later write then gets a later time.
- Written while it was hashed: what is kept are the times from before reading, which a write then moves. And it is looked at again
  after reading, and not kept if it is another file by then, one that was swapped in and might be swapped out again.
- Replaced by another file: another inode, or at least another ctime. mtime set back (`touch -d`, `cp -p`, tar, rsync): ctime is the
  kernel's own and moves on. The mode is no part of it; a chmod moves ctime, and costs one hashing more.
- Times in the future are never SLACK before now, so never trusted, until the clock has passed them.
- A file server with a clock of its own: when the hashes are saved, the time it gives to a new file is compared with this
  machine's; if they differ, nothing new is kept. Until then no new hash is used, not even by the same process.
- A cache that is damaged, cut off, of another version or something else altogether: it carries a checksum, and is ignored.
  One that came from another machine has other inodes and ctimes. One that is wrong all the same is noticed when the file is
  sent, since what is sent is hashed again, and is then thrown away.
- Two processes that save: each replaces the file in one step, and the last one wins; what the other one knew is hashed again.
- A full or read-only disk: nothing is saved, and nothing is lost but time.

Not covered, as in git: a program that writes through a memory mapping, whose pages the kernel has not looked at since, and a
machine's clock that is set back so that a later write gets a ctime that was there before, to the nanosecond.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.config import STATE_FOLDER
from pipeline.state_files import unfinished

FILE_NAME = "hashes"  # in the state folder
SLACK = 2_000_000_000  # nanoseconds
_SKEW = SLACK // 2  # of the file system's clock; with a coarse one the time of a new file lies up to a tick back
_SMALL = 1 << 18  # bytes; up to this size a file is read in one piece
_MAGIC = b"pipeline hashes 1\n"
_SIGNATURE = struct.Struct("<QqqQQ")  # times before 1970 are negative
_pack = _SIGNATURE.pack
_DIGEST = slice(_SIGNATURE.size, None)
_NOTHING: Mapping[str, bytes] = {}

Folder = Mapping[str, bytes]  # file name → signature and SHA-256, of one folder


class HashCache:
    """The hashes of the files below `root`. Without `root` it remembers nothing.

    New hashes are used, and kept for later runs, only after `save`.
    """

    def __init__(self, root: Path | None = None, clock: Callable[[], int] = time.time_ns) -> None:
        self._root = root
        self._clock = clock
        self._file = root / STATE_FOLDER / FILE_NAME if root else None
        self._known: dict[str, dict[str, bytes]] = _load(self._file) if self._file else {}
        self._new: dict[str, dict[str, bytes]] = {}
        self.hashed = 0  # how many files were read

    def place(self, folder: Path) -> str:
        """What the names of `folder` and of those below begin with."""
        if self._root is None or folder == self._root:
            return ""
        return os.path.relpath(folder, self._root) + "/"

    def folder(self, name: str) -> Folder:
        """What is known of the files of one folder; `name` relative to the root, with a slash at its end."""
        return self._known.get(name, _NOTHING)

    def digest(self, known: Folder, folder: str, path: str, name: str, status: os.stat_result) -> str:
        """The SHA-256 of a file in hexadecimal. `status` is what lstat says of it. Raises OSError."""
        signature = _pack(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
        record = known.get(name)
        if record is not None and record.startswith(signature):
            return record[_DIGEST].hex()
        begun = self._clock()
        self.hashed += 1
        with open(path, "rb", buffering=0) as file:
            # file_digest makes a buffer of 256 KB first, which takes longer than to read and hash a small file.
            hashed = hashlib.sha256(file.read()) if status.st_size <= _SMALL else hashlib.file_digest(file, "sha256")
            after = os.fstat(file.fileno())
        settled = max(status.st_mtime_ns, status.st_ctime_ns) + SLACK < begun
        if self._root and settled and all(getattr(after, name) == getattr(status, name) for name in _COMPARED):
            self._new.setdefault(folder, {})[name] = signature + hashed.digest()
        return hashed.hexdigest()

    def save(self) -> None:
        """Keep what is new, for this process and for later runs; forget the files that are gone. Never fails."""
        if not self._new or not self._root or not self._file:
            return
        tables = {folder: {**self.folder(folder), **self._new.get(folder, {})} for folder in self._known.keys() | self._new.keys()}
        tables = {folder: table for folder, names in tables.items() if (table := _still_there(self._root / folder, names))}
        self._new = {}
        temporary = unfinished(self._file)
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            before = self._clock()
            temporary.write_bytes(_dump(tables))
            if before - _SKEW <= temporary.stat().st_mtime_ns <= self._clock() + _SKEW:
                temporary.replace(self._file)
                self._known = tables
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)

    def discard(self) -> None:
        """Forget everything: a hash turned out to be wrong."""
        self._known, self._new = {}, {}
        if self._file:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)


@functools.cache
def hash_cache(root: Path) -> HashCache:
    """The cache of the project at `root`, one for all commands of this process."""
    return HashCache(root)


_COMPARED = ("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_dev")


def _load(file: Path) -> dict[str, dict[str, bytes]]:
    import msgspec

    try:
        data = file.read_bytes()
    except OSError:
        return {}
    start = len(_MAGIC) + 4
    if not data.startswith(_MAGIC) or len(data) < start or zlib.crc32(data[start:]).to_bytes(4, "little") != data[start - 4 : start]:
        return {}
    try:
        return msgspec.msgpack.decode(data[start:], type=dict[str, dict[str, bytes]])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _dump(tables: dict[str, dict[str, bytes]]) -> bytes:
    import msgspec

    payload = msgspec.msgpack.encode(tables)
    return _MAGIC + zlib.crc32(payload).to_bytes(4, "little") + payload


def _still_there(folder: Path, names: dict[str, bytes]) -> dict[str, bytes]:
    """Of these files, those that the folder has and whose names are text; others are hashed each time."""
    try:
        present = set(os.listdir(folder))
    except OSError:
        return {}
    return {name: record for name, record in names.items() if name in present and _is_text(name) and _is_text(str(folder))}


def _is_text(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in name)
