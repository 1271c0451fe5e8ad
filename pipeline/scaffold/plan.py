"""What `invoke init` would do to each file: nothing that the team wrote is lost, and a second run finds nothing to do.

`.pipeline-init.json`, which is committed, holds what was written. So it is known whether the team has edited a file since, and both
sides' changes can be put together when a newer version of the toolkit brings another one: also where the file was edited before
its first commit, in a shallow clone, and without Git.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from pipeline.errors import ConfigurationError
from pipeline.scaffold.files import Template
from pipeline.scaffold.shipped import is_executable
from pipeline.state_files import write_whole

RECORD_FILE = ".pipeline-init.json"
NOTE = (
    "What invoke init has written; commit it. Where an entry of `files` is deleted, init writes that file again if it is not there. "
    "Those with null are yours from the beginning."
)

# create, replace: done at once. ask: shown as a diff and done if that is confirmed. keep: left as it is, and said why.
Action = Literal["same", "create", "replace", "ask", "keep"]


class Merge(Protocol):
    def __call__(self, ours: str, base: str, theirs: str) -> str | None:
        """Both sides' changes together; None where they contradict each other."""


@dataclass(frozen=True)
class Record:
    """What was written: path → text, None of a file that is the team's own; and path → lines."""

    files: Mapping[str, str | None]
    lines: Mapping[str, tuple[str, ...]]

    def noting(self, template: Template) -> Record:
        """With what is written now."""
        if template.lines:
            return replace(self, lines={**self.lines, template.path: template.lines})
        return replace(self, files={**self.files, template.path: None if template.owned else template.text})


@dataclass(frozen=True)
class Step:
    """One file. `text`: what it would hold; `current`: what it holds, None where it is not there.

    `note`: why, for people. `shown`: a diff that helps to do by hand what is not done.
    """

    template: Template
    action: Action
    text: str
    current: str | None
    note: str = ""
    shown: str = ""
    settled: bool = False  # what the toolkit would write now is known, and need not be brought again

    @property
    def diff(self) -> str:
        return make_diff(self.current or "", self.text, self.template.path)


def plan_init(
    root: Path, templates: Sequence[Template], record: Record, merge: Merge, upgrade: bool, explicit: Sequence[str] = ()
) -> tuple[Step, ...]:
    """`explicit`: files that the command line asked for, whoever owns them. Raises ConfigurationError for one that is no text."""
    return tuple(
        _plan_lines(root, template, record) if template.lines else _plan_file(root, template, record, merge, upgrade, template.path in explicit)
        for template in templates
    )  # fmt: skip


def carry_out(root: Path, step: Step) -> None:
    """Write a step's file: where it is a link, what that leads to."""
    path = (root / step.template.path).resolve()
    executable = step.template.executable or (path.exists() and is_executable(path))
    write_whole(path, step.text.encode())
    if executable:
        path.chmod(0o755)


def read_record(root: Path) -> Record:
    """Raises ConfigurationError for a damaged one."""
    path = root / RECORD_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        files = {str(key): "\n".join(value) if value else None for key, value in found["files"].items()}
        return Record(files, {str(key): tuple(map(str, value)) for key, value in found["lines"].items()})
    except FileNotFoundError:
        return Record({}, {})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise ConfigurationError(
            f"{RECORD_FILE} is damaged", f"Take a whole one: git checkout -- {RECORD_FILE}; or delete it: then each file counts as yours."
        ) from None


def write_record(root: Path, record: Record) -> None:
    """Only where it says something else than before."""
    if record != read_record(root):
        files = {path: (record.files[path] or "").split("\n") if record.files[path] else None for path in sorted(record.files)}
        document = {"note": NOTE, "files": files, "lines": {path: record.lines[path] for path in sorted(record.lines)}}
        write_whole(root / RECORD_FILE, f"{json.dumps(document, indent=1)}\n".encode())


def make_diff(old: str, new: str, path: str, old_name: str = "", new_name: str = "") -> str:
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), old_name or f"a/{path}", new_name or f"b/{path}"
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _plan_file(root: Path, template: Template, record: Record, merge: Merge, upgrade: bool, explicit: bool) -> Step:
    """What a file holds is compared, and put together, with plain line ends; it keeps its own."""
    held = _read(root / template.path)
    current = held.replace("\r\n", "\n") if held else held
    step = _decide(root, template, record, merge, upgrade, explicit, current)
    return replace(step, text=step.text.replace("\n", "\r\n"), current=held) if held != current else step


def _decide(root: Path, template: Template, record: Record, merge: Merge, upgrade: bool, explicit: bool, current: str | None) -> Step:
    written = record.files.get(template.path)

    def step(action: Action, note: str = "", settled: bool = False) -> Step:
        return Step(template, action, template.text, current, note, settled=settled)

    if (root / template.path).is_symlink() and not (root / template.path).resolve().is_relative_to(root.resolve()):
        return step("keep", "it is a link to what is not of this repository")
    if current == template.text:
        return step("same", settled=True)
    if current is None:
        return step("keep", "you removed it") if template.path in record.files and not explicit else step("create")
    if explicit:
        return step("ask", "another one was asked for")
    if template.owned:
        return step("same")
    if written is None:
        return step("ask", "it was there before")
    if written == template.text:
        return step("same")  # the team's edition of what would be written again
    if not upgrade:
        return step("keep", "this version of the toolkit writes another one: invoke init --upgrade")
    if current == written:
        return step("replace", "a newer version, and you had not edited it")
    return _merge(step("keep"), current, merge, written)


def _merge(step: Step, current: str, merge: Merge, written: str) -> Step:
    """Both the team and the toolkit have changed a file since it was written."""
    path, theirs = step.template.path, step.template.text
    merged = merge(current, written, theirs)
    if merged is None:
        shown = make_diff(written, current, path, f"{path} (as written)", f"{path} (yours)")
        shown += make_diff(written, theirs, path, f"{path} (as written)", f"{path} (this version)")
        return replace(step, note="your changes and those of this version contradict each other; put them together by hand:", shown=shown)
    if merged == current:
        return replace(step, action="same", note="", settled=True)
    return replace(step, action="ask", text=merged, note="your changes and those of this version go together")


def _plan_lines(root: Path, template: Template, record: Record) -> Step:
    """A line that was written once and is not there any more was taken out on purpose."""
    current = _read(root / template.path)
    have = {line.strip() for line in (current or "").splitlines()} | set(record.lines.get(template.path, ()))
    missing = [line for line in template.lines if line not in have]
    if not missing:
        return Step(template, "same", current or "", current, settled=True)
    before = f"{current}\n" if current and not current.endswith("\n") else current or ""
    text = before + "".join(f"{line}\n" for line in missing)
    return Step(template, "create" if current is None else "replace", text, current, "lines were added")


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}", "It must be a readable UTF-8 text file.") from error
