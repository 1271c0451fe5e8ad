"""./invokew check and ./invokew test: what stands between a change and the main branch."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from pipeline.errors import PipelineError
from setup.generated import outdated_files, write_files

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
RESULTS = ROOT / ".pipeline" / "tests"

CHECKS: dict[str, list[Path | str]] = {
    "lint": [BIN / "ruff", "check", "."],
    "format": [BIN / "ruff", "format", "--check", "."],
    "types": [BIN / "mypy"],
    "imports": [BIN / "lint-imports"],
    "dead code": [BIN / "vulture"],
    "dependencies": [BIN / "deptry", "."],
    "docs": [BIN / "mkdocs", "build", "--strict", "--quiet"],
    "shell": [
        BIN / "shellcheck",
        "invokew",
        "setup/engine.sh",
        ".ci/run",
        "pipeline/integration/lease.sh",
        *map(str, (ROOT / "dockerfiles/postgres/bin").iterdir()),
    ],
}
_BY_FILE = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]  # the tests of a file one after another; files as they are collected
KINDS: dict[str, list[str]] = {
    "unit": ["tests/unit", "-n", "2"],
    "engine": ["tests/engine", *_BY_FILE],
    # those about images again, on an engine with the other image store
    "containerd store": ["tests/engine", "--store", "containerd", *_BY_FILE],
}
NO_TESTS = 5  # pytest's exit code where no test was collected


class CheckFailedError(PipelineError):
    """A check or a test said no."""

    exit_code = 60


def run_checks(fix: bool = False) -> None:
    """Every static check, all of them even if one fails; with `fix`, what can be mended is mended first."""
    if fix:
        subprocess.run([BIN / "ruff", "check", "--fix", "--quiet", "."], cwd=ROOT, check=False)
        subprocess.run([BIN / "ruff", "format", "--quiet", "."], cwd=ROOT, check=False)
        write_files()
    failed = outdated_files()
    for path in failed:
        print(f"FAILED  {path} is not what the code says", flush=True)
    for name, command in CHECKS.items():
        result = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
        print(f"{'ok' if result.returncode == 0 else 'FAILED':7} {name}", flush=True)
        if result.returncode:
            print(result.stdout + result.stderr, flush=True)
            failed.append(name)
    if failed:
        raise CheckFailedError(
            f"checks failed: {', '.join(failed)}", "What they say stands above; ./invokew check --fix mends format and what is generated."
        )


def run_tests(kinds: Sequence[str], select: str = "", long: bool = False) -> None:
    """Run the tests of each kind and say how many of each ran; a kind that ran none has failed, unless others were selected.

    `select`: pytest's -k. `long`: seeded tests run their full number of rounds.
    """
    lines: list[str] = []
    failed: list[str] = []
    total = [0, 0, 0]
    for kind in kinds:
        report = RESULTS / f"{kind.replace(' ', '-')}.xml"
        report.unlink(missing_ok=True)
        start = time.monotonic()
        command = [sys.executable, "-m", "pytest", *KINDS[kind], f"--junitxml={report}", *(["-k", select] if select else [])]
        if long and kind != "unit":
            command.append("--long")
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        passed, bad, skipped = _counts(report)
        total = [total[0] + passed, total[1] + bad, total[2] + skipped]
        lines.append(f"{kind + ' tests:':23} {passed} passed, {bad} failed, {skipped} skipped in {time.monotonic() - start:.0f} s")
        if not (code == NO_TESTS and select) and (code or not passed):
            failed.append(kind)
    print("\n" + "\n".join(lines), flush=True)
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped", flush=True)
    if failed:
        raise CheckFailedError(f"tests failed: {', '.join(failed)}", "The failures stand above.")
    if not total[0]:
        raise CheckFailedError(f"no test was run: none is selected by '{select}'", "See pytest's -k.")


def _counts(report: Path) -> tuple[int, int, int]:
    if not report.exists():
        return 0, 0, 0
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    bad = sum(int(suite.get("failures", 0)) + int(suite.get("errors", 0)) for suite in suites)
    skipped = sum(int(suite.get("skipped", 0)) for suite in suites)
    return sum(int(suite.get("tests", 0)) for suite in suites) - bad - skipped, bad, skipped
