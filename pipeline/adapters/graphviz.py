"""Graphviz' dot, where it is installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pipeline.errors import MissingRequirementError


def write_svg(dot: str, path: Path) -> None:
    """Draw Graphviz text into an SVG file. Raises MissingRequirementError without Graphviz."""
    try:
        result = subprocess.run(["dot", "-Tsvg"], input=dot.encode(), capture_output=True, check=True)
    except FileNotFoundError:
        raise MissingRequirementError("Graphviz is not installed", "apt-get install graphviz, or use the Mermaid text: invoke graph") from None
    path.write_bytes(result.stdout)
