"""On a build server: sections it can fold, no picture, warnings once more at the end, and forks that publish nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import ForkError
from pipeline.tasks.build_server import is_build_server, make_section, refuse_fork

TASKS = '''
from invoke.collection import Collection
from pipeline import errors
from pipeline.tasks.command import command, say

@command()
def first_step(_context, json=False, quiet=False):
    """Say something."""
    say("beginning")
    say("warning: the registry does not answer")
    print("{}" if json else "a result")

@command(name="fail")
def release_fail(_context):
    """Fail."""
    say("trying")
    raise errors.BuildError("what is wrong", "what to do")

namespace = Collection(first_step)
namespace.add_collection(Collection("release", release_fail))
'''
JENKINS = {"JENKINS_URL": "https://jenkins.example.com/"}


def invoke(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    (folder / "tasks.py").write_text(TASKS)
    ended = subprocess.run(
        [sys.executable, "-m", "invoke", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), **environment},
        capture_output=True,
        check=False,
    )
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


@pytest.mark.parametrize(
    ("environment", "begin", "end"),
    [
        (JENKINS, "=== invoke first-step\n", ""),
        ({"bamboo_buildKey": "A-B-JOB"}, "=== invoke first-step\n", ""),
        ({"CI": "true"}, "=== invoke first-step\n", ""),
        ({"CI": "true", "GITHUB_ACTIONS": "true"}, "::group::invoke first-step\n", "::endgroup::\n"),
        (
            {"CI": "true", "GITLAB_CI": "true"},
            "\x1b[0Ksection_start:N:invoke_first_step_N\r\x1b[0Kinvoke first-step\n",
            "\x1b[0Ksection_end:N:invoke_first_step_N\r\x1b[0K\n",
        ),
    ],
)
def test_a_command_is_a_section_and_its_warnings_stand_after_it(tmp_path: Path, environment: dict[str, str], begin: str, end: str) -> None:
    code, out, err = invoke(tmp_path, "first-step", **environment)
    warning = "warning: the registry does not answer\n"
    assert (code, out) == (0, "a result\n")
    assert re.sub("[0-9]{10,}", "N", err) == f"{begin}beginning\n{warning}{end}said above:\n  {warning}"


def test_gitlab_is_told_how_long_a_section_took() -> None:
    section = make_section("invoke build", {"GITLAB_CI": "true"}, 1000.5)
    assert section.begin == "\x1b[0Ksection_start:1000:invoke_build_1000500\r\x1b[0Kinvoke build"
    assert section.end(1042.9) == "\x1b[0Ksection_end:1042:invoke_build_1000500\r\x1b[0K"


def test_teamcity_reads_its_messages_on_stdout_where_no_program_reads(tmp_path: Path) -> None:
    _, out, err = invoke(tmp_path, "first-step", TEAMCITY_VERSION="2025.07")
    assert out == "##teamcity[blockOpened name='invoke first-step']\na result\n##teamcity[blockClosed name='invoke first-step']\n"
    assert "teamcity" not in err
    assert invoke(tmp_path, "first-step", "--json", TEAMCITY_VERSION="2025.07")[1] == "{}\n"


def test_the_end_has_the_warnings_of_all_commands_and_the_error_last(tmp_path: Path) -> None:
    code, _, err = invoke(tmp_path, "first-step", "release.fail", GITHUB_ACTIONS="true")
    assert code == 21
    assert err.endswith(
        "::group::invoke release.fail\ntrying\n::endgroup::\nsaid above:\n  warning: the registry does not answer\n"
        "error: what is wrong\n  what to do\n"
    )


def test_nothing_of_that_for_a_person_and_for_quiet(tmp_path: Path) -> None:
    assert invoke(tmp_path, "first-step")[2] == "beginning\nwarning: the registry does not answer\n"
    assert invoke(tmp_path, "first-step", CI="false")[2] == "beginning\nwarning: the registry does not answer\n"
    assert "===" not in invoke(tmp_path, "first-step", "--quiet", **JENKINS)[2]


@pytest.mark.parametrize("name", ["CI", "JENKINS_URL", "BUILD_TAG", "bamboo_buildKey", "GITHUB_ACTIONS", "GITLAB_CI", "TEAMCITY_VERSION"])
def test_a_server_is_known_by_each_of_its_variables(name: str) -> None:
    assert is_build_server({name: "something"})
    assert not is_build_server({name: ""})


@pytest.mark.parametrize(
    ("environment", "refused"),
    [
        ({}, False),
        ({"CHANGE_ID": "24", "CHANGE_BRANCH": "feature/x"}, False),
        ({"CHANGE_FORK": "someone"}, True),
        ({"PIPELINE_FORK": "yes"}, True),
        ({"CHANGE_FORK": "someone", "PIPELINE_FORK": "no"}, False),
        ({"CHANGE_FORK": "someone", "PIPELINE_FORK": " "}, True),
    ],
)
def test_a_fork_publishes_nothing(environment: dict[str, str], refused: bool) -> None:
    if refused:
        with pytest.raises(ForkError, match="from a fork"):
            refuse_fork(environment)
    else:
        refuse_fork(environment)


@pytest.mark.parametrize("command", [("push",), ("release.promote",), ("db.bake", "--push")])
def test_every_command_that_publishes_asks_first(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Before it reads anything: there is not even a configuration here."""
    program = [sys.executable, "-c", "from invoke import Program; from pipeline.tasks import namespace; Program(namespace=namespace).run()"]
    ended = subprocess.run(
        [*program, *command], cwd=tmp_path, env={**os.environ, "CHANGE_FORK": "someone"}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == ForkError.exit_code, ended.stderr
    assert "pull request from a fork (someone)" in ended.stderr
