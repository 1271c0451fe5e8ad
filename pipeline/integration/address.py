"""The database's address as the tests get it: environment, a shell file, a Java properties file."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from pipeline.databases.engine import Account, Address, DatabaseEngine
from pipeline.integration.database import Database
from pipeline.state_files import sweep_unfinished, unfinished

SHELL_FILE = "PIPELINE_DATABASE_SH"  # the variables that tell the tests where the two files are
PROPERTIES_FILE = "PIPELINE_DATABASE_PROPERTIES"


def address_variables(database: Database, kind: DatabaseEngine) -> dict[str, str]:
    """DB_HOST, DB_PORT and so on, the password among them."""
    return {
        **login_variables(database.address, database.user, kind),
        # Who wants a state for each worker must be able to make users or databases. It is a database to be thrown away, with a
        # random password; the names differ from those above, so that no test does by mistake what its application may not.
        "DB_ADMIN_USER": database.administrator.name,
        "DB_ADMIN_PASSWORD": database.administrator.password.value,
        "DB_ENGINE": database.engine,
        "DB_IMAGE": database.image,
    }


def login_variables(address: Address, account: Account, kind: DatabaseEngine) -> dict[str, str]:
    """Those of them that tell where and as whom to log in."""
    return {
        "DB_HOST": address.host,
        "DB_PORT": str(address.port),
        "DB_SERVICE": address.service,
        "DB_USER": account.name,
        "DB_PASSWORD": account.password.value,
        "DB_DSN": kind.dsn(address),
        "DB_JDBC_URL": kind.jdbc_url(address),
    }


def write_address_files(state: Path, key: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Write both files for the session `key` into `state`, readable by the owner only; the variables that name them."""
    state.mkdir(exist_ok=True)
    shell, properties = address_files(state, key)
    named = {**variables, SHELL_FILE: str(shell)}  # who has read it belongs to this session, and can tell that from other DB_ variables
    _write_private(shell, "".join(f"export {name}={shlex.quote(value)}\n" for name, value in named.items()))
    _write_private(
        properties,
        "".join(f"{name.lower().replace('_', '.')}={_escaped(value)}\n" for name, value in variables.items()),
    )
    return {SHELL_FILE: str(shell), PROPERTIES_FILE: str(properties)}


def remove_address_files(state: Path, key: str) -> None:
    """Files that are not there are no error: the session may have been started elsewhere."""
    sweep_unfinished(state)
    for path in address_files(state, key):
        path.unlink(missing_ok=True)


def address_files(state: Path, key: str) -> tuple[Path, Path]:
    """The shell file and the properties file; a session of one's own has the short names."""
    name = "database" if key.startswith("own-") else f"database-{re.sub(r'[^A-Za-z0-9_.-]', '_', key)}"
    return state / f"{name}.sh", state / f"{name}.properties"


def _write_private(path: Path, text: str) -> None:
    new = unfinished(path)
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


def _escaped(value: str) -> str:
    """A value as java.util.Properties.load reads it: Latin-1, backslash escapes, leading white space skipped."""
    escapes = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\f": "\\f"}
    text = "".join(escapes.get(sign, sign) for sign in value)
    if text.startswith(" "):
        text = "\\" + text
    return "".join(sign if " " <= sign <= "~" else _utf16(sign) for sign in text)


def _utf16(sign: str) -> str:
    units = sign.encode("utf-16-be")
    return "".join(f"\\u{units[place]:02x}{units[place + 1]:02x}" for place in range(0, len(units), 2))
