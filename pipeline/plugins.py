"""The built-in plugins, put together from their engine and their driver: what this package's own entry points name."""

from __future__ import annotations

from pipeline.adapters.oracle_driver import OracleDriver
from pipeline.adapters.postgres_driver import PostgresDriver
from pipeline.databases.oracle import Oracle
from pipeline.databases.postgres import Postgres

ORACLE = Oracle(OracleDriver())
POSTGRES = Postgres(PostgresDriver())
