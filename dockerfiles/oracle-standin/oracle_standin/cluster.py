"""The PostgreSQL cluster behind the stand-in. Run as a program it makes an empty one, at the image's build."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from oracle_standin.paths import CLUSTER, CONNINFO, DATABASE, LOCK_FILE, POSTGRESQL_BIN, RUN_FOLDER, SUPERUSER

_START_DEADLINE_SECONDS = 60.0
_POLL_SECONDS = 0.01
_STATUS_LINE = 7
"""postmaster.pid's eighth line says `starting` or `ready` (PostgreSQL's documentation, "Database File Layout")."""

# A database for throw-away test data: nothing waits for the disk, so a crash of the machine may lose or break the
# data. A killed process or container does not: a commit still hands its record to the kernel before it returns
# (synchronous_commit stays on, and costs next to nothing without fsync). Statements are never logged: they may hold
# passwords.
_SETTINGS = f"""
listen_addresses = ''
unix_socket_directories = '{RUN_FOLDER}'
unix_socket_permissions = 0700
max_connections = 300
shared_buffers = 128MB
fsync = off
full_page_writes = off
wal_level = minimal
max_wal_senders = 0
max_wal_size = 1GB
checkpoint_timeout = 30min
jit = off
logging_collector = off
log_statement = none
log_min_messages = fatal
log_min_error_statement = panic
log_min_duration_statement = -1
password_encryption = 'scram-sha-256'
"""

# The one role that can log in locally is tied to the container's user: no password exists that could leak.
_HBA = f"local all {SUPERUSER} peer map=standin\nhost {DATABASE} all all scram-sha-256\n"
_IDENT = f"standin oracle {SUPERUSER}\n"


class ClusterError(Exception):
    """PostgreSQL could not be made or started; the message says what it said."""


def exists() -> bool:
    """Whether the data folder holds a cluster that was made to its end."""
    return (CLUSTER / "standin-made").exists()


def server_command(*, listen_on_network: bool = False) -> list[str]:
    """The server's command line. It holds no secret."""
    command = [str(POSTGRESQL_BIN / "postgres"), "-D", str(CLUSTER)]
    return [*command, "-c", "listen_addresses=*"] if listen_on_network else command


def clear_stale_lock() -> None:
    """Remove the pid and lock files left by a killed container.

    Their process number is likely to be a living process of this container, as numbers begin anew in each, and
    PostgreSQL would refuse to start. The caller holds the lock on LOCK_FILE, so no other container uses this cluster.
    """
    for stale in (CLUSTER / "postmaster.pid", *RUN_FOLDER.glob(".s.PGSQL.*")):
        stale.unlink(missing_ok=True)


def is_ready() -> bool:
    """Whether the running server says of itself that it takes connections."""
    try:
        lines = (CLUSTER / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > _STATUS_LINE and lines[_STATUS_LINE].strip() == "ready"


def make() -> None:
    """Make the cluster, its database and seerdb's dictionary in it. It holds no account and no password.

    Raises ClusterError. Half-made remains of an earlier try are refused by initdb, which names the folder.
    """
    RUN_FOLDER.mkdir(parents=True, exist_ok=True)
    # Oracle compares and sorts by code point unless told otherwise; so does C.UTF-8.
    _run(
        *("initdb", "--pgdata", str(CLUSTER), "--username", SUPERUSER, "--auth", "peer", "--encoding", "UTF8"),
        *("--locale", "C.UTF-8", "--no-sync", "--wal-segsize", "4"),
    )
    with (CLUSTER / "postgresql.conf").open("a") as configuration:
        configuration.write(_SETTINGS)
    (CLUSTER / "pg_hba.conf").write_text(_HBA)
    (CLUSTER / "pg_ident.conf").write_text(_IDENT)
    server = subprocess.Popen(server_command())
    try:
        _wait_until_ready(server)
        _install_dictionary()
    finally:
        # Fast shutdown with a checkpoint, so that the first start has nothing to recover.
        server.send_signal(2)
        server.wait(timeout=_START_DEADLINE_SECONDS)
    (CLUSTER / "standin-made").touch()


def _install_dictionary() -> None:
    import psycopg

    from oracle_standin.listener import open_backend

    with psycopg.connect(CONNINFO.replace(f"dbname={DATABASE}", "dbname=template1"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {DATABASE}")
    with psycopg.connect(CONNINFO, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION orafce")
    # seerdb installs its dictionary when a session first meets a database without it.
    backend = open_backend({})
    # Asking for an account creates the (empty) table of accounts.
    if backend.authenticate("NOBODY") is not None:
        raise ClusterError("a new database answers for an account nobody made")
    backend.close()
    with psycopg.connect(CONNINFO, autocommit=True) as connection:
        connection.execute("VACUUM (FREEZE, ANALYZE)")


def _run(program: str, *arguments: str) -> None:
    done = subprocess.run([str(POSTGRESQL_BIN / program), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"{program} failed: {done.stderr.strip() or done.stdout.strip()}")


def _wait_until_ready(server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_DEADLINE_SECONDS
    while not is_ready():
        if server.poll() is not None:
            raise ClusterError(f"PostgreSQL ended with exit code {server.returncode} while starting")
        if time.monotonic() > deadline:
            raise ClusterError(f"PostgreSQL was not ready after {_START_DEADLINE_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    make()
    # What a mounted, empty volume must not find here as "already in use".
    Path(LOCK_FILE).unlink(missing_ok=True)
