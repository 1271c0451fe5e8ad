"""`pipeline.yaml` as frozen values, checked before anything is done."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import msgspec

from pipeline.document import Shared, line_of, read_document, written_value
from pipeline.errors import ConfigurationError
from pipeline.reference import COMPONENT, REPOSITORY

CONFIG_FILE = "pipeline.yaml"
DEFAULT_IMAGES = ("images/*.yaml",)
STATE_FOLDER = ".pipeline"  # beside pipeline.yaml; git-ignored; nothing in it is needed to be right, only to be quick

Doc = msgspec.Meta


class Secret(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a build secret comes from: exactly one of `file` and `env`."""

    file: Annotated[str, Doc(description="A file on the build machine, relative to pipeline.yaml; `~` is the home folder.")] = ""
    env: Annotated[str, Doc(description="An environment variable of the build.")] = ""
    required: Annotated[bool, Doc(description="Whether a build without it stops; else it is left out.")] = True


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step on the fresh database, exactly one of `sql` and `run`."""

    sql: Annotated[str, Doc(description="A .sql file, or a folder whose *.sql run in name order; relative to pipeline.yaml.")] = ""
    user: Annotated[str, Doc(description="Who runs the SQL: `app` (the application's user) or `system`.", pattern="^(app|system)$")] = "app"
    run: Annotated[
        tuple[str, ...], Doc(description="A program (Flyway, sqlplus) with its arguments; it finds the address in its environment.")
    ] = ()
    reads: Annotated[
        tuple[str, ...] | None,
        Doc(description="With `run`: globs of what the program reads, relative to pipeline.yaml; needed for `invoke db.bake`."),
    ] = None


class IntegrationTests(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`itest:`: the database the tests run against, how it is prepared, and the test command."""

    image: Annotated[
        str, Doc(description="The database image: the name of an image definition, or a reference. It is never replaced by another one.")
    ] = "docker.io/gvenzl/oracle-free:23-slim-faststart"
    engine: Annotated[str, Doc(description="The kind of database: an entry point of the group `pipeline.databases`.")] = "oracle"
    contract: Annotated[
        str,
        Doc(
            description="The kind of image: a contract's name, or a .yaml file of one's own, relative to pipeline.yaml. Default: the engine's."
        ),
    ] = ""
    service: Annotated[
        str,
        Doc(description="The service or database that the tests log in to. Default: the contract's.", pattern="^[A-Za-z0-9_.$#-]{0,128}$"),
    ] = ""
    user: Annotated[
        str, Doc(description="The application's user; its password is random in each session.", pattern="^[A-Za-z][A-Za-z0-9_]{0,29}$")
    ] = "app"
    isolation: Annotated[
        str,
        Doc(
            description="What a worker of the pytest plugin gets for itself: a `schema` (PostgreSQL: a database) of the run's one "
            "container, or a `container`, for code with fixed schema names.",
            pattern="^(schema|container)$",
        ),
    ] = "schema"
    environment: Annotated[
        dict[str, str],
        Doc(description="Variables of the database's container, beside its contract's. `docker inspect` shows them: no secrets here."),
    ] = {}
    mounts: Annotated[
        dict[str, str],
        Doc(
            description="What the database's container can read: a file or folder (relative to pipeline.yaml when it begins with ./, "
            "or absolute) or a volume's name → the absolute path inside."
        ),
    ] = {}
    prepare: Annotated[tuple[Step, ...], Doc(description="Steps on the fresh database, in order; the first error stops.")] = ()
    run: Annotated[tuple[str, ...], Doc(description="The test command and its arguments; no shell in between.")] = ()
    folder: Annotated[str, Doc(description="Where the test command runs, relative to pipeline.yaml.")] = "."
    timeout: Annotated[
        Annotated[float, Doc(gt=0)] | None,
        Doc(description="Seconds after which tests that still run are ended; sessions and locks of the database are noted before."),
    ] = None
    junit: Annotated[tuple[str, ...], Doc(description="Globs of the JUnit XML files the tests write; copied to .pipeline/itest/.")] = ()
    bake: Annotated[
        str,
        Doc(
            description="Baked databases of the same inputs (`invoke db.bake`) that a start takes instead of preparing: "
            "`never` any, `local`: what the engine has, `registry`: also what the registry has.",
            pattern="^(never|local|registry)$",
        ),
    ] = "local"
    deadline: (
        Annotated[float, Doc(description="Seconds until the database must have answered a login. Default: the contract's.", gt=0)] | None
    ) = None
    lease: Annotated[
        float,
        Doc(description="Hours for which a session lives that nobody stops, renews (`invoke start-oracle --keep`) or runs tests in.", gt=0),
    ] = 3.0
    memory: Annotated[str, Doc(description="The container's memory limit. Default: the contract's.", pattern="^([1-9][0-9]*[mg])?$")] = ""
    bind: Annotated[
        str,
        Doc(description="The address of the engine's host that the database is published on, at a random port; the tests must reach it."),
    ] = "127.0.0.1"
    shm: Annotated[str, Doc(description="The container's shared memory. Default: the contract's.", pattern="^([1-9][0-9]*[mg])?$")] = ""
    processes: (
        Annotated[int, Doc(description="How many processes and threads the container may have. Default: the contract's.", ge=16)] | None
    ) = None


class RegistryServer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`registry_server:`: the registry of one's own that `invoke registry.start` runs."""

    image: Annotated[str, Doc(description="The registry's image: the name of an image definition, or a reference.")] = "registry"
    address: Annotated[str, Doc(description="The address it is published on.")] = "127.0.0.1"
    port: Annotated[int, Doc(description="The port it is published on.", ge=1, le=65535)] = 5000
    user: Annotated[str, Doc(description="With `password_file`: the user who may pull and push.")] = ""
    password_file: Annotated[str, Doc(description="A file outside Git that holds the password.")] = ""


class Extends(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`extends:`: settings that several repositories share, in a file of an installed Python package."""

    package: Annotated[
        str,
        Doc(
            description="The package's name as Python imports it; its version is pinned where the toolkit's is.",
            pattern="^[A-Za-z_][A-Za-z0-9_]*$",
        ),
    ]
    file: Annotated[str, Doc(description="The file's path in the package.", min_length=1)] = CONFIG_FILE


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of pipeline.yaml."""

    registry: Annotated[str, Doc(description="HOST[:PORT][/PREFIX]: where images are pushed to, and what they are named after.")]
    namespace: Annotated[str, Doc(description="The path all images of this repository share in the registry.")]
    extends: (
        Annotated[
            Extends,
            Doc(
                description="A file of the same keys whose values hold where this one says nothing; mappings are merged, lists replaced. "
                "Its paths are relative to this file."
            ),
        ]
        | None
    ) = None
    pull_from: Annotated[
        str, Doc(description="HOST[:PORT][/PREFIX] to pull from, where that is another address (a virtual repository).")
    ] = ""
    project: Annotated[str, Doc(description="The project's name on containers and networks. Default: the namespace.")] = ""
    images: Annotated[tuple[str, ...], Doc(description="Globs of image definitions.", min_length=1)] = DEFAULT_IMAGES
    platform: Annotated[str, Doc(description="The platform images are built for.", pattern="^[a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?$")] = (
        "linux/amd64"
    )
    max_pin_age: Annotated[
        int, Doc(description="Days after which a plan warns that an image from elsewhere, and the packages on it, are old; 0: never.", ge=0)
    ] = 45
    secrets: Annotated[dict[str, Secret], Doc(description="Build secrets by name. `ca`, the host's CA bundle, is always there.")] = {}
    registry_server: RegistryServer = RegistryServer()
    itest: IntegrationTests = IntegrationTests()


class Config(msgspec.Struct, frozen=True):
    """The checked configuration of the repository whose root is `root`."""

    root: Path
    registry: str
    namespace: str
    pull_from: str
    project: str
    images: tuple[str, ...]
    platform: str
    max_pin_age: int
    secrets: dict[str, Secret]
    registry_server: RegistryServer
    itest: IntegrationTests

    @property
    def defines_images(self) -> bool:
        """Whether this repository has image definitions; one with the default of `images:` and none there only tests."""
        return self.images != DEFAULT_IMAGES or any(self.root.glob(self.images[0]))

    @property
    def state(self) -> Path:
        """The folder for what later runs may use: `.pipeline/` beside pipeline.yaml."""
        return self.root / STATE_FOLDER


def find_root(start: Path) -> Path:
    """The nearest folder at or above `start` that holds a pipeline.yaml."""
    for folder in (start, *start.parents):
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise ConfigurationError(
        f"there is no {CONFIG_FILE} in {start} or above it",
        "Let it be written: python -m pipeline init. Or create it with two lines: `registry: HOST` and `namespace: NAME`.",
    )


def read_config(root: Path) -> Config:
    """Read and check `root`/pipeline.yaml; PIPELINE_REGISTRY and PIPELINE_NAMESPACE win over what it says."""
    overrides: dict[str, object] = {key: value for key in ("registry", "namespace") if (value := os.environ.get(f"PIPELINE_{key.upper()}"))}
    path = root / CONFIG_FILE
    shared = _find_shared(path)
    file = read_document(path, _File, overrides, shared=shared, single=["secrets"])

    def where(*place: str | int) -> str:
        """File, line and key of a value, whichever file says it."""
        own = Shared(path, CONFIG_FILE)
        says = shared if shared and written_value(own, *place) is None and written_value(shared, *place) is not None else own
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
        return f"{says.shown}:{line_of(says.path, *place)}: '{key}'"

    def check(holds: bool, key: str, what: str, hint: str) -> None:
        if not holds:
            said = f"PIPELINE_{key.upper()}" if key in overrides else where(*key.split("."))
            raise ConfigurationError(f"{said}: {what}", hint)

    for key, value in (("registry", file.registry), ("pull_from", file.pull_from)):
        example = "Write a host with an optional port and path, such as 127.0.0.1:5000 or registry.example.com/team; no scheme, no trailing slash."
        check(not value or bool(_REGISTRY.fullmatch(value)), key, f"'{value}' is not a registry's address", example)
    for key, value in (("registry", file.registry), ("pull_from", file.pull_from)):
        host = value.partition("/")[0]
        known = not value or host == "localhost" or bool(re.search(r"[.:]", host))
        elsewhere = f"Docker takes '{value}' for a folder of Docker Hub: write the host with a dot or a port, such as {host}:5000."
        check(known, key, f"'{host}' does not look like a host to Docker", elsewhere)
        port = re.search(r":([0-9]+)$", host)
        check(not port or 0 < int(port[1]) < 65536, key, f"'{host}' has no valid port", "A port is a number from 1 to 65535.")
    check(bool(file.registry), "registry", "is empty", "Name the registry to push to, such as 127.0.0.1:5000.")
    lower = "Use lower-case letters, digits and single separators (. _ -), parts divided by a slash, such as team/base."
    check(bool(REPOSITORY.fullmatch(file.namespace)), "namespace", f"'{file.namespace}' is not a repository path", lower)
    check(not file.project or bool(REPOSITORY.fullmatch(file.project)), "project", f"'{file.project}' is not a project name", lower)
    for name, secret in file.secrets.items():
        check(bool(secret.file) != bool(secret.env), f"secrets.{name}", "needs exactly one of file and env", "Keep one of the two.")
    for number, step in enumerate(file.itest.prepare):
        if bool(step.sql) == bool(step.run):
            raise ConfigurationError(f"{where('itest', 'prepare', number)}: needs exactly one of sql and run", "Keep one of the two.")
    server = file.registry_server
    check(
        bool(server.user) == bool(server.password_file), "registry_server", "user and password_file belong together", "Give both or none."
    )
    return Config(
        root=root,
        registry=file.registry,
        namespace=file.namespace,
        pull_from=file.pull_from or file.registry,
        project=file.project or file.namespace.replace("/", "-"),
        images=file.images,
        platform=file.platform,
        max_pin_age=file.max_pin_age,
        secrets=file.secrets,
        registry_server=server,
        itest=file.itest,
    )


def _find_shared(path: Path) -> Shared | None:
    """The file that a pipeline.yaml extends, if it does. Raises ConfigurationError where that is not there."""
    if b"extends" not in (path.read_bytes() if path.is_file() else b""):
        return None  # nearly always: the file need not be read twice
    try:
        extends = msgspec.convert(written_value(Shared(path, CONFIG_FILE), "extends"), Extends | None)
    except msgspec.ValidationError:
        return None  # what is wrong with it is said with everything else
    if extends is None:
        return None
    from importlib.util import find_spec

    where = f"{CONFIG_FILE}:{line_of(path, 'extends')}: 'extends'"
    try:
        spec = find_spec(extends.package)
    except ValueError:  # __main__, which is no package
        spec = None
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    if not folders:
        raise ConfigurationError(
            f"{where}: the package '{extends.package}' is not installed", "Name it, with its version, where the toolkit is installed from."
        )
    file = (folders[0] / extends.file).resolve()
    if not file.is_relative_to(folders[0].resolve()) or not file.is_file():
        raise ConfigurationError(f"{where}: the package '{extends.package}' has no file '{extends.file}'", "Correct `file:`.")
    shared = Shared(file, f"{extends.package}/{extends.file}")
    if written_value(shared, "extends") is not None:
        raise ConfigurationError(f"{shared.shown}:{line_of(file, 'extends')}: extends another file itself", "Say all of it in one file.")
    return shared


def config_schema() -> dict[str, object]:
    """The JSON Schema of pipeline.yaml, for editors."""
    return msgspec.json.schema(_File)


_REGISTRY = re.compile(rf"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?(?:/{COMPONENT})*")
