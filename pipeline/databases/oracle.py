"""Oracle: the contract of the images `gvenzl/oracle-free` and `gvenzl/oracle-xe`, which the stand-in follows, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.databases.engine import Account, Address, Answer, Connection, Problem, Statement
from pipeline.databases.statements import split_script

OWN_SERVICES = ("FREEPDB1", "FREE", "XEPDB1", "XE")  # come with the images; any other service is made at the first start

# Listener and login errors by what waiting can do about them (measured with oracledb's thin mode against real listeners).
_REFUSED = "ORA-01017"  # user or password; transient early on, for services answer before the passwords are set
_FINAL = ("ORA-28000", "ORA-28001")  # account locked; password expired


class Failure(Protocol):
    """How a driver says why a login failed: the codes from the outermost error to its innermost cause."""

    @property
    def codes(self) -> Sequence[str]: ...

    @property
    def message(self) -> str: ...


class Driver(Protocol):
    """What is needed of a program library that speaks Oracle Net."""

    async def try_login(self, dsn: str, user: str, password: str, query: str, patience: float) -> Failure | None:
        """Log in, run `query`, log out, within `patience` seconds; why it failed, or None."""

    def connect(self, dsn: str, user: str, password: str) -> OracleConnection:
        """Log in. Raises PreparationError."""


class OracleConnection(Protocol):
    """A logged-in user, as the driver has it; a failure is (message, offset in the statement)."""

    def execute(self, statement: str) -> tuple[str, int] | None: ...

    def commit(self) -> tuple[str, int] | None: ...

    def close(self) -> None: ...


class Oracle:
    """The engine `oracle`."""

    port = 1521
    administrator = "system"
    ready_line = "DATABASE IS READY TO USE!"

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def environment(self, user: str, service: str, password_files: Mapping[str, str]) -> dict[str, str]:
        variables = {
            "ORACLE_PASSWORD_FILE": password_files[self.administrator],
            "APP_USER": user,
            "APP_USER_PASSWORD_FILE": password_files[user],
        }
        if service.upper() not in OWN_SERVICES:
            variables["ORACLE_DATABASE"] = service
        return variables

    def dsn(self, address: Address) -> str:
        return f"{address.host_and_port}/{address.service}"

    def jdbc_url(self, address: Address) -> str:
        return f"jdbc:oracle:thin:@//{address.host_and_port}/{address.service}"

    def split(self, script: str) -> Sequence[Statement]:
        return split_script(script)

    async def log_in(self, address: Address, account: Account, patience: float) -> Answer:
        query = "SELECT 1 FROM DUAL"
        failure = await self._driver.try_login(self.dsn(address), account.name, account.password.value, query, patience)
        if failure is None:
            return Answer(ready=True)
        codes = failure.codes
        return Answer(False, failure.message, refused=_REFUSED in codes, final=any(code in codes for code in _FINAL))

    def connect(self, address: Address, account: Account) -> Connection:
        return _Connection(self._driver.connect(self.dsn(address), account.name, account.password.value))


class _Connection:
    """The driver's connection with failures as Problems."""

    def __init__(self, connection: OracleConnection) -> None:
        self._connection = connection

    def execute(self, statement: str) -> Problem | None:
        failure = self._connection.execute(statement)
        return Problem(*failure) if failure else None

    def commit(self) -> Problem | None:
        failure = self._connection.commit()
        return Problem(*failure) if failure else None

    def close(self) -> None:
        self._connection.close()
