"""The toolkit as an application has it: built as a wheel and installed into an environment of its own, far from this checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def wheels(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with that wheel and what it needs, in the versions that this project is tested with."""
    folder = tmp_path_factory.mktemp("wheels")
    locked = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line and not line.startswith((" ", "#"))]
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(line.rstrip(" \\") + "\n" for line in locked))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--constraint", str(constraints), "--dest", str(folder), str(wheel)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder


@pytest.fixture(scope="session")
def toolkit(wheel: Path, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `invoke` of a new environment that has the wheel and what it needs, installed without a package index."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    command = [str(folder / "bin" / "pip"), "install", "--quiet", "--no-index", "--find-links", str(wheels), str(wheel)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder / "bin" / "invoke"
