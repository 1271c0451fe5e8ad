"""A root file system from a distribution's packages, for machines that can reach no registry: mmdebstrap.

It finds the machine's own package mirror by itself.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import BuildError, ImageUnavailableError, MissingRequirementError

PROGRAM = "mmdebstrap"


def machine_distribution(os_release: Path = Path("/etc/os-release")) -> str:
    """This machine's distribution as os-release(5) names it, such as `debian`; empty where it says nothing."""
    try:
        lines = os_release.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition("=")[2].strip("\"'") for line in lines if line.startswith("ID=")), "")


def bootstrap_suite(suites: Mapping[str, str]) -> str:
    """`DISTRIBUTION SUITE` for this machine, such as `debian trixie`; empty where `suites` has none for it.

    Raises ImageUnavailableError where only the program is missing.
    """
    distribution = machine_distribution()
    if distribution not in suites:
        return ""
    if not shutil.which(PROGRAM):
        raise ImageUnavailableError(
            f"the base could be made from {distribution}'s packages, but {PROGRAM} is not installed", f"apt-get install {PROGRAM}"
        )
    return f"{distribution} {suites[distribution]}"


def make_root_filesystem(distribution: str, suite: str, archive: Path, log: Path) -> None:
    """Write a minimal root file system of `suite` to a tar file. Raises BuildError with the end of the program's output."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        # Ubuntu's minbase has no apt-get, and what images install there lies partly in universe.
        options = ["--include=apt", "--components=main,universe"] if distribution == "ubuntu" else []
        command = [PROGRAM, "--variant=minbase", *options, suite, str(archive)]
        try:
            code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False).returncode
        except FileNotFoundError:  # the base was found on another machine, or before the program was removed
            raise MissingRequirementError(
                f"the base {distribution} {suite} is made with {PROGRAM}, which is not installed", f"apt-get install {PROGRAM}"
            ) from None
    if code:
        end = "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-15:])
        raise BuildError(
            f"{PROGRAM} could not make {suite}:\n{end}", f"It needs root or user namespaces, and the package mirror. The whole log: {log}"
        )
