"""The toolkit as an application has it: built as a wheel and installed into an environment of its own, far from this checkout."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Toolkit:
    """`wheel`: of this checkout. `wheels`: a folder with it and what it needs. `python`: of an environment that was made of those."""

    wheel: Path
    wheels: Path
    python: Path

    @property
    def invoke(self) -> Path:
        return self.python.with_name("invoke")


@pytest.fixture(scope="session")
def toolkit(tmp_path_factory: pytest.TempPathFactory) -> Toolkit:
    """Made once by whichever of a run's processes comes first."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "toolkit"
    folder.mkdir(exist_ok=True)
    wheels, python, made = folder / "wheels", folder / "environment" / "bin" / "python", folder / "made"
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not made.exists():
            made.write_text(str(_make(wheels, python)))
    return Toolkit(Path(made.read_text()), wheels, python)


def _make(wheels: Path, python: Path) -> Path:
    """The wheel; what it needs, in the versions that this project is tested with; and an environment, without a package index."""
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(ROOT))
    (wheel,) = wheels.glob("*.whl")
    locked = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line and not line.startswith((" ", "#"))]
    constraints = wheels / "constraints.txt"
    constraints.write_text("".join(line.rstrip(" \\") + "\n" for line in locked))
    _pip("download", "--constraint", str(constraints), "--dest", str(wheels), str(wheel))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(python.parent.parent)], check=True)
    _pip(f"--python={python}", "install", "--no-index", "--find-links", str(wheels), str(wheel))
    return wheel


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True, capture_output=True, text=True)
