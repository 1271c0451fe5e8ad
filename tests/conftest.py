"""What holds for every test: nothing of the CI server that runs it, or of the person who does, changes its outcome."""

from __future__ import annotations

import os
import re

import pytest

# Jenkins and Bamboo name the revision under test, not the ones that tests make; git's own variables would redirect it.
_LEAKS = re.compile(
    r"BRANCH_NAME|BUILD_(TAG|URL|NUMBER|ID)|JOB_NAME|TAG_NAME|EXECUTOR_NUMBER|CHANGE_.*|bamboo_.*|PIPELINE_(?!INSTALL_ENGINE).*"
    r"|CI|JENKINS_URL|GITHUB_ACTIONS|GITLAB_CI|TEAMCITY_VERSION"  # would make a build server's log of what commands say
    r"|GIT_(BRANCH|COMMIT|LOCAL_BRANCH|URL|PREVIOUS_.*|DIR|WORK_TREE|INDEX_FILE|CONFIG.*|CEILING_DIRECTORIES)"
)


@pytest.fixture(autouse=True)
def neutral_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what the CI server says of its own build."""
    for name in [name for name in os.environ if _LEAKS.fullmatch(name)]:
        monkeypatch.delenv(name)
