"""mmdebstrap and Graphviz, in place of which small scripts stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.adapters.graphviz import write_svg
from pipeline.adapters.mmdebstrap import bootstrap_suite, machine_distribution, make_root_filesystem
from pipeline.errors import BuildError, ImageUnavailableError, MissingRequirementError, PipelineError

SUITES = {"debian": "trixie", "ubuntu": "noble"}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH, besides the shell's own."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("text", "name"), [("NAME=x\nID=debian\n", "debian"), ('ID="ubuntu"\nID_LIKE=debian\n', "ubuntu"), ("NAME=x\n", "")]
)
def test_the_distribution_of_this_machine(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "os-release").write_text(text)
    assert machine_distribution(tmp_path / "os-release") == name
    assert machine_distribution(tmp_path / "none") == ""


def test_a_base_is_bootstrapped_only_for_this_distribution(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.adapters.mmdebstrap.machine_distribution", lambda: "debian")
    with pytest.raises(ImageUnavailableError, match="mmdebstrap is not installed") as caught:
        bootstrap_suite(SUITES)
    assert caught.value.hint == "apt-get install mmdebstrap"
    assert bootstrap_suite({"fedora": "x"}) == ""
    program(programs, "mmdebstrap", "")
    assert bootstrap_suite(SUITES) == "debian trixie"


@pytest.mark.parametrize(
    ("distribution", "arguments"),
    [
        ("debian", "--variant=minbase trixie ARCHIVE"),
        ("ubuntu", "--variant=minbase --include=apt --components=main,universe trixie ARCHIVE"),
    ],
)
def test_how_a_base_is_made(programs: Path, tmp_path: Path, distribution: str, arguments: str) -> None:
    program(programs, "mmdebstrap", 'echo "$@"')
    log, archive = tmp_path / "logs/x.log", tmp_path / "root.tar"
    make_root_filesystem(distribution, "trixie", archive, log)
    assert log.read_text().strip() == arguments.replace("ARCHIVE", str(archive))


def test_a_bootstrap_that_fails_shows_its_end(programs: Path, tmp_path: Path) -> None:
    program(programs, "mmdebstrap", 'i=0; while [ $i -lt 30 ]; do echo "line $i"; i=$((i+1)); done; exit 3')
    with pytest.raises(BuildError, match="line 29") as caught:
        make_root_filesystem("debian", "trixie", tmp_path / "x", tmp_path / "x.log")
    assert "line 14\n" not in caught.value.message
    assert str(tmp_path / "x.log") in caught.value.hint


def test_a_remembered_bootstrap_without_the_program(programs: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingRequirementError, match="which is not installed"):
        make_root_filesystem("debian", "trixie", tmp_path / "x", tmp_path / "x.log")


def test_a_picture(programs: Path, tmp_path: Path) -> None:
    picture = tmp_path / "x.svg"
    with pytest.raises(MissingRequirementError, match="Graphviz is not installed"):
        write_svg("digraph {}", picture)
    program(programs, "dot", 'while read line; do echo "<svg>$line</svg>"; done')
    write_svg("digraph {}\n", picture)
    assert picture.read_text() == "<svg>digraph {}</svg>\n"
    with pytest.raises(PipelineError, match="cannot be written: No such file"):
        write_svg("digraph {}\n", tmp_path / "none" / "x.svg")
    program(programs, "dot", "echo broken >&2; exit 1")
    with pytest.raises(MissingRequirementError, match="could not draw: broken"):
        write_svg("digraph {}", picture)
