"""What is different on a build server: a log that nobody watches, sections it can fold, and pull requests from forks."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from pipeline.errors import ForkError

_SIGNS = ("CI", "JENKINS_URL", "BUILD_TAG", "bamboo_buildKey", "GITHUB_ACTIONS", "GITLAB_CI", "TEAMCITY_VERSION")
_NO = ("", "0", "false", "no")


def is_build_server(environ: Mapping[str, str]) -> bool:
    """Whether a build server runs this, as far as its variables tell; `CI=false` tells nothing."""
    return any(_says_yes(environ, name) for name in _SIGNS)


def refuse_fork(environ: Mapping[str, str]) -> None:
    """Raise ForkError in the build of a fork's pull request: it publishes nothing.

    This holds off mistakes, not attackers: a fork can change this program, too. Jenkins says CHANGE_FORK. For servers that say
    nothing there is PIPELINE_FORK; its value `no` says that the fork may publish.
    """
    said = environ.get("PIPELINE_FORK", "").strip()
    fork = said or environ.get("CHANGE_FORK", "")
    if fork and said.lower() != "no":
        raise ForkError(
            f"this is the build of a pull request from a fork ({fork}), and publishes nothing",
            "Push from a branch of this repository. If this fork may publish: PIPELINE_FORK=no",
        )


class Section(NamedTuple):
    """The lines before and after what belongs together; a line may be empty. `end` is given the time of the end.

    `on_stdout`: the server reads them there only.
    """

    begin: str
    end: Callable[[float], str]
    on_stdout: bool = False


def make_section(title: str, environ: Mapping[str, str], now: float) -> Section:
    """As the server that runs this folds it; a plain heading where it folds nothing.

    Sources: GitHub, "Workflow commands", grouping log lines; GitLab, "Job logs", custom collapsible sections; TeamCity, "Service
    messages", blocks. Jenkins and Bamboo know no such lines.
    """
    if _says_yes(environ, "GITHUB_ACTIONS"):
        return Section(f"::group::{title}", lambda _: "::endgroup::")
    if _says_yes(environ, "GITLAB_CI"):
        name = f"{re.sub('[^a-z0-9]+', '_', title.lower())}_{int(now * 1000)}"
        begin = f"\x1b[0Ksection_start:{int(now)}:{name}\r\x1b[0K{title}"
        return Section(begin, lambda end: f"\x1b[0Ksection_end:{int(end)}:{name}\r\x1b[0K")
    if environ.get("TEAMCITY_VERSION"):
        name = re.sub(r"(['|\[\]])", r"|\1", title)
        return Section(f"##teamcity[blockOpened name='{name}']", lambda _: f"##teamcity[blockClosed name='{name}']", on_stdout=True)
    return Section(f"=== {title}", lambda _: "")


class Log:
    """What a command says on a build server: its lines in a section, and after that what went wrong, once more."""

    def __init__(self) -> None:
        self._problems: list[str] = []

    def note(self, line: str) -> None:
        """Remember a warning."""
        if line.startswith("warning: ") and line not in self._problems:
            self._problems.append(line)

    @contextlib.contextmanager
    def section(self, title: str, environ: Mapping[str, str], say: Callable[[str], None], stdout_is_taken: bool) -> Iterator[None]:
        """`stdout_is_taken`: a program reads it, so nothing else may stand there."""
        section = make_section(title, environ, time.time())
        self._mark(section.begin, section, say, stdout_is_taken)
        try:
            yield
        finally:
            sys.stdout.flush()
            self._mark(section.end(time.time()), section, say, stdout_is_taken)
            if self._problems:
                say("said above:")
                for problem in self._problems:
                    say(f"  {problem}")

    def _mark(self, line: str, section: Section, say: Callable[[str], None], stdout_is_taken: bool) -> None:
        if section.on_stdout and line and not stdout_is_taken:
            print(line, flush=True)
        elif line and not section.on_stdout:
            say(line)


def _says_yes(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").lower() not in _NO
