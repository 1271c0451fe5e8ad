"""What CI keeps of a run, in `.pipeline/itest/`: JUnit XML, the database's log, a short summary. No passwords."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

from pipeline.errors import CheckoutBusyError

FOLDER = "itest"
LOCK = "itest.lock"  # held by the run whose results these are going to be; it goes with its process, however that ends
LOG = "database.log"
FAILURE_LOG = "database-since-failure.log"
SUMMARY = "summary.md"
FAILURE = "pipeline.xml"
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # a log may hold anything


@dataclass(frozen=True)
class Counts:
    """What the JUnit files say."""

    files: int = 0
    unreadable: tuple[str, ...] = ()  # files that are not JUnit XML: a killed test process leaves half a file
    tests: int = 0
    failed: int = 0  # failures and errors
    skipped: int = 0
    first_failure: float | None = None  # when the first test that failed began, in seconds since 1970; never later than it was

    @property
    def passed(self) -> int:
        return self.tests - self.failed - self.skipped

    def __str__(self) -> str:
        if not self.files and not self.unreadable:
            return "no JUnit XML was written (see `itest.junit`)"
        text = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        return text + (f"; unreadable: {', '.join(self.unreadable)}" if self.unreadable else "")


class Results:
    """The folder of results of one checkout."""

    def __init__(self, root: Path, state: Path) -> None:
        self._root = root
        self.folder = state / FOLDER
        self._lock_file = state / LOCK
        self._begun_ns = 0

    @contextlib.contextmanager
    def claim(self, command: str) -> Iterator[None]:
        """Have the folder, emptied, for one run of `command`: test commands write to it by paths that the configuration fixes.

        Raises CheckoutBusyError that names the run that has it already.
        """
        lock = self._lock()
        if lock is None:
            time.sleep(0.05)  # it may only be somebody who looks whether they are claimed
            lock = self._lock()
        if lock is None:
            who = self._lock_file.read_text(encoding="utf-8") or "another run"
            raise CheckoutBusyError(
                f"{who} is running in this checkout, and both would write their results to {FOLDER}/ below {self._lock_file.parent}",
                "Wait until it has ended, or run this one in a checkout of its own, such as: git worktree add ../another",
            )
        try:
            os.pwrite(lock, f"`{command}` (process {os.getpid()})".encode(), 0)
            self.begin()
            yield
        finally:
            os.ftruncate(lock, 0)
            os.close(lock)

    def are_claimed(self) -> bool:
        """Whether a run, of this process or another, has them at this moment."""
        lock = self._lock()
        if lock is None:
            return True
        os.close(lock)
        return False

    def _lock(self) -> int | None:
        """A descriptor that holds the lock; None where another one does."""
        self._lock_file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def begin(self) -> None:
        """Empty the folder. Only what is written from now on counts as a result."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._begun_ns = self.folder.stat().st_mtime_ns  # by the file system's own clock, which the test reports are compared with

    def keep_log(self, log: bytes, name: str = LOG) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(log)

    def collect(self, globs: Sequence[str], properties: dict[str, str], mask: Callable[[bytes], bytes]) -> Counts:
        """Copy the JUnit files that this run wrote, with `properties` in every test suite; what they say."""
        files = tests = failed = skipped = 0
        unreadable: list[str] = []
        failures: list[float] = []
        for source, target in self._new_files(globs):
            content = mask(source.read_bytes())
            try:
                tree = ElementTree.fromstring(content)  # noqa: S314 - the project's own tests wrote it; expat bounds entity expansion
            except ElementTree.ParseError:
                tree = None
            suites = [] if tree is None else list(tree.iter("testsuite"))
            target.parent.mkdir(parents=True, exist_ok=True)
            if tree is None or (not suites and tree.tag != "testsuites"):
                target.write_bytes(content)
                unreadable.append(str(target.relative_to(self.folder)))
                continue
            written = source.stat().st_mtime
            for suite in suites:
                _add_properties(suite, properties)
                failures += _first_failure(suite, written)
            target.write_bytes(ElementTree.tostring(tree, encoding="utf-8", xml_declaration=True))
            files += 1
            for case in tree.iter("testcase"):
                tests += 1
                failed += _failed(case)
                skipped += case.find("skipped") is not None
        return Counts(files, tuple(unreadable), tests, failed, skipped, min(failures, default=None))

    def write_failure(self, step: str, message: str, properties: dict[str, str]) -> None:
        """A report of one test, `step`, that failed: CI servers show it where the tests were never reached."""
        self.folder.mkdir(parents=True, exist_ok=True)
        suite = ElementTree.Element("testsuite", name="pipeline", tests="1", errors="1", failures="0", skipped="0")
        _add_properties(suite, properties)
        case = ElementTree.SubElement(suite, "testcase", classname="pipeline", name=step)
        text = _NOT_XML.sub("?", message)
        ElementTree.SubElement(case, "error", message=text.partition("\n")[0]).text = text
        (self.folder / FAILURE).write_bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))

    def write_summary(self, lines: Sequence[tuple[str, str]]) -> None:
        """A Markdown table; the only thing in it that is not about this run is when it was written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        rows = [f"| {name} | {_cell(value)} |" for name, value in [*lines, ("written", when)]]
        (self.folder / SUMMARY).write_text("\n".join(["# Integration tests", "", "| | |", "| --- | --- |", *rows, ""]), encoding="utf-8")

    def _new_files(self, globs: Sequence[str]) -> Iterator[tuple[Path, Path]]:
        """Each file once, with where it goes: below this folder as it lies below the project's root."""
        seen: set[Path] = set()
        for path in sorted(self.folder.rglob("*.xml")):  # written here by the tests themselves, through PIPELINE_RESULTS
            seen.add(path.resolve())
            yield path, path
        for glob in globs:
            for path in sorted(self._root.glob(glob)):
                if path.is_file() and path.resolve() not in seen and path.stat().st_mtime_ns >= self._begun_ns:
                    seen.add(path.resolve())
                    yield path, self.folder / path.relative_to(self._root)


def _add_properties(suite: ElementTree.Element, properties: dict[str, str]) -> None:
    found = suite.find("properties")
    if found is None:
        found = ElementTree.Element("properties")
        suite.insert(0, found)  # JUnit's schema has them first
    for name, value in properties.items():
        for old in [entry for entry in found if entry.get("name") == name]:
            found.remove(old)
        ElementTree.SubElement(found, "property", name=name, value=value)


def _failed(case: ElementTree.Element) -> bool:
    return case.find("failure") is not None or case.find("error") is not None


def _first_failure(suite: ElementTree.Element, written: float) -> list[float]:
    """When the suite's first failed test began; empty where none failed. `written`: when the file was, which bounds a suite without a time.

    JUnit XML has a start for the suite only, and a duration for each test. They add up where the tests ran one after another; where
    they ran in parallel, the failed one may have begun as early as the suite.
    """
    cases = suite.findall("testcase")
    failed = next((number for number, case in enumerate(cases) if _failed(case)), None)
    if failed is None:
        return []
    durations = [_number(case.get("time")) for case in cases]
    whole = _number(suite.get("time"))
    begun = _moment(suite.get("timestamp"))
    if begun is None:
        begun = written - max(whole, sum(durations))
    one_after_another = sum(durations) <= whole
    return [begun + (sum(durations[:failed]) if one_after_another else 0.0)]


def _number(text: str | None) -> float:
    try:
        return float((text or "0").replace(",", ""))  # Surefire writes 1,234.5
    except ValueError:
        return 0.0


def _moment(text: str | None) -> float | None:
    """Seconds since 1970; a time without an offset is this machine's."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except ValueError:
        return None


def _cell(text: str) -> str:
    return "<br>".join(text.replace("|", "\\|").splitlines())
