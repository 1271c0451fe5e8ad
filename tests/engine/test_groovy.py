"""The Jenkinsfile as Groovy sees it: parsed and looked over by CodeNarc, the linter that npm-groovy-lint brings with it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.conftest import ROOT

PACKAGE = "npm-groovy-lint@18.0.0"  # CodeNarc 3.7.0 on Groovy 4.0.26; the wrapper itself, which wants a newer Node, is not run
RULES = Path(__file__).with_name("codenarc.groovy")
UNPARSED = "Compilation failed"
JENKINSFILE = (ROOT / "Jenkinsfile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def lint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Looks at the Jenkinsfile in a folder; what CodeNarc says of it."""
    for program in ("npm", "java"):
        if not shutil.which(program):
            pytest.skip(f"CodeNarc comes with npm and runs in Java; there is no {program} here")
    folder = tmp_path_factory.mktemp("codenarc")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), PACKAGE]
    subprocess.run(install, cwd=folder, check=True, capture_output=True, text=True, timeout=300)
    jars = ":".join(str(jar) for jar in sorted((folder / "node_modules/npm-groovy-lint/lib/java").rglob("*.jar")))

    def look(place: Path) -> str:
        options = [f"-basedir={place}", "-includes=Jenkinsfile", f"-rulesetfiles=file:{RULES}", "-report=console"]
        command = ["java", "-cp", jars, "org.codenarc.CodeNarc", *options]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        return done.stdout  # a file that cannot be parsed is said on stderr, and counts as one without violations

    return look


def test_the_jenkinsfile_is_good_groovy(lint: Callable[[Path], str]) -> None:
    said = lint(ROOT)
    assert "TotalFiles=1 FilesWithViolations=0 P1=0 P2=0 P3=0" in said
    assert UNPARSED not in said


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("    stages {", "    stages {{(", UNPARSED),
        ("env.CHANGE_FORK == null", "1 == 1", "ComparisonOfTwoConstants"),
        ("pipeline {", "import java.util.zip.ZipFile\npipeline {", "UnusedImport"),
    ],
)
def test_what_is_wrong_is_found(lint: Callable[[Path], str], tmp_path: Path, old: str, new: str, what: str) -> None:
    broken = JENKINSFILE.replace(old, new, 1)
    assert broken != JENKINSFILE
    (tmp_path / "Jenkinsfile").write_text(broken, encoding="utf-8")
    assert what in lint(tmp_path)
