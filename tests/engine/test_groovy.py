"""The Jenkinsfile as Groovy sees it: compiled, and looked over by CodeNarc, Groovy's linter. Both are Debian's packages."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pipeline.scaffold.files import fit_ci
from pipeline.scaffold.repository import Answers
from tests.engine.conftest import ROOT

JARS = ":".join(f"/usr/share/java/{name}.jar" for name in ("CodeNarc", "GMetrics", "groovy-all", "log4j-1.2"))
RULES = Path(__file__).with_name("codenarc.groovy")
JENKINSFILE = (ROOT / "Jenkinsfile").read_text(encoding="utf-8")
APPLICATION = fit_ci("Jenkinsfile", Answers("", "finance/ledger", (), "", "./mvnw", True, "", "services/ledger"))  # as `init` writes it
BROKEN = {  # what CodeNarc finds → what makes it so
    "ComparisonOfTwoConstants": ("env.CHANGE_FORK == null", "1 == 1"),
    "UnusedImport": ("pipeline {", "import java.util.zip.ZipFile\npipeline {"),
}


def java(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["java", "-cp", JARS, *arguments], check=False, capture_output=True, text=True, timeout=120)


def compile_groovy(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    files = {"Jenkinsfile": text, "Application": APPLICATION}  # each becomes a class of its name
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return java("org.codehaus.groovy.tools.FileSystemCompiler", "-d", str(folder / "classes"), *(str(folder / name) for name in files))


def test_it_is_groovy(tmp_path: Path) -> None:
    compiled = compile_groovy(tmp_path, JENKINSFILE)
    assert compiled.returncode == 0, compiled.stderr
    assert {"Jenkinsfile.class", "Application.class"} <= {path.name for path in (tmp_path / "classes").iterdir()}


def test_what_is_no_groovy_is_told(tmp_path: Path) -> None:
    compiled = compile_groovy(tmp_path, JENKINSFILE.replace("    stages {", "    stages {{("))
    assert compiled.returncode == 1
    assert "Jenkinsfile: 11: " in compiled.stderr


def test_the_linter_finds_nothing_in_it_and_what_is_wrong_in_others(tmp_path: Path) -> None:
    """It passes over what is no Groovy, which is why that is compiled as well."""
    texts = {name: JENKINSFILE.replace(old, new, 1) for name, (old, new) in BROKEN.items()}
    assert JENKINSFILE not in texts.values()
    for name, text in {**texts, "ours": JENKINSFILE, "application": APPLICATION.replace("services/ledger", "x")}.items():  # a long line
        (tmp_path / name).mkdir()
        (tmp_path / name / "Jenkinsfile").write_text(text, encoding="utf-8")
    options = [f"-basedir={tmp_path}", "-includes=**/Jenkinsfile", f"-rulesetfiles=file:{RULES}", "-report=text:/dev/stdout"]
    said = java("org.codenarc.CodeNarc", *options).stdout
    assert "TotalFiles=4 FilesWithViolations=2" in said, said
    found = {part.partition("/")[0]: part for part in said.split("File: ")[1:]}
    assert set(found) == set(BROKEN), said
    for name, part in found.items():
        assert f"Rule={name} " in part
