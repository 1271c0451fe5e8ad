"""What kind of container image a database comes in, as data: one small YAML file for each, in contracts/ or in one's own project.

The engine, which is code, speaks the database's protocol and its SQL. The contract says what an image of it wants to be told,
where its script folders are and how long it may take. Placeholders in `environment` and `files`: {user}, {user_password_file},
{administrator}, {administrator_password_file}, {service}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec

from pipeline.databases.engine import Account, Address, Answer, Connection, DatabaseEngine, Password, Statement, load_engine
from pipeline.document import line_of, nearest, read_document
from pipeline.errors import ConfigurationError

CONTRACTS = Path(__file__).with_name("contracts")
SUFFIX = ".yaml"
STANDIN = "pipeline.database.standin"  # the label of an image that is not what it answers as

Doc = msgspec.Meta
_Folder = Annotated[str, Doc(pattern="^(/[^/]+)*$")]
_Size = Annotated[str, Doc(pattern="^[1-9][0-9]*[mg]$")]
_PLACEHOLDER = re.compile(r"(?<!\$)\{(\w+)\}")


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The service or database that the tests log in to."""

    default: str
    own: tuple[str, ...] = ()  # those that come with the image, in capitals
    variable: str = ""  # the environment variable that asks for any other one


class PasswordFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the image itself looks for a password, beside the file that `environment` can name."""

    administrator: _Folder = ""
    user: _Folder = ""


class Scripts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The folders whose scripts the image runs; empty where it has none."""

    init: _Folder = ""  # at the first start
    start: _Folder = ""  # at each start


class Stop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a clean stop takes, where the data is to be kept."""

    seconds: Annotated[float, Doc(gt=0)]  # after which it cannot be clean any more


class Bake(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What makes an image of it that holds a prepared database. The folder `scripts.start` is needed, too."""

    run: Annotated[tuple[str, ...], Doc(min_length=1)]  # runs a SQL script in the container, as one who may change every password
    stopped: Annotated[tuple[str, ...], Doc(min_length=1)]  # what it prints after a clean stop: one of these
    exit_codes: tuple[int, ...] = (0,)  # after a clean stop


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a container of it gets where the configuration says nothing."""

    memory: _Size
    shm: _Size
    processes: Annotated[int, Doc(ge=16)]


class Contract(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an image of one kind wants and does."""

    name: str  # that of the file
    description: str
    engine: str  # which speaks to it
    port: Annotated[int, Doc(ge=1, le=65535)]
    service: Service
    stop: Stop
    limits: Limits
    deadline: Annotated[float, Doc(gt=0)]  # seconds until a fresh one must have answered a login
    data: _Folder  # where the database's files are
    environment: dict[str, str] = {}
    password_files: PasswordFiles = PasswordFiles()
    files: dict[str, str] = {}  # path in the container → text
    scripts: Scripts = Scripts()
    bake: Bake | None = None  # None: it cannot be baked
    ready_line: str = ""  # what it prints when it believes to be ready. A hint that makes waiting shorter; it proves nothing


@dataclass(frozen=True)
class DatabaseKind:
    """A kind of database in a kind of image: engine and contract."""

    engine: DatabaseEngine
    contract: Contract
    settings: Mapping[str, str] = field(default_factory=dict)  # variables that the project sets beside the contract's

    @property
    def port(self) -> int:
        return self.contract.port

    @property
    def ready_line(self) -> str:
        return self.contract.ready_line

    @property
    def administrator(self) -> str:
        return self.engine.administrator

    @property
    def own_users(self) -> Sequence[str]:
        return self.engine.own_users

    @property
    def knock(self) -> bytes:
        return self.engine.knock

    def environment(self, user: str, service: str, password_files: Mapping[str, str]) -> dict[str, str]:
        """The container's environment. `password_files` is user name → path; it never holds a password itself."""
        contract, values = self.contract, self._values(user, service, password_files)
        variables = {name: _filled(text, values) for name, text in contract.environment.items()}
        if contract.service.variable and service.upper() not in contract.service.own:
            variables[contract.service.variable] = service
        return {**self.settings, **variables}

    def files(self, user: str, service: str, password_files: Mapping[str, str], passwords: Mapping[str, Password]) -> dict[str, bytes]:
        """Path → content of what must be in the container before it starts, beside the files that `password_files` names."""
        values = self._values(user, service, password_files)
        files = {path: _filled(text, values).encode() for path, text in self.contract.files.items()}
        for path, name in ((self.contract.password_files.administrator, self.administrator), (self.contract.password_files.user, user)):
            if path:
                files[path] = passwords[name].value.encode()
        return files

    def bake_command(self, user: str, service: str, password_files: Mapping[str, str], script: str) -> list[str]:
        """What runs the SQL script at the path `script` in the container, as one who may change every password."""
        values = {**self._values(user, service, password_files), "script": script}
        return [_filled(word, values) for word in self.contract.bake.run] if self.contract.bake else []

    def dsn(self, address: Address) -> str:
        return self.engine.dsn(address)

    def jdbc_url(self, address: Address) -> str:
        return self.engine.jdbc_url(address)

    def split(self, script: str) -> Sequence[Statement]:
        return self.engine.split(script)

    async def log_in(self, address: Address, account: Account, patience: float) -> Answer:
        return await self.engine.log_in(address, account, patience)

    def connect(self, address: Address, account: Account) -> Connection:
        return self.engine.connect(address, account)

    def _values(self, user: str, service: str, password_files: Mapping[str, str]) -> dict[str, str]:
        return {
            "user": user,
            "user_password_file": password_files[user],
            "administrator": self.administrator,
            "administrator_password_file": password_files[self.administrator],
            "service": service,
        }


def is_standin(labels: Mapping[str, str]) -> bool:
    """Whether an image says of itself that it is not what it answers as."""
    return labels.get(STANDIN, "").lower() in ("true", "yes", "1")


def load_kind(engine: str, contract: str = "", root: Path | None = None) -> DatabaseKind:
    """The engine of that name with `contract`: a name, a .yaml file relative to `root`, or empty for the engine's default.

    Raises ConfigurationError for what is not there, and for a contract of another engine.
    """
    found = load_engine(engine)
    path = find_contract(found, contract or found.default_contract, root)
    read = read_contract(path)
    if read.engine != engine:
        raise ConfigurationError(
            f"the contract '{read.name}' is one of the engine '{read.engine}', not of '{engine}'",
            f"Set `itest.engine` to {read.engine}, or leave `itest.contract` out for the default of '{engine}'.",
        )
    return DatabaseKind(found, read)


def find_contract(engine: DatabaseEngine, contract: str, root: Path | None = None) -> Path:
    """The contract's file. Raises ConfigurationError where there is none."""
    if contract.endswith(SUFFIX):
        return (root or Path()) / contract
    path = engine.contracts / f"{contract}{SUFFIX}"
    if not path.is_file():
        names = sorted(other.stem for other in engine.contracts.glob(f"*{SUFFIX}"))
        raise ConfigurationError(
            f"there is no contract '{contract}'", f"{nearest(contract, names)} One of your own is a file: {contract}{SUFFIX}"
        )
    return path


def read_contract(path: Path) -> Contract:
    """Read and check a contract. Raises ConfigurationError with file, line and key."""
    contract = read_document(path, Contract, {"name": path.stem})
    for key in ("environment", "files"):
        for name, text in getattr(contract, key).items():
            for placeholder in _PLACEHOLDER.findall(text):
                if placeholder not in _KNOWN:
                    _refuse(path, [key, name], f"there is no placeholder {{{placeholder}}}", f"There are: {', '.join(_KNOWN)}.")
    for word in contract.bake.run if contract.bake else ():
        for placeholder in _PLACEHOLDER.findall(word):
            if placeholder not in (*_KNOWN, "script"):
                _refuse(path, ["bake", "run"], f"there is no placeholder {{{placeholder}}}", f"There are: {', '.join(_KNOWN)}, script.")
    for name in contract.files:
        if not PurePosixPath(name).is_absolute():
            _refuse(path, ["files", name], "is not an absolute path", "Write where it is in the container, such as /run/example.sh.")
    return contract


_KNOWN = ("user", "user_password_file", "administrator", "administrator_password_file", "service")


def _refuse(path: Path, place: Sequence[str], what: str, hint: str) -> None:
    raise ConfigurationError(f"{path.name}:{line_of(path, *place)}: '{'.'.join(place)}': {what}", hint)


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values[found[1]], text)
