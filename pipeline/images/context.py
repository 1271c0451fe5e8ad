"""The build context of an image: exactly the bytes that are hashed are the bytes that are sent.

What another checkout of the same commit may differ in is normalised away: owner, times, and every permission but the
executable bit, which is the only one git keeps. So the same content has the same fingerprint on every machine.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from pipeline.config import STATE_FOLDER
from pipeline.errors import BuildError, ConfigurationError
from pipeline.images.ignore import IgnoreRules, parse_ignore

MTIME = 946684800  # 2000-01-01 UTC: the one time of every file in a context
SMALL = 1 << 18  # bytes; up to this size a file is read in one piece


@dataclass(frozen=True)
class Entry:
    """One file, folder or link of a context. `digest` is a file's SHA-256; `target` a link's."""

    path: str
    kind: str  # "file", "folder" or "link"
    executable: bool = False
    digest: str = ""
    target: str = ""

    @property
    def identity(self) -> str:
        """What of it goes into a fingerprint, besides its path."""
        return f"{self.kind}:{'x' if self.executable else '-'}:{self.digest or self.target}"


@dataclass(frozen=True)
class BuildContext:
    """The entries of a context, sorted by path. The Dockerfile is always among them, the ignore file or not."""

    folder: Path
    entries: tuple[Entry, ...]


def read_context(folder: Path) -> BuildContext:
    """Read and hash what Docker would send of `folder`, by its ignore file. Raises ConfigurationError for a strange file."""
    rules = read_ignore_rules(folder)
    entries = {entry.path: entry for entry in _walk(folder, "", rules)}
    if "Dockerfile" not in entries:  # BuildKit reads it from the context even where the ignore file names it
        entries["Dockerfile"] = _file(folder, "Dockerfile", os.lstat(folder / "Dockerfile"))
    for path in list(entries):  # a folder that is ignored itself, but holds something that is not
        parent = path.rpartition("/")[0]
        while parent and parent not in entries:
            entries[parent] = Entry(parent, "folder", executable=True)
            parent = parent.rpartition("/")[0]
    return BuildContext(folder, tuple(entries[path] for path in sorted(entries)))


def read_ignore_rules(folder: Path) -> IgnoreRules:
    """The rules of `Dockerfile.dockerignore`, or else of `.dockerignore`."""
    for name in ("Dockerfile.dockerignore", ".dockerignore"):
        try:
            return parse_ignore((folder / name).read_text(encoding="utf-8", errors="surrogateescape"), f"{folder.name}/{name}")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _unreadable(folder, name, error) from error
    return IgnoreRules()


def write_context(context: BuildContext, stream: IO[bytes]) -> None:
    """Write the context as a normalised tar. Raises BuildError if a file is no longer what was hashed."""
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as tar:
        for entry in context.entries:
            info = tarfile.TarInfo(entry.path)
            info.mtime = MTIME
            info.mode = 0o755 if entry.executable else 0o644
            if entry.kind == "folder":
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            elif entry.kind == "link":
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.target, 0o777
                tar.addfile(info)
            else:
                _send(tar, info, context.folder / entry.path, entry)


class _Hashing:
    """A file that is hashed while it is read, so that one of any size takes little memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.hash.update(data)
        return data


def _send(tar: tarfile.TarFile, info: tarfile.TarInfo, path: Path, entry: Entry) -> None:
    """Add one file. What was sent of a file that changed meanwhile is no build: the caller ends it."""
    try:
        with path.open("rb") as file:
            info.size = os.fstat(file.fileno()).st_size
            hashing = _Hashing(file)
            tar.addfile(info, cast("IO[bytes]", hashing))
            same = hashing.hash.hexdigest() == entry.digest
    except BrokenPipeError:
        raise
    except OSError:  # gone, unreadable or shorter than it just was
        same = False
    if not same:
        folder = str(path).removesuffix(entry.path).rstrip("/").rpartition("/")[2]
        raise BuildError(f"{folder}/{entry.path} changed while it was being built", "Run the build again when nothing writes there.")


def _walk(folder: Path, prefix: str, rules: IgnoreRules) -> Iterator[Entry]:
    try:
        children = list(os.scandir(os.path.join(folder, prefix)))
    except OSError as error:
        raise _unreadable(folder, prefix or ".", error) from error
    for child in children:
        path = prefix + child.name
        if path in (STATE_FOLDER, ".git"):
            continue  # where the context is the whole repository: neither this build's log nor the commit is content
        ignored = bool(rules.patterns) and rules.ignores(path)
        if child.is_dir(follow_symlinks=False):
            if not ignored:
                yield Entry(path, "folder", executable=True)
            if not ignored or rules.may_bring_back:
                yield from _walk(folder, path + "/", rules)
        elif not ignored:
            try:
                status = child.stat(follow_symlinks=False)
                target = os.readlink(child.path) if stat.S_ISLNK(status.st_mode) else ""
            except OSError as error:  # removed since the folder was listed
                raise _unreadable(folder, path, error) from error
            if target:
                yield Entry(path, "link", target=target)
            elif stat.S_ISREG(status.st_mode):
                yield _file(folder, path, status)
            elif not stat.S_ISSOCK(status.st_mode):  # Docker leaves sockets out, too
                raise ConfigurationError(
                    f"{folder.name}/{path} is neither a file, a folder nor a link", "Remove it, or name it in .dockerignore."
                )


def _file(folder: Path, path: str, status: os.stat_result) -> Entry:
    try:
        with open(os.path.join(folder, path), "rb", buffering=0) as file:
            # file_digest makes a buffer of 256 KB first, which takes longer than to read and hash a small file.
            hashed = hashlib.sha256(file.read()) if status.st_size <= SMALL else hashlib.file_digest(file, "sha256")
    except OSError as error:
        raise _unreadable(folder, path, error) from error
    return Entry(path, "file", executable=bool(status.st_mode & stat.S_IXUSR), digest=hashed.hexdigest())


def _unreadable(folder: Path, path: str, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{folder.name}/{path} cannot be read: {error.strerror}", "Make it readable, or name it in .dockerignore.")
