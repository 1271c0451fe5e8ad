"""What a run of the tests needs, out of the configuration: checked before a database is started, each mistake with its place."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pipeline.config import CONFIG_FILE, Config
from pipeline.databases.contract import DatabaseKind, load_kind
from pipeline.databases.engine import load_engine
from pipeline.databases.prepare import Program, Script, find_scripts, read_steps
from pipeline.document import line_of
from pipeline.errors import ConfigurationError
from pipeline.integration.database import DatabaseSpec
from pipeline.integration.guardian import Companions
from pipeline.reference import parse_reference


class Programs(Companions, Protocol):
    """What is needed to run foreign programs."""

    def find_program(self, program: str, folder: Path, environment: Mapping[str, str] | None = None) -> Path | None: ...

    def run_program(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        *,
        quiet: bool = False,
        timeout: float | None = None,
        at_timeout: Callable[[], None] = ...,
    ) -> int: ...


@dataclass(frozen=True)
class Run:
    """Everything a run needs, checked."""

    root: Path
    state: Path
    database: DatabaseSpec
    steps: tuple[Script | Program, ...]
    command: tuple[str, ...]
    folder: Path
    junit: tuple[str, ...]
    timeout: float | None = None  # seconds that the tests may take
    workers: int = 0  # so many get a database state of their own
    isolation: str = "schema"  # what such a state is: `schema` or `container`


def read_kind(config: Config) -> DatabaseKind:
    """The kind of database and image that `itest:` names. Raises ConfigurationError for an engine or contract that is not there."""
    check = _Checks(config.root)
    with check.at("engine"):
        load_engine(config.itest.engine)
    with check.at("contract"):
        kind = load_kind(config.itest.engine, config.itest.contract, config.root)
    for name in config.itest.environment:
        taken = name in kind.contract.environment or name == kind.contract.service.variable
        check.holds(
            not taken, ["environment", name], "is set by the contract", "What it says comes from `service`, `user` and random passwords."
        )
        secret = _SECRET.search(name) and not name.endswith("_FILE")
        check.holds(
            not secret, ["environment", name], "looks like a secret", "`docker inspect` shows this to everybody who may use the engine."
        )
    return replace(kind, settings=config.itest.environment)


_SECRET = re.compile("PASSWORD|PASSWD|PWD|SECRET|TOKEN", re.IGNORECASE)


def read_mounts(config: Config) -> tuple[tuple[str, str], ...]:
    """`itest.mounts`: (absolute path, or volume; path in the container). Raises ConfigurationError for what is not there."""
    check = _Checks(config.root)
    found = []
    for source, path in config.itest.mounts.items():
        place = ["mounts", source]
        check.holds(path.startswith("/") and path != "/", place, f"'{path}' is not an absolute path", "Write where it is in the container.")
        if not source.startswith((".", "/", "~")):
            check.holds(
                bool(_VOLUME.fullmatch(source)), place, "is not a volume's name", f"A file or folder is written with ./: ./{source}"
            )
            found.append((source, path))
            continue
        real = (config.root / Path(source).expanduser()).resolve()
        check.holds(real.exists(), place, f"there is no {real}", "It is relative to pipeline.yaml.")
        held = real.is_socket() or any(socket.is_relative_to(real) for socket in _engine_sockets())
        check.holds(not held, place, f"{real} is or holds a socket", "Who has the engine's socket has this machine: no container gets it.")
        found.append((str(real), path))
    return tuple(found)


def _engine_sockets() -> list[Path]:
    """Where the socket of a container engine on this machine may be."""
    host, own = os.environ.get("DOCKER_HOST", ""), os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    found = [Path("/var/run/docker.sock"), Path("/run/docker.sock")]
    found += [path for path in (Path(own, "docker.sock"), Path.home() / ".docker/run/docker.sock") if path.is_socket()]
    found += [Path(host.removeprefix("unix://"))] if host.startswith("unix://") else []
    return [path.resolve() for path in found]


_VOLUME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]+")


def check_run(config: Config, image: str, kind: DatabaseKind, programs: Programs, tests: bool = True) -> Run:
    """Check all that `itest:` says. Without `tests` the test command is not looked at. Raises ConfigurationError.

    `image` may also come from the command line.
    """
    itest = config.itest
    folder = config.root / itest.folder
    check = _Checks(config.root)
    with check.at("image") if image == itest.image else _given("--image"):
        parse_reference(image)  # an image definition's name is one, too
    check.holds(folder.is_dir(), ["folder"], f"there is no folder {itest.folder}", "It is relative to pipeline.yaml.")
    if tests:
        check.holds(bool(itest.run), ["run"], "there is no test command", "Write for example `run: [mvn, verify]`.")
        check.program(programs, itest.run[0], ["run"], folder)
    check.holds(
        itest.user.lower() not in kind.own_users,
        ["user"],
        f"'{itest.user}' is the database's own",
        "Name a user that the application has for itself.",
    )
    for number, step in enumerate(itest.prepare):
        if step.run:
            check.program(programs, step.run[0], ["prepare", number, "run"], config.root)
            continue
        with check.at("prepare", number, "sql"):
            find_scripts(config.root, step.sql)
    for number, glob in enumerate(itest.junit):
        good = bool(glob) and not Path(glob).is_absolute() and ".." not in Path(glob).parts
        check.holds(good, ["junit", number], f"'{glob}' leaves the project", "Globs are relative to pipeline.yaml and stay below it.")
    contract, limits = kind.contract, kind.contract.limits
    database = DatabaseSpec(
        itest.engine,
        image,
        itest.service or contract.service.default,
        itest.user,
        itest.bind,
        itest.memory or limits.memory,
        itest.shm or limits.shm,
        itest.processes or limits.processes,
        itest.deadline or contract.deadline,
        read_mounts(config),
    )
    steps = tuple(read_steps(config.root, itest.prepare, kind.engine))
    return Run(config.root, config.state, database, steps, itest.run, folder, itest.junit, itest.timeout, isolation=itest.isolation)


class _Checks:
    """Checks of `itest:` that name file, line and key."""

    def __init__(self, root: Path) -> None:
        self._path = root / CONFIG_FILE

    def holds(self, condition: bool, place: Sequence[str | int], what: str, hint: str) -> None:
        if not condition:
            line = line_of(self._path, "itest", *place)
            key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
            raise ConfigurationError(f"{CONFIG_FILE}:{line}: 'itest{key}': {what}", hint)

    @contextlib.contextmanager
    def at(self, *place: str | int) -> Iterator[None]:
        """An error in here is one of the value at `place`."""
        try:
            yield
        except ConfigurationError as error:
            self.holds(False, place, error.message, error.hint)

    def program(self, programs: Programs, program: str, place: Sequence[str | int], folder: Path) -> None:
        found = programs.find_program(program, folder)
        hint = f"With a slash it is looked for in {folder}, else on PATH: {os.environ.get('PATH', '')}"
        self.holds(found is not None, place, f"there is no program '{program}'", hint)


@contextlib.contextmanager
def _given(option: str) -> Iterator[None]:
    """An error in here is one of what the command line gave as `option`."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"{option}: {error.message}", error.hint) from None
