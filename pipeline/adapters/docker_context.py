"""Which Docker Engine is meant: what the docker command itself would talk to, found without starting it.

Order of Docker's own client: DOCKER_HOST, then DOCKER_CONTEXT, then `currentContext` of its config.json, then the default
socket (docs.docker.com, "Docker contexts").
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec

from pipeline.errors import EngineError

DEFAULT_HOST = "unix:///var/run/docker.sock"


class Endpoint(msgspec.Struct, frozen=True):
    """Where an engine listens: `unix://PATH`, `tcp://HOST:PORT` or `ssh://USER@HOST`, with TLS material for tcp."""

    host: str
    context: str = "default"  # also the name of the buildx builder that builds on this engine
    tls_folder: Path | None = None  # holds ca.pem, cert.pem, key.pem as far as they exist
    tls_verify: bool = True

    @property
    def is_unix(self) -> bool:
        return self.host.startswith("unix://")


def docker_config_folder() -> Path:
    """Docker's own configuration folder: DOCKER_CONFIG or ~/.docker."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def read_docker_config() -> dict[str, Any]:
    """Docker's own config.json; empty where there is none."""
    path = docker_config_folder() / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise EngineError(f"Docker's configuration {path} cannot be read: {error}", "Correct or remove that file.") from error
    return found if isinstance(found, dict) else {}


def engine_endpoint() -> Endpoint:
    """The engine that Docker's own configuration names. Raises EngineError for a context that does not exist."""
    host = os.environ.get("DOCKER_HOST")
    if host:
        folder = os.environ.get("DOCKER_CERT_PATH") or docker_config_folder()  # as the docker command does
        verify = os.environ.get("DOCKER_TLS_VERIFY", "") not in ("", "0")
        return Endpoint(host, tls_folder=Path(folder) if verify else None)
    name = os.environ.get("DOCKER_CONTEXT") or str(read_docker_config().get("currentContext") or "default")
    if name == "default":
        return Endpoint(DEFAULT_HOST)
    key = hashlib.sha256(name.encode()).hexdigest()  # the docker command stores a context under this name
    contexts = docker_config_folder() / "contexts"
    try:
        meta = json.loads((contexts / "meta" / key / "meta.json").read_text(encoding="utf-8"))
        docker = meta["Endpoints"]["docker"]
        host = str(docker["Host"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"Docker's context '{name}' does not exist or cannot be read", "See: docker context ls") from error
    tls = contexts / "tls" / key / "docker"
    return Endpoint(host, name, tls if tls.is_dir() else None, not docker.get("SkipTLSVerify", False))
