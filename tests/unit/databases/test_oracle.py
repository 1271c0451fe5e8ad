"""What is particular to Oracle, and what all engines have in common."""

from __future__ import annotations

import pytest

from pipeline.databases.engine import Account, Address, Password, load_engine
from pipeline.errors import ConfigurationError
from pipeline.plugins import ORACLE


def test_addresses_for_drivers() -> None:
    assert ORACLE.jdbc_url(Address("127.0.0.1", 32768, "FREEPDB1")) == "jdbc:oracle:thin:@//127.0.0.1:32768/FREEPDB1"
    assert ORACLE.dsn(Address("fd00::1", 1521, "XE")) == "[fd00::1]:1521/XE"


def test_a_password_shows_stars() -> None:
    account = Account("app", Password("Geheim1"))
    assert "Geheim1" not in f"{account} {account!r} {account.password} {account.password!r}"


def test_an_engine_that_is_not_installed_is_named() -> None:
    with pytest.raises(ConfigurationError, match="there is no database engine 'orakel'"):
        load_engine("orakel")
