"""Which running session these tests belong to, if any: the one whose address file the environment names.

`invoke run-tests` and `invoke itest` name it, and so does the address file itself when a shell has read it. Other variables that begin
with DB_ may belong to anything, and are nobody's business here. Nothing heavy is imported: each run of pytest asks.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigurationError

ANNOUNCED = "PIPELINE_DATABASE_SH"  # the variable, as pipeline.integration.address has it
_NEEDED = ("DB_HOST", "DB_PORT", "DB_SERVICE", "DB_USER", "DB_PASSWORD")
_HINT = "Run the tests by `invoke run-tests`, or take {} out of the environment: a database is then started for them."


@dataclass(frozen=True)
class Announced:
    """What the session's address file says."""

    variables: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Announced({self})"

    def __str__(self) -> str:
        names = ("DB_USER", "DB_HOST", "DB_PORT", "DB_SERVICE")
        return "{}@{}:{}/{}".format(*(self.variables.get(name, "") for name in names))


def find_announced(environment: Mapping[str, str]) -> Announced | None:
    """The session that these tests run in; None where there is none.

    Raises ConfigurationError where the environment names one that is over, or names it and says something else of its database.
    """
    file = environment.get(ANNOUNCED, "")
    if not file:
        return None
    try:
        variables = _read(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{ANNOUNCED} names a session that is over: {file}: {error.strerror}", _HINT.format(ANNOUNCED)) from None
    lacking = [name for name in _NEEDED if not variables.get(name)]
    if lacking or not variables["DB_PORT"].isdigit():
        what = f"{', '.join(lacking)} is not in it" if lacking else "its DB_PORT is no number"
        raise ConfigurationError(f"{file} is no address of a database: {what}", _HINT.format(ANNOUNCED))
    others = [name for name in _NEEDED if environment.get(name, variables[name]) != variables[name]]
    if others:
        raise ConfigurationError(
            f"{', '.join(others)} in the environment is not what {file} says, which {ANNOUNCED} names",
            _HINT.format(f"{ANNOUNCED} and the others"),
        )
    return Announced(variables)


def describe(environment: Mapping[str, str], root: Path) -> str:
    """Which database the tests of the project at `root` are going to have, in one line; empty where that is none of ours."""
    try:
        session = find_announced(environment)
    except ConfigurationError as error:
        return f"database: {error.message}"
    if session is not None:
        return f"database: that of the running session, {session}"
    if not any((folder / "pipeline.yaml").is_file() for folder in (root, *root.parents)):
        return ""
    ignored = " (DB_HOST in the environment is no session's, and not used)" if environment.get("DB_HOST") else ""
    return f"database: one is started for the tests that need it{ignored}"


def _read(text: str) -> dict[str, str]:
    """A shell file of lines `export NAME=VALUE`."""
    words = [word for word in shlex.split(text) if word != "export"]
    return {name: value for name, found, value in (word.partition("=") for word in words) if found}
