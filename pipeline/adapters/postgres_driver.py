"""PostgreSQL: logins with their codes, and statements through psycopg, which is imported when the first one is run (0.1 s)."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.adapters.postgres_login import Login, RefusedError, UnspokenError
from pipeline.errors import PreparationError

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True)
class LoginFailure:
    """Why a login failed, and how far it had got."""

    code: str  # SQLSTATE, where the server said one
    message: str
    connected: bool
    answered: bool  # in PostgreSQL's protocol
    logged_in: bool


class PostgresDriver:
    """Logins and statements."""

    async def try_login(
        self, host: str, port: int, user: str, password: str, database: str, query: str, patience: float
    ) -> LoginFailure | None:
        """Log in, run `query`, log out, within `patience` seconds; why it failed, or None."""
        login = Login()
        code = ""
        try:
            await asyncio.wait_for(login.run(host, port, user, password, database, query), patience)
            return None
        except TimeoutError:
            message = f"{'the query' if login.logged_in else 'the login'} was not answered for {patience:.1f} s"
        except RefusedError as error:
            code, message = error.code, str(error)
        except UnspokenError as error:
            message = str(error)
        except EOFError:
            message = "the connection was accepted and closed"
        except OSError as error:
            message = f"the connection to {host}:{port} failed: {os.strerror(error.errno) if error.errno else error}"
        return LoginFailure(code, message, login.connected, login.answered, login.logged_in)

    def connect(self, dsn: str, user: str, password: str) -> PostgresConnection:
        """Log in to a database that is ready. Raises PreparationError."""
        import psycopg

        try:
            return PostgresConnection(psycopg.connect(dsn, user=user, password=password, autocommit=True, application_name="pipeline"))
        except psycopg.Error as error:
            raise PreparationError(f"{user} cannot log in to {dsn}: {_one_line(error)}", "See .pipeline/itest/database.log.") from error

    def open(self, dsn: str, user: str, password: str) -> psycopg.Connection:
        """The driver's own connection, with its own defaults, to a database that is ready. Raises PreparationError."""
        import psycopg

        try:
            return psycopg.connect(dsn, user=user, password=password)
        except psycopg.Error as error:
            raise PreparationError(f"{user} cannot log in to {dsn}: {_one_line(error)}", "See .pipeline/itest/database.log.") from error

    @property
    def error(self) -> type[Exception]:
        import psycopg

        return psycopg.Error


class PostgresConnection:
    """A logged-in user. As in psql, each statement is its own transaction unless the script begins one."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str) -> tuple[str, int] | None:
        """Run one statement; (message, offset in the statement) where it failed."""
        import psycopg

        try:
            self._connection.execute(statement.encode())
        except psycopg.Error as error:
            return _explained(error), max(int(error.diag.statement_position or 1) - 1, 0)
        return None

    def commit(self) -> tuple[str, int] | None:
        """psql would roll back, without a word, what a script began and did not commit."""
        import psycopg

        if self._connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            return "a transaction was begun and neither committed nor rolled back", 0
        return None

    def close(self) -> None:
        import psycopg

        with contextlib.suppress(psycopg.Error):
            self._connection.close()


def _explained(error: psycopg.Error) -> str:
    said = error.diag
    if not said.message_primary:
        return _one_line(error)
    parts = [f"{said.severity} {said.sqlstate}: {said.message_primary}", said.message_detail, said.message_hint, said.context]
    return _one_line("; ".join(part for part in parts if part))


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
