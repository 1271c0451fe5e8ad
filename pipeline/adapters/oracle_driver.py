"""python-oracledb in thin mode: no Oracle client is installed. Imported when the first login is tried (0.15 s)."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import PreparationError

if TYPE_CHECKING:
    import oracledb

_INSISTENCE = 8  # times that an attempt is told to end


@dataclass(frozen=True)
class LoginFailure:
    """Why a login failed, from the outermost error to its innermost cause."""

    codes: tuple[str, ...]
    message: str
    logged_in: bool = False  # it was the query that failed


class OracleDriver:
    """Logins and statements."""

    async def try_login(self, dsn: str, user: str, password: str, query: str, patience: float) -> LoginFailure | None:
        """Log in, run `query`, log out, within `patience` seconds; why it failed, or None.

        oracledb hangs for ever on a listener that accepts and stays silent, whatever time-outs it is given (measured);
        only asyncio can end that.
        """
        import oracledb

        attempt = _Attempt()
        task = asyncio.ensure_future(attempt.run(dsn, user, password, query))
        try:
            answered, _ = await asyncio.wait({task}, timeout=patience)
        finally:
            await _abandon(task)
        if not answered:
            what = "the query was not answered" if attempt.logged_in else "the login was not answered"
            return LoginFailure((), f"{what} for {patience:.1f} s", attempt.logged_in)
        try:
            task.result()
        except (oracledb.Error, OSError) as error:
            return replace(_failure(error), logged_in=attempt.logged_in)
        return None

    @property
    def error(self) -> type[Exception]:
        import oracledb

        return oracledb.Error

    def connect(self, dsn: str, user: str, password: str) -> OracleConnection:
        """Log in to a database that is ready. Raises PreparationError."""
        return OracleConnection(self.open(dsn, user, password))

    def open(self, dsn: str, user: str, password: str) -> oracledb.Connection:
        """The driver's own connection to a database that is ready. Raises PreparationError."""
        import oracledb

        try:
            return oracledb.connect(user=user, password=password, dsn=dsn)
        except (oracledb.Error, OSError) as error:
            raise PreparationError(
                f"{user} cannot log in to {dsn}: {_failure(error).message}", "See .pipeline/itest/database.log."
            ) from error


class OracleConnection:
    """A logged-in user. Failures are values: (message, offset in the statement)."""

    def __init__(self, connection: oracledb.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str) -> tuple[str, int] | None:
        """Run one statement. A procedure that was created with compilation errors counts as failed."""
        import oracledb

        try:
            with self._connection.cursor() as cursor:
                # One that returns rows has run when execute returns; a bind variable's colon is left to the database.
                cursor.execute(statement)
                if cursor.warning is not None:
                    return self._compilation_errors(str(cursor.warning)), 0
        except oracledb.Error as error:
            return _message(error), int(getattr(error.args[0], "offset", 0) or 0)
        return None

    def commit(self) -> tuple[str, int] | None:
        import oracledb

        try:
            self._connection.commit()
        except oracledb.Error as error:
            return _message(error), 0
        return None

    def close(self) -> None:
        import oracledb

        with contextlib.suppress(oracledb.Error):
            self._connection.close()

    def _compilation_errors(self, warning: str) -> str:
        import oracledb

        try:
            with self._connection.cursor() as cursor:
                rows = cursor.execute("SELECT name, line, text FROM user_errors ORDER BY sequence").fetchmany(5)
        except oracledb.Error:
            return warning
        return "; ".join([warning, *(f"{name} line {line}: {' '.join(str(text).split())}" for name, line, text in rows)])


class _Attempt:
    """A login with a query, and how far it got."""

    def __init__(self) -> None:
        self.logged_in = False

    async def run(self, dsn: str, user: str, password: str, query: str) -> None:
        import oracledb

        async with oracledb.connect_async(user=user, password=password, dsn=dsn) as connection:
            self.logged_in = True
            with connection.cursor() as cursor:
                await cursor.execute(query)
                await cursor.fetchone()


async def _abandon(task: asyncio.Task[None]) -> None:
    """End an attempt, if it is not over. Once is not enough: interrupted in a query, the driver asks the database to break it off
    and waits for that, too; then it wants to say goodbye, and waits again (measured: four times)."""
    for _ in range(_INSISTENCE):
        if task.done():
            break
        task.cancel()
        await asyncio.wait({task}, timeout=0.02)
    if task.done() and not task.cancelled():
        task.exception()  # nobody is interested in it any more


def _failure(error: BaseException) -> LoginFailure:
    """Listener refusals hide in the causes: the outermost error only says DPY-6005, "cannot connect"."""
    codes: list[str] = []
    messages: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        details: Any = cause.args[0] if cause.args else None
        code = getattr(details, "full_code", "")
        if code:
            codes.append(code)
        messages.append(_message(cause))
        cause = cause.__cause__
    return LoginFailure(tuple(codes), messages[-1] if len(codes) != 1 else messages[0])


def _message(error: BaseException) -> str:
    """The error in one line; Oracle appends a web page per error code, which is noise in a log."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("Help: ", "https://docs.oracle.com")))
