"""The build context of an image: exactly the bytes that are hashed are the bytes that are sent.

Only what the Dockerfile takes of it goes in (`sources`), and what another checkout of the same commit may differ in is normalised
away: owner, times, and every permission but the executable bit, which is the only one git keeps. So the same content has the same
fingerprint on every machine, and a file that no instruction reads is not waited for.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, cast

from pipeline.config import STATE_FOLDER
from pipeline.errors import BuildError, ConfigurationError
from pipeline.images.dockerfile import Dockerfile, parse_dockerfile, takes_context
from pipeline.images.hashes import HashCache
from pipeline.images.hierarchy import Hierarchy
from pipeline.images.ignore import IgnoreRules, parse_ignore
from pipeline.images.sources import Sources

if TYPE_CHECKING:
    import tarfile
DOCKERFILE = "Dockerfile"
IGNORE_FILES = ("Dockerfile.dockerignore", ".dockerignore")  # the first one that is there
MTIME = 946684800  # 2000-01-01 UTC: the one time of every file in a context
_NEVER = (STATE_FOLDER, ".git")  # where the context is the whole repository: neither this build's log nor the commit is content
_APART = (*_NEVER, DOCKERFILE)


class Entry(NamedTuple):
    """One file, folder or link of a context.

    `identity` is what of it goes into a fingerprint, besides its path: `file:x:SHA-256` (`file:-:…` without the executable bit),
    `folder:x:` or `link:-:TARGET`. A tuple of two texts, for there is one for every file.
    """

    path: str
    identity: str

    @property
    def kind(self) -> str:
        """`file`, `folder` or `link`."""
        return self.identity.partition(":")[0]

    @property
    def executable(self) -> bool:
        return self.identity.split(":", 2)[1] == "x"

    @property
    def value(self) -> str:
        """A file's SHA-256, a link's target."""
        return self.identity.split(":", 2)[2]


_FOLDER = "folder:x:"
_new = tuple.__new__  # half the time of an Entry(…), of which there are tens of thousands


@dataclass(frozen=True)
class BuildContext:
    """What is sent of a folder: its entries, sorted by path, the Dockerfile always among them.

    `sources` is what selects them, wider than the Dockerfile's own where a source may be a link, or an image it is built on has
    ONBUILD triggers.
    """

    folder: Path
    entries: tuple[Entry, ...]
    dockerfile: Dockerfile
    rules: IgnoreRules
    sources: Sources
    hashes: HashCache = field(default_factory=HashCache, compare=False, repr=False)

    def taken(self) -> Iterable[Entry]:
        """The entries that the Dockerfile's instructions can see.

        BuildKit takes a Dockerfile that comes in an archive for part of the context even where an ignore file names it.
        """
        return self.entries if self.sources.takes(DOCKERFILE) else (entry for entry in self.entries if entry.path != DOCKERFILE)

    @property
    def recipe(self) -> str:
        """SHA-256 of the Dockerfile without what cannot change an image."""
        return hashlib.sha256(self.dockerfile.recipe.encode("utf-8", "surrogateescape")).hexdigest()

    def depends_on(self, path: str) -> bool:
        """Whether a file at `path`, changed or taken away, may make another image: it is taken, or decides about what is."""
        if path == DOCKERFILE or path in IGNORE_FILES:
            return True
        if path.partition("/")[0] in _NEVER:
            return False
        return (self.sources.takes(path) or self.sources.leads(path)) and not self.rules.ignores(path)


def read_contexts(root: Path, hierarchy: Hierarchy, hashes: HashCache) -> dict[str, BuildContext]:
    """The build context of every image of a project. Raises ConfigurationError for a strange file."""
    found: dict[str, BuildContext] = {}
    for definition in hierarchy:
        whole = any(takes_context(found[name].dockerfile.triggers) for name in hierarchy.needs(definition))
        found[definition.name] = read_context(root / definition.context, definition.args, hashes, whole)
    return found


def read_context(
    folder: Path, arguments: Mapping[str, str] | None = None, hashes: HashCache | None = None, whole: bool = False
) -> BuildContext:
    """Read and hash what the Dockerfile of `folder` takes of it, by its ignore file. Raises ConfigurationError for a strange file.

    `arguments`: the build arguments given. `whole`: take all, for whoever else reads the context.
    """
    hashes = hashes or HashCache()
    text, entry = _read_dockerfile(folder)
    dockerfile = parse_dockerfile(text, arguments or {})
    rules = read_ignore_rules(folder)
    sources = Sources(whole=True) if whole else dockerfile.sources
    reader = _Reader(folder, rules, sources, hashes)
    if reader.follows and not sources.whole:  # what a link that a source names or leads through points to is read, too
        sources = Sources(whole=True)
        reader = _Reader(folder, rules, sources, hashes)
    return BuildContext(folder, tuple(sorted([*reader.found, entry])), dockerfile, rules, sources, hashes)


def read_ignore_rules(folder: Path) -> IgnoreRules:
    """The rules of `Dockerfile.dockerignore`, or else of `.dockerignore`."""
    for name in IGNORE_FILES:
        try:
            return parse_ignore((folder / name).read_text(encoding="utf-8", errors="surrogateescape"), f"{folder.name}/{name}")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _unreadable(folder, name, error) from error
    return IgnoreRules()


def write_context(context: BuildContext, stream: IO[bytes]) -> None:
    """Write the context as a normalised tar. Raises BuildError if a file is no longer what was hashed."""
    import tarfile

    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as tar:
        for entry in context.entries:
            info = tarfile.TarInfo(entry.path)
            info.mtime = MTIME
            info.mode = 0o755 if entry.executable else 0o644
            if entry.kind == "folder":
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            elif entry.kind == "link":
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.value, 0o777
                tar.addfile(info)
            else:
                _send(tar, info, context, entry)


class _Hashing:
    """A file that is hashed while it is read, so that one of any size takes little memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.hash.update(data)
        return data


def _send(tar: tarfile.TarFile, info: tarfile.TarInfo, context: BuildContext, entry: Entry) -> None:
    """Add one file. What was sent of a file that changed meanwhile is no build: the caller ends it."""
    try:
        with (context.folder / entry.path).open("rb") as file:
            info.size = os.fstat(file.fileno()).st_size
            hashing = _Hashing(file)
            tar.addfile(info, cast("IO[bytes]", hashing))
            same = hashing.hash.hexdigest() == entry.value
    except BrokenPipeError:
        raise
    except OSError:  # gone, unreadable or shorter than it just was
        same = False
    if not same:
        context.hashes.discard()
        raise BuildError(
            f"{context.folder.name}/{entry.path} changed while it was being built", "Run the build again when nothing writes there."
        )


class _Reader:
    """One walk through a folder. `found`: its entries but the Dockerfile's, with the folders they lie in.

    `follows`: whether there is a link that a source names, or leads through.
    """

    def __init__(self, folder: Path, rules: IgnoreRules, sources: Sources, hashes: HashCache) -> None:
        self.found: list[Entry] = []
        self.follows = False
        self._folder = folder
        self._rules = rules
        self._sources = sources
        self._hashes = hashes
        self._top = f"{folder}/"
        self._place = hashes.place(folder)
        if sources:
            self._walk("", sources.whole)

    def _walk(self, prefix: str, inside: bool) -> None:
        """`inside`: this folder is taken, with all that is in it."""
        found, digest = self.found, self._hashes.digest
        has_rules = bool(self._rules.patterns)
        place = self._place + prefix
        known = self._hashes.folder(place)
        try:
            children = list(os.scandir(self._top + prefix))
        except OSError as error:
            raise _unreadable(self._folder, prefix or ".", error) from error
        for child in children:
            name = child.name
            path = prefix + name
            taken = inside or self._sources.takes(path)
            if not (taken or self._sources.leads(path)) or (not prefix and name in _APART):
                continue
            ignored = has_rules and self._rules.ignores(path)
            if child.is_dir(follow_symlinks=False):
                before = len(found)
                if not ignored or self._rules.may_bring_back:
                    self._walk(path + "/", taken)
                if (taken and not ignored) or len(found) > before:  # one that holds something is there with it
                    found.append(Entry(path, _FOLDER))
            elif not ignored:
                try:
                    status = child.stat(follow_symlinks=False)
                    mode = status.st_mode
                    kind = stat.S_IFMT(mode)
                    if kind == stat.S_IFREG:
                        if taken:
                            hashed = digest(known, place, child.path, name, status)
                            found.append(_new(Entry, (path, ("file:x:" if mode & 0o100 else "file:-:") + hashed)))
                    elif kind == stat.S_IFLNK:
                        found.append(Entry(path, "link:-:" + os.readlink(child.path)))
                        self.follows = self.follows or self._sources.is_source(path) or self._sources.leads(path)
                    elif taken and kind != stat.S_IFSOCK:  # Docker leaves sockets out, too
                        raise ConfigurationError(
                            f"{self._folder.name}/{path} is neither a file, a folder nor a link", "Remove it, or name it in .dockerignore."
                        )
                except OSError as error:  # unreadable, or removed since the folder was listed
                    raise _unreadable(self._folder, path, error) from error


def _read_dockerfile(folder: Path) -> tuple[str, Entry]:
    """Its text and its entry, both of the same bytes."""
    try:
        status = os.lstat(folder / DOCKERFILE)
        data = (folder / DOCKERFILE).read_bytes()
    except OSError as error:
        raise _unreadable(folder, DOCKERFILE, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"{folder.name}/{DOCKERFILE} is a link", "Write the Dockerfile itself there.")
    sign = "x" if status.st_mode & stat.S_IXUSR else "-"
    return data.decode("utf-8", "surrogateescape"), Entry(DOCKERFILE, f"file:{sign}:{hashlib.sha256(data).hexdigest()}")


def _unreadable(folder: Path, path: str, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{folder.name}/{path} cannot be read: {error.strerror}", "Make it readable, or name it in .dockerignore.")
