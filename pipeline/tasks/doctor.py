"""invoke doctor: what is there, what is missing, and how to get it."""

from __future__ import annotations

import json as json_module
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.context import Context

from pipeline.errors import MissingRequirementError, PipelineError
from pipeline.tasks.command import command, read_project

if TYPE_CHECKING:
    from pipeline.config import Config

DISK = 10  # GB that a first build of all images and one database need
MEMORY = 3  # GB: a database and a build beside it


@dataclass(frozen=True)
class Check:
    """One thing the main job needs. `fix` says how to get it; a warning does not stop the job."""

    name: str
    ok: bool
    found: str
    fix: str = ""
    needed: bool = True


@command(help={"json": "Print one JSON document on stdout and nothing else."})
def doctor(_context: Context, json: bool = False) -> None:
    """Check that this machine can build, push and run tests.

    The exit code is 0 only if it can. Example: invoke doctor --json
    """
    checks = list(_examine())
    broken = [check for check in checks if check.needed and not check.ok]
    if json:
        print(json_module.dumps({"ok": not broken, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        for check in checks:
            mark = "ok" if check.ok else "MISSING" if check.needed else "note"
            print(f"{mark:8} {check.name:12} {check.found}" + (f"\n{'':22}{check.fix}" if not check.ok and check.fix else ""))
    if broken:
        raise MissingRequirementError(
            f"the main job cannot run here: {', '.join(check.name for check in broken)}", "How to get it stands above."
        )


def _examine() -> Iterator[Check]:
    try:
        config = read_project()
        yield Check("configuration", True, f"{config.root / 'pipeline.yaml'}")
    except PipelineError as error:
        yield Check("configuration", False, error.message, error.hint)
        return
    publishing = (_own_registry, _registry, _credentials) if config.defines_images or config.itest.bake == "registry" else ()
    for check in (_git, _images, _buildx, _engine, *publishing, _ca, _bootstrap):
        try:
            yield from check(config)
        except PipelineError as error:
            yield Check(check.__name__.strip("_"), False, error.message, error.hint)


def _git(config: Config) -> Iterator[Check]:
    from pipeline.adapters.git_repository import read_git
    from pipeline.revision import name_revision

    yield Check("git", True, str(name_revision(read_git(config.root, []), os.environ)))


def _images(config: Config) -> Iterator[Check]:
    from pipeline.images.hierarchy import read_hierarchy

    found = (
        f"{len(read_hierarchy(config).definitions)} image definitions, all valid" if config.defines_images else "none; only tests are run"
    )
    yield Check("images", True, found)


def _buildx(_config: Config) -> Iterator[Check]:
    from pipeline.adapters.buildx import read_version

    fix = "Install docker-cli and docker-buildx (Debian 13, Ubuntu 24.04), or Docker's own packages."
    version = read_version()
    yield Check("buildx", bool(version), version or "docker with buildx is not installed", fix)


def _engine(_config: Config) -> Iterator[Check]:
    from pipeline.adapters.docker_context import engine_endpoint
    from pipeline.adapters.docker_images import DockerImages

    endpoint = engine_endpoint()
    info = DockerImages(endpoint).info()
    yield Check("engine", True, f"Docker {info.version} at {endpoint.host}, {info.storage}")
    memory = info.memory / 1e9
    yield Check("memory", memory >= MEMORY, f"{memory:.1f} GB", f"The engine needs at least {MEMORY} GB.")
    if endpoint.is_unix and Path(info.data_folder).is_dir():
        free = shutil.disk_usage(info.data_folder).free / 1e9
        yield Check(
            "disk",
            free >= DISK,
            f"{free:.0f} GB free in {info.data_folder}",
            f"Free at least {DISK} GB: docker system df, docker system prune",
        )
    else:
        yield Check("disk", True, "not looked at: the engine is on another machine", needed=False)


def _own_registry(config: Config) -> Iterator[Check]:
    """That of `invoke registry.start`, where it is the one that is pushed to."""
    from pipeline.adapters.docker_engine import DockerEngine
    from pipeline.registry_server import registry_status

    server = config.registry_server
    if config.registry.partition("/")[0] == f"{server.address}:{server.port}":
        status = registry_status(DockerEngine(), server)
        yield Check("own registry", status.state == "running", f"{status.address}: {status.state}", "invoke registry.start", needed=False)


def _registry(config: Config) -> Iterator[Check]:
    from pipeline.adapters.registry import Registry

    host, _, prefix = config.registry.partition("/")
    Registry(host).check_writable("/".join(part for part in (prefix, config.namespace, "doctor") if part))
    yield Check("registry", True, f"{config.registry} answers and can be written to")


def _credentials(config: Config) -> Iterator[Check]:
    from pipeline.adapters.credentials import read_credentials

    host = config.registry.partition("/")[0]
    found = read_credentials(host)
    what = f"Docker's configuration has a login for {host}" if found else f"Docker's configuration has no login for {host}"
    yield Check("credentials", found is not None, what, f"Needed only if the registry asks for it: docker login {host}", needed=False)


def _ca(_config: Config) -> Iterator[Check]:
    from pipeline.tasks.workshop import ca_bundle

    path = ca_bundle()
    yield Check(
        "CA bundle",
        path.is_file(),
        f"{path}",
        "Needed only behind a proxy with a CA of its own: apt-get install ca-certificates",
        needed=False,
    )


def _bootstrap(config: Config) -> Iterator[Check]:
    from pipeline.adapters.mmdebstrap import machine_distribution
    from pipeline.images.bases import read_bases
    from pipeline.images.hierarchy import read_hierarchy

    bases = read_bases(config.root)
    for definition in read_hierarchy(config) if config.defines_images else ():
        base = bases.found.get(definition.base)
        if definition.bootstrap and (base is None or base.kind == "bootstrap"):
            installed = shutil.which("mmdebstrap") is not None
            distribution = machine_distribution()
            what = f"for {definition.name}: mmdebstrap {'is' if installed else 'is not'} installed on {distribution or 'this machine'}"
            yield Check("bootstrap", installed, what, "apt-get install mmdebstrap", needed=base is not None)
