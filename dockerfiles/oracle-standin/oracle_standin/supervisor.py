"""Process 1 of the container: starts PostgreSQL and the listener, prepares the database, watches, shuts down.

Exit codes: 0 after a stop that was asked for once the database was ready; 143 after one before that (the database is
incomplete); 1 for everything that went wrong, with the reason as the last line of the log.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

from oracle_standin import cluster, paths, sqlclient
from oracle_standin.settings import (
    Settings,
    SettingsError,
    State,
    read_settings,
    script_environment,
    without_secrets,
)
from oracle_standin.sqlclient import Login, ScriptFailed

_POLL_SECONDS = 0.01
_DATABASE_DEADLINE_SECONDS = 120.0
_STOP_SECONDS = 8.0
"""Time for a clean end. Docker kills after 10 s unless told otherwise."""

_MOMENT_SECONDS = 0.5
"""How long a failure waits for a dead process to be noticed, which would be its true reason."""

_STOPPED, _FAILED, _STOPPED_EARLY = 0, 1, 128 + signal.SIGTERM


class StartFailed(Exception):
    """The container cannot go on; the message is for the person who reads its log."""


def say(message: str) -> None:
    print(message, flush=True)


class Supervisor:
    def __init__(self) -> None:
        self._stop_asked = asyncio.Event()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._postgresql: Process | None = None
        self._listener: Process | None = None
        self._replies: asyncio.StreamReader = asyncio.StreamReader()
        self._stopping = False
        self._ready = False
        self._watches: set[asyncio.Task[None]] = set()
        self._lock: IO[str] | None = None

    async def run(self) -> int:
        """Run until asked to stop or until something goes wrong; the container's exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_asked.set)
        stop = asyncio.create_task(self._stop_asked.wait())
        start = asyncio.create_task(self._start())
        first: set[asyncio.Future[Any]] = {start, stop, self._ended}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if start.done() and start.exception() is None:
            loop.add_signal_handler(signal.SIGCHLD, self._reap_orphans)
            await asyncio.wait(first - {start}, return_when=asyncio.FIRST_COMPLETED)
        code = await self._outcome(start)
        await self._shut_down(start)
        say("CONTAINER: stopped.")
        return code

    async def _outcome(self, start: asyncio.Task[None]) -> int:
        error = start.exception() if start.done() else None
        if error is not None and not self._ended.done():
            await asyncio.wait({self._ended}, timeout=_MOMENT_SECONDS)
        if self._ended.done():
            say(f"CONTAINER: ERROR: {self._ended.result()}")
            return _FAILED
        if error is not None:
            if not isinstance(error, (StartFailed, ScriptFailed, SettingsError, cluster.ClusterError)):
                raise error
            say(f"CONTAINER: ERROR: {error}")
            return _FAILED
        say("CONTAINER: shutdown requested.")
        return _STOPPED if self._ready else _STOPPED_EARLY

    # Starting

    async def _start(self) -> None:
        paths.RUN_FOLDER.mkdir(parents=True, exist_ok=True)
        self._phase("starting")
        say("CONTAINER: starting a STAND-IN for an Oracle database: seerdb in front of PostgreSQL. It is not Oracle.")
        # Before anything is read: another container may be in the middle of its first start.
        self._take_lock()
        state = State.read(paths.STATE_FILE)
        settings: Settings | None = None
        if state is None:
            settings = read_settings(os.environ)
            state = State(False, settings.app_user, settings.services, settings.postgresql)
        elif not state.complete:
            raise StartFailed(
                "an earlier first start did not come to its end, so the database is incomplete. "
                "Remove this container (and its volume, if it has one) and start a new one."
            )
        if settings is not None:
            if not cluster.exists():
                say("CONTAINER: the data folder is empty: making the database in it.")
                await asyncio.to_thread(cluster.make)
            state.write(paths.STATE_FILE)
        cluster.clear_stale_lock()
        await asyncio.gather(
            self._start_postgresql(state),
            self._start_listener(state, settings),
            asyncio.to_thread(sqlclient.load_driver),
        )
        if settings is not None:
            await self._prepare(settings)
            environment: Mapping[str, str] = script_environment(settings)
            system = Login("SYSTEM", settings.system_password)
            self._phase("setup-scripts")
            await self._run_folders(paths.INIT_FOLDERS, system, environment)
        else:
            say("CONTAINER: the database is already initialised: its users, passwords and services are as they were.")
            environment = os.environ
            system = await asyncio.to_thread(_kept_login, "SYSTEM")
        self._phase("startup-scripts")
        await self._run_folders(paths.START_FOLDERS, system, environment)
        await self._prove_login(state, settings, system)
        await self._tell_listener("open")
        State(True, state.app_user, state.services, state.postgresql).write(paths.STATE_FILE)
        self._ready = True
        self._phase("ready")
        say("\n#########################\nDATABASE IS READY TO USE!\n#########################")

    def _take_lock(self) -> None:
        try:
            self._lock = paths.LOCK_FILE.open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartFailed(f"another container is using the data in {paths.DATA_FOLDER}.") from error
        except OSError as error:
            raise StartFailed(
                f"cannot write to {paths.DATA_FOLDER}: {error.strerror}. A mounted folder must belong to user 54321."
            ) from error

    async def _start_postgresql(self, state: State) -> None:
        self._postgresql = await asyncio.create_subprocess_exec(
            *cluster.server_command(listen_on_network=state.postgresql), env=without_secrets(os.environ)
        )
        self._watch("PostgreSQL", self._postgresql)
        async with asyncio.timeout(_DATABASE_DEADLINE_SECONDS):
            while not cluster.is_ready():
                await asyncio.sleep(_POLL_SECONDS)

    async def _start_listener(self, state: State, settings: Settings | None) -> None:
        reading, writing = os.pipe()
        self._listener = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "oracle_standin.listener", str(writing)),
            stdin=PIPE,
            pass_fds=(writing,),
            env=without_secrets(os.environ),
        )
        os.close(writing)
        self._watch("the listener", self._listener)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self._replies), os.fdopen(reading, "rb"))
        accounts = dict.fromkeys(("SYS", "SYSTEM"), settings.system_password) if settings else {}
        order = {"services": state.services, "sids": state.sids, "accounts": accounts}
        paths.SERVICES_FILE.write_text("".join(f"{name}\n" for name in state.services))
        await self._tell_listener(json.dumps(order))

    async def _tell_listener(self, line: str) -> None:
        """Send the listener a line and wait for its answer. A listener that is gone is noticed by its watch."""
        assert self._listener is not None
        assert self._listener.stdin is not None
        self._listener.stdin.write(f"{line}\n".encode())
        if not await self._replies.readline():
            raise StartFailed("the listener did not answer")

    def _watch(self, name: str, process: Process) -> None:
        async def watch() -> None:
            code = await process.wait()
            if not self._stopping and not self._ended.done():
                how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
                self._ended.set_result(f"{name} ended {how}.")

        self._watches.add(asyncio.create_task(watch()))

    # Preparing

    async def _prepare(self, settings: Settings) -> None:
        if settings.password_is_random:
            say("#" * 44)
            say(f"ORACLE PASSWORD FOR SYS AND SYSTEM: {settings.system_password}")
            say("#" * 44)
        if settings.app_user and settings.app_password:
            say(f"CONTAINER: creating the application's user {settings.app_user.upper()}.")
            await asyncio.to_thread(_create_app_user, settings)

    async def _run_folders(self, folders: tuple[Path, ...], login: Login, environment: Mapping[str, str]) -> None:
        for folder in folders:
            for script in _scripts_in(folder):
                say(f"CONTAINER: running {script} ...")
                if script.suffix == ".sh":
                    await _run_shell(script, environment)
                else:
                    await asyncio.to_thread(sqlclient.run_script, script, login, say)
                say(f"CONTAINER: done with {script}.")

    async def _prove_login(self, state: State, settings: Settings | None, system: Login) -> None:
        """Log in over the network protocol as the application's user, or as SYSTEM where there is none."""
        login = system
        if settings is not None and settings.app_user and settings.app_password:
            login = Login(settings.app_user, settings.app_password)
        elif state.app_user is not None:
            login = await asyncio.to_thread(_kept_login, state.app_user)
        try:
            await asyncio.to_thread(_select_one, login)
        except Exception as error:
            raise StartFailed(f"the login of {login.user} at {login.service} does not work: {error}") from error

    # Ending

    async def _shut_down(self, start: asyncio.Task[None]) -> None:
        """End the listener and then PostgreSQL, so that no client sees the database go first."""
        self._stopping = True
        self._phase("stopping")
        start.cancel()
        await _end("the listener", self._listener, signal.SIGTERM)
        # SIGINT is PostgreSQL's fast shutdown: sessions are ended, everything is written.
        await _end("PostgreSQL", self._postgresql, signal.SIGINT)

    def _phase(self, phase: str) -> None:
        paths.PHASE_FILE.write_text(f"{phase}\n")

    def _reap_orphans(self) -> None:
        """Collect processes whose parent died: process 1 inherits them. The two of its own are left to asyncio."""
        own = {process.pid for process in (self._postgresql, self._listener) if process is not None}
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in own:
                return
            os.waitpid(found.si_pid, 0)


async def _end(name: str, process: Process | None, number: signal.Signals) -> None:
    if process is None or process.returncode is not None:
        return
    process.send_signal(number)
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS / 2)
    except TimeoutError:
        say(f"CONTAINER: WARNING: {name} did not end in {_STOP_SECONDS / 2:.0f} s and is killed.")
        process.kill()
        await process.wait()


def _scripts_in(folder: Path) -> Iterator[Path]:
    """The scripts of a folder and its sub-folders in the order of their names, files and folders alike."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if path.is_dir():
            yield from _scripts_in(path)
        elif path.name.endswith((".sh", ".sql", ".sql.gz", ".sql.zip")):
            yield path
        else:
            say(f"CONTAINER: ignoring {path}: not a .sh, .sql, .sql.gz or .sql.zip file.")


async def _run_shell(script: Path, environment: Mapping[str, str]) -> None:
    """Run an executable script; read any other into a shell of its own that stops at the first error."""
    how = [str(script)] if os.access(script, os.X_OK) else ["bash", "-Eeuo", "pipefail", "-c", '. "$0"', str(script)]
    try:
        process = await asyncio.create_subprocess_exec(*how, env=dict(environment), start_new_session=True)
    except OSError as error:
        raise ScriptFailed(f"{script}: cannot be run: {error.strerror}") from error
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    if code != 0:
        raise ScriptFailed(f"{script}: ended with exit code {code}")


def _create_app_user(settings: Settings) -> None:
    name, password = settings.app_user, settings.app_password
    # The name was checked to be plain, the password to hold no double quote.
    script = (
        f'CREATE USER {name} IDENTIFIED BY "{password}" DEFAULT TABLESPACE users QUOTA UNLIMITED ON users\n/\n'
        f"GRANT db_developer_role TO {name}\n/\n"
    )
    sqlclient.run_text(script, "APP_USER", Path("/"), Login("SYSTEM", settings.system_password), say)
    if settings.postgresql and name and password:
        _open_postgresql(name.lower(), password)


def _open_postgresql(role: str, password: str) -> None:
    """Let the application's user into PostgreSQL itself, by the same name and password, with its tables in reach."""
    import psycopg
    from psycopg import sql

    name = sql.Identifier(role)
    with psycopg.connect(paths.CONNINFO, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, sql.Literal(password)))
        connection.execute(sql.SQL("GRANT pg_read_all_data, pg_write_all_data TO {}").format(name))
        connection.execute(sql.SQL("ALTER ROLE {} SET search_path = {}, sys, oracle, public").format(name, name))
    say(f"CONTAINER: PostgreSQL is open on port 5432, database {paths.DATABASE}, user {role}.")


def _kept_login(user: str) -> Login:
    """The login of an account made at an earlier start; seerdb keeps its password in the database."""
    import psycopg

    with psycopg.connect(paths.CONNINFO) as connection:
        row = connection.execute("SELECT password FROM seerdb_auth.accounts WHERE username = %s", (user.upper(),)).fetchone()
    if row is None:
        if user.upper() == "SYSTEM":
            raise StartFailed("the account SYSTEM is gone from the database.")
        return _kept_login("SYSTEM")  # the application's user was dropped since, which is nobody's fault
    return Login(user, row[0])


def _select_one(login: Login) -> None:
    connection = sqlclient.connect(login)
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT 1 FROM dual")
        if [tuple(row) for row in cursor.fetchall()] != [(1,)]:
            raise StartFailed("SELECT 1 FROM dual does not answer 1")
    finally:
        connection.close()


def main() -> NoReturn:
    async def supervise() -> int:
        return await Supervisor().run()

    with asyncio.Runner() as runner:
        code = runner.run(supervise())
        sys.stdout.flush()
        # Not by the runner's own end: it would wait for a script that is stuck in a thread.
        os._exit(code)


if __name__ == "__main__":
    main()
