"""Which variables of the environment are a running session's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.errors import ConfigurationError
from pipeline.integration.address import SHELL_FILE, write_address_files
from pipeline.pytest_session import ANNOUNCED, describe, find_announced

ADDRESS = {
    "DB_HOST": "127.0.0.1",
    "DB_PORT": "32768",
    "DB_SERVICE": "FREEPDB1",
    "DB_USER": "app",
    "DB_PASSWORD": "it's $HOME",
    "DB_ADMIN_USER": "SYSTEM",
}


def announce(folder: Path, **changes: str) -> dict[str, str]:
    return write_address_files(folder, "own-1", {**ADDRESS, **changes})


def test_the_variable_is_the_one_that_run_tests_sets() -> None:
    assert ANNOUNCED == SHELL_FILE


def test_the_session_is_the_one_whose_file_is_named(tmp_path: Path) -> None:
    found = find_announced({**announce(tmp_path), **ADDRESS})
    assert found is not None
    assert dict(found.variables) | ADDRESS == dict(found.variables)
    assert "$HOME" not in repr(found)


def test_a_shell_that_has_read_the_file_belongs_to_the_session(tmp_path: Path) -> None:
    file = announce(tmp_path)[SHELL_FILE]
    command = ["sh", "-c", f'. "{file}"; env -0']
    environment = subprocess.run(command, env={}, capture_output=True, check=True, text=True).stdout.split("\0")
    assert find_announced(dict(entry.split("=", 1) for entry in environment if entry)) == find_announced({ANNOUNCED: file})


def test_other_variables_are_nobody_s_business(tmp_path: Path) -> None:
    assert find_announced(ADDRESS) is None
    assert describe(ADDRESS, tmp_path) == ""
    (tmp_path / "pipeline.yaml").touch()
    assert "not used" in describe(ADDRESS, tmp_path / "below")
    assert "not used" not in describe({}, tmp_path)


@pytest.mark.parametrize(
    ("changes", "environment", "said"),
    [
        ({}, {"DB_HOST": "elsewhere"}, "DB_HOST in the environment is not what"),
        ({"DB_PORT": "many"}, {}, "its DB_PORT is no number"),
        ({"DB_USER": ""}, {}, "DB_USER is not in it"),
    ],
)
def test_what_half_matches_is_an_error(tmp_path: Path, changes: dict[str, str], environment: dict[str, str], said: str) -> None:
    announced = announce(tmp_path, **changes)
    with pytest.raises(ConfigurationError, match=said):
        find_announced({**announced, **environment})
    assert said in describe({**announced, **environment}, tmp_path)


def test_a_session_that_is_over_is_an_error(tmp_path: Path) -> None:
    announced = announce(tmp_path)
    Path(announced[SHELL_FILE]).unlink()
    with pytest.raises(ConfigurationError, match="over"):
        find_announced(announced)
