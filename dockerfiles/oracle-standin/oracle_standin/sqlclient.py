"""Runs SQL*Plus scripts over the Oracle protocol, stopping at the first error with file, statement and line."""

from __future__ import annotations

import gzip
import importlib
import io
import os
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oracle_standin.paths import ORACLE_PORT
from oracle_standin.sqlscript import Command, ScriptSyntaxError, Statement, read_script

DEFAULT_SERVICE = "FREEPDB1"
_LONGEST_INCLUDE_CHAIN = 20

# Commands about SQL*Plus's screen, variables and files: nothing here to apply them to.
_IGNORED = frozenset(
    [
        *("REMARK", "SET", "SHOW", "SPOOL", "DEFINE", "VARIABLE", "PRINT", "COLUMN", "TIMING", "CLEAR", "BREAK"),
        *("COMPUTE", "TITLE", "DESCRIBE", "DISCONNECT"),
    ]
)
_CONTAINER = re.compile(r"ALTER\s+SESSION\s+SET\s+CONTAINER\s*=\s*\"?(?P<name>[\w$#]+)\"?\s*$", re.IGNORECASE)
_CONNECT = re.compile(
    r"(?P<user>\"[^\"]+\"|[^/@\s]+)/(?P<password>\"[^\"]*\"|[^@\s]*)"
    r"(?:@(?://)?(?:[^/\s]*/)?(?P<service>[\w$#.]+))?\s*(?P<role>AS\s+\w+)?$",
    re.IGNORECASE,
)


class ScriptFailed(Exception):
    """A script stopped at an error; the message names the file, the statement, the line and the error."""


@dataclass(frozen=True)
class Login:
    """Who logs in where. Its repr keeps the password to itself."""

    user: str
    password: str
    service: str = DEFAULT_SERVICE

    def __repr__(self) -> str:
        return f"Login(user={self.user!r}, password=***, service={self.service!r})"


def load_driver() -> None:
    """Import seerdb's client ahead of its first use: 0.1 s that can pass while PostgreSQL starts."""
    importlib.import_module("seerdb.client.connection")


def connect(login: Login) -> Any:
    """A new session at the listener of this container. Raises seerdb's errors as they are."""
    import seerdb

    return seerdb.connect(
        host="127.0.0.1",
        port=ORACLE_PORT,
        user=login.user,
        password=login.password,
        service_name=login.service,
    )


def run_script(path: Path, login: Login, say: Callable[[str], None]) -> None:
    """Run the script at `path` (.sql, .sql.gz, .sql.zip) as `login` and commit. Raises ScriptFailed."""
    run_text(_read(path), str(path), path.parent, login, say)


def run_text(text: str, name: str, folder: Path, login: Login, say: Callable[[str], None]) -> None:
    """Run a script given as text; `folder` is where the files it includes are looked for. Raises ScriptFailed."""
    session = _Session(login, say)
    try:
        session.run(text, name, folder)
        session.commit(name)
    except _Exit:
        pass
    finally:
        session.close()


class _Exit(Exception):
    """The script said EXIT; the transaction is already decided."""


class _Session:
    def __init__(self, login: Login, say: Callable[[str], None]) -> None:
        self._login = login
        self._say = say
        self._connection: Any = None
        self._continue_on_error = False
        self._statements = 0
        self._depth = 0

    def run(self, text: str, name: str, folder: Path) -> None:
        try:
            for item in read_script(text):
                if isinstance(item, Statement):
                    self._statements += 1
                    self._execute(item, f"{name}: statement {self._statements} (line {item.line})")
                else:
                    self._command(item, f"{name}: line {item.line}", folder)
        except ScriptSyntaxError as error:
            raise ScriptFailed(f"{name}: line {error.line}: {error}") from error

    def commit(self, name: str) -> None:
        if self._connection is not None:
            self._guarded(self._connection.commit, f"{name}: commit at the end")

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                connection.close()
            except Exception as error:  # the session may be gone with the listener: say it, the outcome is decided
                self._say(f"closing the session: {error}")

    def _execute(self, statement: Statement, where: str) -> None:
        if container := _CONTAINER.match(statement.text):
            self._switch_service(container["name"], where)
            return

        def execute() -> None:
            cursor = self._open().cursor()
            try:
                cursor.execute(statement.text)
                if warning := getattr(cursor, "warning", None):
                    self._say(f"WARNING: {where}: {statement.summary}: {warning}")
            finally:
                cursor.close()

        self._guarded(execute, f"{where}: {statement.summary}")

    def _switch_service(self, service: str, where: str) -> None:
        # Every service leads to the same database here; what counts is that the name is one that is served.
        name = DEFAULT_SERVICE if service.upper() == "CDB$ROOT" else service
        self._reconnect(Login(self._login.user, self._login.password, name), where)

    def _command(self, command: Command, where: str, folder: Path) -> None:
        match command.word:
            case "PROMPT":
                self._say(command.rest)
            case "@" | "@@" | "START":
                self._include(command, where, folder)
            case "WHENEVER":
                words = command.rest.upper().split()
                if words[:1] == ["SQLERROR"] and len(words) > 1:
                    self._continue_on_error = words[1] == "CONTINUE"
            case "EXECUTE":
                self._statements += 1
                block = Statement(command.line, f"BEGIN {command.rest}; END;")
                self._execute(block, f"{where}: statement {self._statements}")
            case "CONNECT":
                self._connect_as(command.rest, where)
            case "EXIT":
                self._exit(command, where)
            case word if word in _IGNORED:
                pass
            case word:
                raise ScriptFailed(f"{where}: {word} is not supported by the stand-in")

    def _include(self, command: Command, where: str, folder: Path) -> None:
        if self._depth >= _LONGEST_INCLUDE_CHAIN:
            raise ScriptFailed(f"{where}: scripts include each other more than {_LONGEST_INCLUDE_CHAIN} deep")
        path = folder / command.rest.split()[0].strip("\"'") if command.rest else folder
        if not path.suffix:
            path = path.with_suffix(".sql")
        try:
            text = _read(path)
        except (OSError, ScriptFailed) as error:
            raise ScriptFailed(f"{where}: cannot read {path}: {error}") from error
        self._depth += 1
        self.run(text, str(path), path.parent)
        self._depth -= 1

    def _connect_as(self, given: str, where: str) -> None:
        if re.match(r"/\s*AS\s+SYSDBA\s*$", given, re.IGNORECASE):
            raise ScriptFailed(f"{where}: CONNECT / AS SYSDBA: the stand-in has no SYSDBA; scripts begin as SYSTEM")
        match = _CONNECT.match(given)
        if match is None:
            raise ScriptFailed(f"{where}: CONNECT is understood as user/password[@//host[:port]/service]")
        self._continue_on_error, kept = False, self._continue_on_error
        service = match["service"] or DEFAULT_SERVICE
        self._reconnect(Login(match["user"].strip('"'), match["password"].strip('"'), service), where)
        self._continue_on_error = kept

    def _reconnect(self, login: Login, where: str) -> None:
        if self._connection is not None:
            self._guarded(self._connection.commit, f"{where}: commit")
        self.close()
        self._login = login
        self._guarded(self._open, f"{where}: login of {login.user} at service {login.service}")

    def _exit(self, command: Command, where: str) -> None:
        words = command.rest.upper().split()
        connection = self._connection
        if connection is not None:
            self._guarded(connection.rollback if "ROLLBACK" in words else connection.commit, where)
        code = words[0] if words else "SUCCESS"
        if code in ("FAILURE", "WARNING") or (code.isdigit() and int(code) != 0):
            raise ScriptFailed(f"{where}: the script ended itself with EXIT {command.rest}")
        raise _Exit

    def _open(self) -> Any:
        if self._connection is None:
            self._connection = connect(self._login)
        return self._connection

    def _guarded(self, action: Callable[[], Any], where: str) -> None:
        import seerdb

        try:
            action()
        except (seerdb.Error, OSError) as error:
            message = f"{where}: {_error_text(error)}"
            if not self._continue_on_error:
                raise ScriptFailed(message) from error
            self._say(f"ERROR (continuing, as the script asked): {message}")


def _error_text(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    code = getattr(error, "code", None)
    return text if not code or "ORA-" in text else f"ORA-{code:05d}: {text}"


def _read(path: Path) -> str:
    data = path.read_bytes()
    if path.name.endswith(".gz"):
        data = gzip.decompress(data)
    elif path.name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            data = b"\n".join(archive.read(member) for member in archive.infolist() if not member.is_dir())
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ScriptFailed(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error


def main() -> int:
    """standin-sql USER[@SERVICE] [FILE], the password in DB_PASSWORD."""
    if not 2 <= len(sys.argv) <= 3 or sys.argv[1].startswith("-"):
        print("usage: DB_PASSWORD=... standin-sql USER[@SERVICE] [FILE]", file=sys.stderr)
        return 2
    password = os.environ.get("DB_PASSWORD")
    if password is None:
        print("standin-sql: put the password into the environment variable DB_PASSWORD", file=sys.stderr)
        return 2
    user, _, service = sys.argv[1].partition("@")
    login = Login(user, password, service or DEFAULT_SERVICE)
    try:
        if len(sys.argv) == 3:
            run_script(Path(sys.argv[2]), login, print)
        else:
            run_text(sys.stdin.read(), "standard input", Path.cwd(), login, print)
    except (ScriptFailed, OSError) as error:
        print(f"standin-sql: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
