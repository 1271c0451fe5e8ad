"""The database these tests run against, taken from the environment the pipeline gives to the test command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import oracledb
import pytest
from books import Books, Connect

# Amounts are compared to the cent; as floats, 9999999999999999.99 and 10000000000000000.00 would be the same.
oracledb.defaults.fetch_decimals = True
# Notes of any length come as str, not as a handle that needs a second round trip.
oracledb.defaults.fetch_lobs = False


@dataclass(frozen=True)
class Address:
    """Where the database is and who may come in."""

    dsn: str
    user: str
    password: str = field(repr=False)

    @classmethod
    def from_environment(cls) -> Address:
        """``DB_DSN``, or ``DB_HOST``, ``DB_PORT`` and ``DB_SERVICE``; ``DB_USER`` and ``DB_PASSWORD``.

        Fails, and does not skip: a run that tested nothing must not look like one that passed.
        """
        needed = ["DB_USER", "DB_PASSWORD"]
        if not os.environ.get("DB_DSN"):
            needed += ["DB_HOST", "DB_PORT", "DB_SERVICE"]
        missing = [name for name in needed if not os.environ.get(name)]
        if missing:
            pytest.fail(
                f"no database to test against: {', '.join(missing)} not set. "
                "Run these tests with `invoke itest`, or after `invoke start-oracle` with `invoke run-tests`.",
                pytrace=False,
            )
        value = os.environ
        dsn = value.get("DB_DSN") or f"{value['DB_HOST']}:{value['DB_PORT']}/{value['DB_SERVICE']}"
        return cls(dsn, value["DB_USER"], value["DB_PASSWORD"])


@pytest.fixture(scope="session")
def address() -> Address:
    return Address.from_environment()


@pytest.fixture
def connect(address: Address) -> Iterator[Connect]:
    """Opens connections of their own, and closes them all at the end: what was not committed is gone."""
    opened: list[oracledb.Connection] = []

    def open_connection() -> oracledb.Connection:
        connection = oracledb.connect(user=address.user, password=address.password, dsn=address.dsn, tcp_connect_timeout=10)
        opened.append(connection)
        return connection

    yield open_connection
    for connection in opened:
        if connection.is_healthy():
            connection.close()


@pytest.fixture
def books(connect: Connect) -> Books:
    return Books(connect())
