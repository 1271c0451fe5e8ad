"""What every task has in common: errors become a message and an exit code, a signal becomes a clean end."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import Task, task

from pipeline.errors import (
    BUG_EXIT_CODE,
    INTERRUPTED_EXIT_CODE,
    TERMINATED_EXIT_CODE,
    ConfigurationError,
    MissingRequirementError,
    PipelineError,
)
from pipeline.tasks.build_server import Log, is_build_server

if TYPE_CHECKING:
    from pipeline.config import Config


_log = Log()


class Terminated(KeyboardInterrupt):
    """TERM arrived. It unwinds like Ctrl-C, so that whatever was begun is cleaned up, and ends with its own exit code."""


def command(**options: Any) -> Callable[[Callable[..., None]], Task[Any]]:
    """`invoke.task`, with the one handler of this project: expected error, interrupt, or bug (a log file, exit code 3).

    On a build server, what it says is a section of the log.
    """

    def decorate(function: Callable[..., None]) -> Task[Any]:
        @functools.wraps(function)
        def run(context: Context, *args: Any, **kwargs: Any) -> None:
            previous = signal.signal(signal.SIGTERM, _terminate)
            try:
                with _section(_title(function.__name__, options.get("name", "")), kwargs):
                    function(context, *args, **kwargs)
            except PipelineError as error:
                raise Exit(_told(error), error.exit_code) from None
            except Terminated:
                raise Exit("terminated", TERMINATED_EXIT_CODE) from None
            except KeyboardInterrupt:
                raise Exit("interrupted", INTERRUPTED_EXIT_CODE) from None
            except BrokenPipeError:  # `invoke plan | head`: the reader has seen enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise Exit(code=0) from None
            except Exit:
                raise
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise Exit(_bug(error), BUG_EXIT_CODE) from None
                full = MissingRequirementError(
                    f"the disk is full: {error.filename or 'a temporary file'}", "Free space; see: df -h, docker system df"
                )
                raise Exit(_told(full), full.exit_code) from None
            except Exception as error:  # noqa: BLE001 - this is the one place where a bug ends
                raise Exit(_bug(error), BUG_EXIT_CODE) from None
            finally:
                signal.signal(signal.SIGTERM, previous)
                gc.freeze()  # as in pipeline.tasks: the modules that this task has imported, too

        made: Task[Any] = task(**options)(run)
        return made

    return decorate


def read_project() -> Config:
    """The configuration of the repository that the current folder belongs to."""
    from pipeline.config import find_root, read_config

    return read_config(find_root(Path.cwd()))


def say(line: str) -> None:
    """One line of progress, on stderr: stdout is for results."""
    sys.stderr.write(f"{line}\n")  # one write: several threads say something at the same time
    sys.stderr.flush()
    _log.note(line)


def refuse_others(option: str, **others: object) -> None:
    """Raise ConfigurationError where options were given that `option` has no use for: without a word they would be dropped."""
    given = [f"--{name.replace('_', '-')}" for name, value in others.items() if value]
    if given:
        raise ConfigurationError(f"{option} does not go together with {', '.join(given)}", "Leave one of them out.")


def _section(title: str, given: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
    if given.get("quiet") or not is_build_server(os.environ):
        return contextlib.nullcontext()
    return _log.section(f"invoke {title}", os.environ, say, stdout_is_taken=bool(given.get("json")))


def _title(function: str, name: str) -> str:
    """The command as it is typed: `release_list`, whose task is named `list`, is release.list."""
    return f"{function.removesuffix(f'_{name}')}.{name}" if name else function.replace("_", "-")


def _told(error: PipelineError) -> str:
    lines = [f"error: {error.message}"]
    if error.hint:
        lines += [f"  {line}" for line in error.hint.splitlines()]
    return "\n".join(lines)


def _bug(error: Exception) -> str:
    import traceback

    from pipeline.config import STATE_FOLDER, find_root

    text = "".join(traceback.format_exception(error))
    try:
        log = find_root(Path.cwd()) / STATE_FOLDER / "bug.log"
        log.parent.mkdir(exist_ok=True)
        log.write_text(text, encoding="utf-8")
    except (PipelineError, OSError):
        return f"{text}error: this is a bug in the pipeline: {error!r}\n  Please report it with the lines above."
    return f"error: this is a bug in the pipeline: {error!r}\n  Please report it with {log}."


def _terminate(_number: int, _frame: object) -> None:
    raise Terminated
