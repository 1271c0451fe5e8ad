"""Graphviz' dot, where it is installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pipeline.errors import MissingRequirementError, PipelineError


def write_svg(dot: str, path: Path) -> None:
    """Draw Graphviz text into an SVG file. Raises MissingRequirementError without Graphviz."""
    try:
        result = subprocess.run(["dot", "-Tsvg"], input=dot.encode(), capture_output=True, check=True)
    except FileNotFoundError:
        raise MissingRequirementError(
            "Graphviz is not installed", "apt-get install graphviz, or use the Mermaid text: invoke plan --graph"
        ) from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise MissingRequirementError(
            f"Graphviz could not draw: {said}", "See: dot -V; or use the Mermaid text: invoke plan --graph"
        ) from error
    try:
        path.write_bytes(result.stdout)
    except OSError as error:
        raise PipelineError(f"{path} cannot be written: {error.strerror}", "Name a file in a folder that exists.") from error
