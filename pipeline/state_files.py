"""Files that are written whole or not at all. What a process that was killed left unfinished is swept by the next one."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

_UNFINISHED = re.compile(r".*\.unfinished-([0-9]+)")


def write_whole(path: Path, content: bytes, durable: bool = False) -> None:
    """Write a file in one step: a reader sees the old content or the new one. Raises OSError, and leaves nothing behind then.

    `durable`: also where the machine stops in the next moment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def unfinished(path: Path) -> Path:
    """The name under which this process writes a file until it is whole."""
    return path.with_name(f"{path.name}.unfinished-{os.getpid()}")


def sweep_unfinished(*folders: Path) -> None:
    """Remove what processes that are gone left unfinished. Never fails."""
    for folder in folders:
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                if (found := _UNFINISHED.fullmatch(name)) and not _runs(int(found[1])):
                    (folder / name).unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
