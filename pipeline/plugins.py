"""The built-in plugins, put together from their contract and their driver: what this package's own entry points name."""

from __future__ import annotations

from pipeline.adapters.oracle_driver import OracleDriver
from pipeline.databases.oracle import Oracle

ORACLE = Oracle(OracleDriver())
