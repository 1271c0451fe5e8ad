"""Where things are in the image."""

from pathlib import Path

POSTGRESQL_BIN = Path("/opt/oracle/standin/postgresql")
"""A link to the programs of the distribution's PostgreSQL, whatever its version."""

DATA_FOLDER = Path("/opt/oracle/oradata")
"""What outlives the container when a volume is mounted here, as with the vendor's image."""

CLUSTER = DATA_FOLDER / "standin"
STATE_FILE = DATA_FOLDER / "standin.json"
LOCK_FILE = DATA_FOLDER / "standin.lock"

RUN_FOLDER = Path("/opt/oracle/standin/run")
"""PostgreSQL's socket, and what healthcheck.sh reads."""

PHASE_FILE = RUN_FOLDER / "phase"
SERVICES_FILE = RUN_FOLDER / "services"

INIT_FOLDERS = (Path("/container-entrypoint-initdb.d"), Path("/docker-entrypoint-initdb.d"))
START_FOLDERS = (Path("/container-entrypoint-startdb.d"), Path("/docker-entrypoint-startdb.d"))

ORACLE_PORT = 1521
DATABASE = "freepdb1"
SUPERUSER = "postgres"
CONNINFO = f"host={RUN_FOLDER} dbname={DATABASE} user={SUPERUSER}"
"""How the listener reaches PostgreSQL: over the Unix socket, by the identity of the process, with no password."""
