"""One handler for all tasks: an expected error, a signal, a bug; each with its exit code, seen from outside."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TASKS = '''
import signal
from invoke.collection import Collection
from pipeline import errors
from pipeline.tasks.command import command, say

@command()
def fail(_context, kind):
    """Fail."""
    raise getattr(errors, kind)("what is wrong", "what to do\\nand then")

@command()
def full(_context):
    """Write to a full disk."""
    with open("/dev/full", "w") as file:
        file.write("x")

@command()
def bug(_context):
    """Divide."""
    1 / 0

@command()
def wait(_context):
    """Wait for a signal."""
    try:
        say("ready")
        signal.pause()
    finally:
        say("cleaned up")

@command()
def talk(_context):
    """Talk more than a reader reads."""
    for _ in range(100_000):
        print("x" * 100)

@command()
def restored(_context):
    """Run after another task."""
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    print("done")

@command(help={"name": "A name."})
def greet(_context, name="you", loud=False):
    """Greet somebody."""
    print(f"hello {name}" + "!" * loud)

namespace = Collection(fail, full, bug, wait, talk, restored, greet)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "pipeline.yaml").write_text("registry: r.example\nnamespace: t\n")
    return tmp_path


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "invoke", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONWARNINGS": "error"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def invoke(folder: Path, *arguments: str) -> tuple[int, str, str]:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize(("kind", "code"), [("ConfigurationError", 10), ("RegistryRefusedError", 31)])
def test_an_expected_error_is_told_on_stderr_with_its_hint(folder: Path, kind: str, code: int) -> None:
    assert invoke(folder, "fail", kind) == (code, "", "error: what is wrong\n  what to do\n  and then\n")
    assert not (folder / ".pipeline").exists()


def test_a_full_disk_is_said(folder: Path) -> None:
    code, _, err = invoke(folder, "full")
    assert code == 50
    assert "the disk is full" in err
    assert "Free space" in err


def test_a_bug_leaves_a_log(folder: Path) -> None:
    code, out, err = invoke(folder, "bug")
    log = folder / ".pipeline/bug.log"
    assert (code, out) == (3, "")
    assert str(log) in err
    assert "Traceback" not in err
    assert "ZeroDivisionError" in log.read_text()
    assert "1 / 0" in log.read_text()


def test_a_bug_outside_any_project_is_told_in_full(folder: Path) -> None:
    (folder / "pipeline.yaml").unlink()
    code, _, err = invoke(folder, "bug")
    assert code == 3
    assert "Traceback" in err
    assert "this is a bug" in err


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_a_signal_unwinds_and_has_its_exit_code(folder: Path, number: int, code: int, word: str) -> None:
    process = start(folder, "wait")
    assert process.stderr is not None
    assert select.select([process.stderr], [], [], 20)[0]
    assert process.stderr.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (code, f"cleaned up\n{word}\n")


def test_a_reader_that_has_seen_enough_is_no_error(folder: Path) -> None:
    process = start(folder, "talk")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(20) == 0


def test_tasks_run_one_after_another_and_the_first_failure_stops(folder: Path) -> None:
    assert invoke(folder, "restored", "greet", "--name", "me", "--loud")[:2] == (0, "done\nhello me!\n")
    code, out, _ = invoke(folder, "fail", "BuildError", "greet")
    assert (code, out) == (21, "")


def test_help_shows_the_docstring_and_the_options(folder: Path) -> None:
    code, out, _ = invoke(folder, "--help", "greet")
    assert code == 0
    assert "Greet somebody." in out
    assert "--name" in out
    assert "A name." in out
