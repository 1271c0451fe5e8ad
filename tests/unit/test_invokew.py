"""invokew: the virtual environment is made once, renewed when its lock changes, and never by two at the same time.

Python itself is a stand-in here (a shell script that does what `python -m venv` and pip would, slowly): the real one takes half
a minute, and every run of these tests has already been through it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

FAKE_PYTHON = """#!/bin/sh
case "$*" in
    --version) echo "Python 3.99.0" ;;
    "-c import sys"*) exit {too_old} ;;
    "-c import venv"*) exit {no_venv} ;;
    "-m venv --clear "*)
        echo made >> "{calls}"
        rm -rf "$4"; mkdir -p "$4/bin"
        cp "$0" "$4/bin/python"
        printf '#!/bin/sh\\necho "invoke $*"; [ "$1" != who ] || echo "$INVOKEW = $$ $PPID"; pwd >&2\\n' > "$4/bin/invoke"; chmod +x "$4/bin/invoke" ;;
    "-m pip install "*--require-hashes*) sleep 0.3; echo installed >> "{calls}"; exit {pip_fails} ;;
    "-m pip install "*) echo project >> "{calls}" ;;
esac
"""


@pytest.fixture
def wrapper(tmp_path: Path) -> Wrapper:
    return Wrapper(tmp_path / "project")


class Wrapper:
    """A project that holds nothing but invokew and what it looks at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls_file = folder.parent / "calls"
        (folder / "pipeline").mkdir(parents=True)
        (folder / "tasks.py").touch()
        shutil.copy(ROOT / "invokew", folder)
        (folder / "requirements.lock").write_text("one==1\n")
        (folder / "pyproject.toml").write_text("[project]\n")
        self.python = folder.parent / "fake-python"
        self.make_python()

    def make_python(self, too_old: int = 0, no_venv: int = 0, pip_fails: int = 0) -> None:
        text = FAKE_PYTHON.format(calls=self.calls_file, too_old=too_old, no_venv=no_venv, pip_fails=pip_fails)
        self.python.write_text(text)
        self.python.chmod(0o755)

    def start(self, *arguments: str, folder: Path | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.folder / "invokew"), *arguments],
            cwd=folder or self.folder,
            env={"PATH": "/usr/bin:/bin", "PIPELINE_PYTHON": str(self.python)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, folder: Path | None = None) -> tuple[int, str, str]:
        process = self.start(*arguments, folder=folder)
        output, errors = process.communicate(timeout=30)
        return process.returncode, output, errors

    def calls(self) -> list[str]:
        return self.calls_file.read_text().split() if self.calls_file.exists() else []


def test_makes_the_environment_once_and_passes_the_arguments_on(wrapper: Wrapper, tmp_path: Path) -> None:
    assert wrapper.run("build", "--only", "a b")[:2] == (0, "invoke build --only a b\n")
    assert wrapper.run("plan", folder=tmp_path)[:2] == (0, "invoke plan\n")
    assert wrapper.calls() == ["made", "installed", "project"]


def test_means_the_project_around_the_current_folder_and_else_its_own(wrapper: Wrapper, tmp_path: Path) -> None:
    wrapper.run()
    (tmp_path / "other/deep").mkdir(parents=True)
    assert wrapper.run(folder=tmp_path / "other/deep")[2] == f"{wrapper.folder}\n"
    (tmp_path / "other/tasks.py").touch()
    assert wrapper.run(folder=tmp_path / "other/deep")[2] == f"{tmp_path / 'other/deep'}\n"


def test_tells_invoke_who_called(wrapper: Wrapper) -> None:
    told, _, true = wrapper.run("who")[1].splitlines()[-1].partition(" = ")
    assert told == true


def test_a_completion_makes_no_environment(wrapper: Wrapper) -> None:
    assert wrapper.run("--complete", "--", "invoke ")[1] == ""
    assert wrapper.calls() == []
    wrapper.run("build")
    assert wrapper.run("--complete", "--", "invoke ")[1] == "invoke --complete -- invoke \n"


def test_renews_it_when_the_lock_changes(wrapper: Wrapper) -> None:
    wrapper.run()
    (wrapper.folder / "requirements.lock").write_text("one==2\n")
    assert wrapper.run()[0] == 0
    assert wrapper.calls() == ["made", "installed", "project"] * 2


def test_installs_only_the_project_when_only_its_metadata_changes(wrapper: Wrapper) -> None:
    wrapper.run()
    (wrapper.folder / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    wrapper.run()
    assert wrapper.calls() == ["made", "installed", "project", "project"]


def test_two_at_the_same_time_make_one_environment(wrapper: Wrapper) -> None:
    processes = [wrapper.start("plan") for _ in range(4)]
    assert [process.communicate(timeout=30)[0] for process in processes] == ["invoke plan\n"] * 4
    assert wrapper.calls() == ["made", "installed", "project"]


def test_a_half_made_environment_is_made_again(wrapper: Wrapper) -> None:
    wrapper.make_python(pip_fails=1)
    code, _, errors = wrapper.run()
    assert code == 1
    assert "pip could not install" in errors
    wrapper.make_python()
    assert wrapper.run()[0] == 0
    assert wrapper.calls() == ["made", "installed", "made", "installed", "project"]


def test_a_python_without_venv_is_named_with_what_to_install(wrapper: Wrapper) -> None:
    wrapper.make_python(no_venv=1)
    code, _, errors = wrapper.run()
    assert code == 1
    assert "has no venv module" in errors
    assert "apt-get install python3-venv" in errors


def test_a_python_that_is_too_old_is_named(wrapper: Wrapper) -> None:
    wrapper.make_python(too_old=1)
    code, _, errors = wrapper.run()
    assert code == 1
    assert "needs Python 3.11 or newer" in errors


@pytest.fixture
def application(wrapper: Wrapper) -> Wrapper:
    """An application: it names what installs the toolkit, and its pyproject.toml and requirements.lock are none of invokew's business."""
    (wrapper.folder / "requirements-pipeline.txt").write_text("./tools/pipeline-1.whl\n")
    return wrapper


def test_an_application_installs_what_it_names(application: Wrapper, tmp_path: Path) -> None:
    assert application.run("build", folder=tmp_path)[:2] == (0, "invoke build\n")
    assert application.calls() == ["made", "project"]
    for name in ("requirements.lock", "pyproject.toml"):
        (application.folder / name).write_text("changed")
        (application.folder / name).unlink()
    assert application.run()[0] == 0
    assert application.calls() == ["made", "project"]


def test_an_application_renews_it_when_it_names_another_toolkit(application: Wrapper) -> None:
    application.run()
    (application.folder / "requirements-pipeline.txt").write_text("./tools/pipeline-2.whl\n")
    assert application.run()[0] == 0
    assert application.calls() == ["made", "project"] * 2


def test_a_toolkit_that_cannot_be_installed_is_named(application: Wrapper) -> None:
    (application.folder.parent / "fake-python").write_text(application.python.read_text().replace("echo project", "exit 1; echo"))
    code, _, errors = application.run()
    assert code == 1
    assert "pip could not install what requirements-pipeline.txt names" in errors
    application.make_python()
    assert application.run()[0] == 0
