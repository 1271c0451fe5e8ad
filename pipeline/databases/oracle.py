"""Oracle: what its listener and its login say, and how its scripts are split."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from pipeline.databases.bake import Rows
from pipeline.databases.contract import CONTRACTS
from pipeline.databases.engine import Account, Address, Answer, Connection, Password, Phase, Probe, Problem, Statement
from pipeline.databases.oracle_states import OracleStates, drop_original, make_original, watch
from pipeline.databases.statements import split_script
from pipeline.databases.states import Originals, Prepare, Server, Source, Sql, StatementError

# Listener and login errors by what waiting can do about them (measured with oracledb's thin mode against real listeners).
_REFUSED = "ORA-01017"  # user or password; transient early on, for services answer before the passwords are set
_FINAL = ("ORA-28000", "ORA-28001")  # account locked; password expired
_UNREACHABLE = "DPY-6005"  # the outermost error of all that happens before a server process answers
_CLOSED = "DPY-4011"
_NOT_OPEN = ("ORA-01033", "ORA-01034", "ORA-01089", "ORA-01090", "ORA-01109", "ORA-12547")  # starting, stopping, not open

_NO_TABLE = "ORA-00942"

# Who has a password that opens something, or would once an account of somebody's own is unlocked. Of Oracle's own accounts nearly
# all are locked, or have no password, and are to stay so.
_ACCOUNTS = (
    "SELECT username FROM dba_users WHERE authentication_type = 'PASSWORD'"
    " AND (oracle_maintained = 'N' OR account_status NOT LIKE '%LOCKED')"
)
_STANDINS_ACCOUNTS = "SELECT username FROM seerdb_auth.accounts"  # it has no dba_users, and its all_users lists schemas, too
_COMMON = "C##"  # what the names of common accounts begin with, beside Oracle's own

_PATIENCE = "ALTER SESSION SET DDL_LOCK_TIMEOUT = 30;"  # seconds; jobs of the database itself lock its dictionary early on

# An Oracle Net CONNECT packet with which `tnsping` asks: the listener answers it itself, without a server process.
_PING = b"(CONNECT_DATA=(COMMAND=ping))"
_CONNECT = struct.pack(">HHBBH", 58 + len(_PING), 0, 1, 0, 0) + struct.pack(
    ">HHHHHHHHHHIBB24x", 310, 300, 0, 2048, 32767, 32520, 0, 1, len(_PING), 58, 0, 0, 0
)


class Failure(Protocol):
    """How a driver says why a login failed: the codes from the outermost error to its innermost cause."""

    @property
    def codes(self) -> Sequence[str]: ...

    @property
    def message(self) -> str: ...

    @property
    def logged_in(self) -> bool:
        """Whether the login had succeeded, so that it was the query that failed."""


class Driver(Protocol):
    """What is needed of a program library that speaks Oracle Net."""

    async def try_login(self, dsn: str, user: str, password: str, query: str, patience: float) -> Failure | None:
        """Log in, run `query`, log out, within `patience` seconds; why it failed, or None."""

    def connect(self, dsn: str, user: str, password: str) -> OracleConnection:
        """Log in. Raises PreparationError."""

    def open(self, dsn: str, user: str, password: str) -> Any:
        """The library's own connection. Raises PreparationError."""

    @property
    def error(self) -> type[Exception]:
        """What the library raises."""


class OracleConnection(Protocol):
    """A logged-in user, as the driver has it; a failure is (message, offset in the statement)."""

    def execute(self, statement: str) -> tuple[str, int] | None: ...

    def commit(self) -> tuple[str, int] | None: ...

    def close(self) -> None: ...


class Oracle:
    """The engine `oracle`."""

    default_contract = "oracle-community"
    contracts = CONTRACTS
    administrator = "system"
    own_users = ("sys", "system", "public")
    knock = _CONNECT + _PING
    testcontainer = "testcontainers.community.oracle:OracleDbContainer"  # what starts it for tests that run alone

    probes = (
        Probe(
            "tables and rows",
            (
                "CREATE TABLE verify_row (id INTEGER PRIMARY KEY, name VARCHAR2(20) NOT NULL)",
                "INSERT INTO verify_row VALUES (1, 'a')",
                "INSERT INTO verify_row VALUES (2, 'b')",
                "UPDATE verify_row SET name = 'c' WHERE id = 2",
                "DELETE FROM verify_row WHERE id = 1",
            ),
            "SELECT name FROM verify_row",
            "c",
        ),
        Probe("sequence", ("CREATE SEQUENCE verify_number START WITH 41",), "SELECT verify_number.NEXTVAL FROM dual", "41"),
        Probe(
            "large text",
            (
                "CREATE TABLE verify_text (content CLOB)",
                "DECLARE big CLOB; BEGIN FOR i IN 1 .. 20 LOOP big := big || RPAD('x', 4000, 'x'); END LOOP; "
                "INSERT INTO verify_text VALUES (big); END;",
            ),
            "SELECT LENGTH(content) FROM verify_text",
            "80000",
        ),
        Probe(
            "procedure",
            (
                "CREATE TABLE verify_call (n NUMBER)",
                "CREATE OR REPLACE PROCEDURE verify_add (n IN NUMBER) AS BEGIN INSERT INTO verify_call VALUES (n + 1); END;",
                "BEGIN verify_add(41); END;",
            ),
            "SELECT TO_CHAR(n) FROM verify_call",
            "42",
        ),
        Probe(
            "foreign key", ("CREATE TABLE verify_child (id INTEGER REFERENCES verify_row (id))",), "SELECT COUNT(*) FROM verify_child", "0"
        ),
        Probe(
            "rolled back",
            ("CREATE TABLE verify_undo (n NUMBER)", "INSERT INTO verify_undo VALUES (1)", "ROLLBACK"),
            "SELECT COUNT(*) FROM verify_undo",
            "0",
        ),
    )

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._originals = Originals()

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
        return Answer(False, failure.message, refused=_REFUSED in codes, final=any(code in codes for code in _FINAL), phase=_phase(failure))

    def open(self, address: Address, account: Account) -> Any:
        return self._driver.open(self.dsn(address), account.name, account.password.value)

    def other_accounts(self, rows: Rows, user: str) -> set[str]:
        try:
            found = rows(_ACCOUNTS)
        except StatementError as error:
            if _NO_TABLE not in str(error):
                raise
            found = rows(_STANDINS_ACCOUNTS)
        return {str(name) for (name,) in found} - {"SYS", self.administrator.upper(), user.upper()}

    activity: ClassVar[Mapping[str, str]] = {
        "Sessions": "SELECT s.sid, s.username, s.status, s.event, s.seconds_in_wait, s.blocking_session, q.sql_text"
        " FROM v$session s LEFT JOIN v$sql q ON q.sql_id = s.sql_id WHERE s.username IS NOT NULL ORDER BY s.sid",
        "Locks": "SELECT l.sid, l.type, l.lmode, l.request, l.block, o.owner, o.object_name"
        " FROM v$lock l LEFT JOIN all_objects o ON o.object_id = l.id1 WHERE l.request > 0 OR l.block > 0 OR l.type IN ('TM', 'TX')",
    }

    def password_script(self, service: str, user: str, passwords: Mapping[str, Password]) -> str:
        """Common accounts are changed in the root container. SYS gets SYSTEM's password: the images give both the same one, too."""
        administrators = passwords[self.administrator]
        others = {name: password for name, password in passwords.items() if name not in (self.administrator, user)}
        common = [name for name in others if name.upper().startswith(_COMMON)]
        return "\n".join(
            [
                "WHENEVER SQLERROR EXIT FAILURE",
                "ALTER SESSION SET CONTAINER = CDB$ROOT;",
                _PATIENCE,
                *(_identify(name, others[name]) for name in common),
                _identify("SYS", administrators),
                _identify(self.administrator.upper(), administrators),
                # The stand-in takes the statement, but for the comment, as a new login, and SYSTEM's password has just changed.
                f"ALTER SESSION SET CONTAINER = {service} /* from here on local accounts */;",
                _PATIENCE,
                *(_identify(name, password) for name, password in others.items() if name not in common),
                # The user was made by its name without quotes; other names are those of the data dictionary.
                *([_identify(user.upper(), passwords[user])] if user in passwords else ()),
                "EXIT\n",
            ]
        )

    @property
    def error(self) -> type[Exception]:
        return self._driver.error

    def watch(self, connection: Any, original: str) -> Callable[[], bool]:
        return watch(connection, self.error, original)

    def make_original(self, server: Server, name: str, prepare: Prepare) -> str:
        return self._originals.make(server, lambda: make_original(self._sql, self.connect, server, name, prepare))

    def drop_original(self, server: Server, original: str) -> None:
        drop_original(self._sql, server, original)

    def states(self, server: Server, original: str, prefix: str, prepare: Prepare) -> Source:
        return OracleStates(self._sql, self.connect, server, original, prefix, prepare)

    def _sql(self, address: Address, account: Account) -> Sql:
        return Sql(self.open(address, account), self._driver.error)

    def connect(self, address: Address, account: Account) -> Connection:
        return _Connection(self._driver.connect(self.dsn(address), account.name, account.password.value))


def _identify(name: str, password: Password) -> str:
    return f'ALTER USER "{name}" IDENTIFIED BY "{password.value}";'


def _phase(failure: Failure) -> Phase:
    """What the attempt did not get through."""
    codes = failure.codes
    if failure.logged_in:
        return Phase.QUERY
    if any(code in codes for code in _NOT_OPEN):
        return Phase.SERVICE
    if _UNREACHABLE not in codes:
        return Phase.SERVICE if _CLOSED in codes else Phase.LOGIN  # closed: as the driver shows a database that is stopping
    if _CLOSED in codes:
        return Phase.LISTENER  # by Docker's proxy, where nothing listens in the container
    return Phase.SERVICE if len(codes) > 1 else Phase.PORT  # a listener's refusal is found among the causes


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
