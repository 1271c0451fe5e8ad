"""The tasks of this repository: those of every repository, and demo, check and test of its own."""

import subprocess

from invoke.context import Context
from invoke.exceptions import Exit

from pipeline.tasks import namespace
from pipeline.tasks.command import command


@command()
def demo(_context: Context) -> None:
    """Set everything up, then build, push and test for real."""
    from setup.demo import Demo

    print(Demo().run())


@command(help={"fix": "Mend what can be mended: format, simple lint, and what is generated from the code."})
def check(_context: Context, fix: bool = False) -> None:
    """Lint, format, types, imports, dead code and so on."""
    from setup.checks import run_checks

    run_checks(fix)


@command(
    help={
        "unit": "Only the tests that need no engine.",
        "select": "pytest's -k.",
        "long": "Tests that draw cases at random run their full number of rounds.",
    }
)
def test(_context: Context, unit: bool = False, select: str = "", long: bool = False) -> None:
    """Set everything up, then run all tests."""
    from setup.checks import KINDS, ROOT, run_tests

    if not unit:
        code = subprocess.run([ROOT / "setup" / "engine.sh", "--for-tests"], check=False).returncode
        if code:
            raise Exit(code=code)
    run_tests(["unit"] if unit else list(KINDS), select, long)


@command(
    help={
        "only": "One case, such as many or peers; `python -m benchmarks --help` lists them.",
        "rounds": "Runs of each side.",
        "save": "Keep the figures in benchmarks/results.json.",
    }
)
def bench(_context: Context, only: str = "", rounds: int = 0, save: bool = False) -> None:
    """Measure this project beside its peers, in one run.

    What is compared are ratios of medians.
    """
    from benchmarks.command import main

    code = main([*(["--only", only] if only else []), *(["--rounds", str(rounds)] if rounds else []), *(["--save"] if save else [])])
    if code:
        raise Exit(code=code)


for _task in (demo, check, test, bench):
    namespace.add_task(_task)

__all__ = ["namespace"]
