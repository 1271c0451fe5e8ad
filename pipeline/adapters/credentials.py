"""User and password for a registry, from Docker's own configuration and its credential helpers.

The helpers' protocol is docker-credential-helpers': `get` with the registry on standard input, JSON on standard output.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import subprocess
from typing import Any

import msgspec

from pipeline.adapters.docker_context import read_docker_config
from pipeline.errors import RegistryRefusedError
from pipeline.reference import DOCKER_HUB

_HUB_KEY = "https://index.docker.io/v1/"  # under this name docker login keeps Docker Hub's credentials
_TOKEN_USER = "<token>"  # what a helper answers as the user where the secret is an identity token  # noqa: S105


class Credentials(msgspec.Struct, frozen=True):
    """A user with a password, or an identity token; neither shows in `repr`."""

    user: str
    password: str = ""
    identity_token: str = ""

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r})"

    def basic(self) -> str:
        """The value of an HTTP Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def for_engine(self, registry: str) -> str:
        """The value of the engine's X-Registry-Auth header."""
        value = {"username": self.user, "password": self.password, "identitytoken": self.identity_token, "serveraddress": registry}
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def read_credentials(registry: str) -> Credentials | None:
    """The credentials `docker login` left for `registry` (HOST[:PORT]); None where there are none."""
    config = read_docker_config()
    key = _HUB_KEY if registry == DOCKER_HUB else registry
    helpers = config.get("credHelpers") or {}
    helper = helpers.get(key) or helpers.get(registry) or config.get("credsStore")
    if helper:
        return _ask_helper(str(helper), key, os.environ.get("PATH", ""))
    entry = next((value for name, value in (config.get("auths") or {}).items() if name == key or _host(name) == key), None)
    return _from_entry(entry) if isinstance(entry, dict) else None


def _from_entry(entry: dict[str, Any]) -> Credentials | None:
    token = str(entry.get("identitytoken") or "")
    if entry.get("auth"):
        try:
            user, _, password = base64.b64decode(str(entry["auth"])).decode().partition(":")
        except ValueError:
            return None
        return Credentials(user, password.rstrip("\0"), token) if user or token else None
    if entry.get("username"):
        return Credentials(str(entry["username"]), str(entry.get("password", "")), token)
    return Credentials("", "", token) if token else None


@functools.cache  # the engine is given credentials with each image, and a helper may take a second
def _ask_helper(helper: str, key: str, _path: str) -> Credentials | None:
    program = f"docker-credential-{helper}"
    try:
        result = subprocess.run([program, "get"], input=key, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RegistryRefusedError(
            f"Docker's credential helper {program} cannot be used: {error}", "Install it, or remove it from Docker's config.json."
        ) from error
    if result.returncode:
        if "credentials not found" in result.stdout + result.stderr:
            return None
        raise RegistryRefusedError(f"{program} failed: {(result.stdout or result.stderr).strip()}", f"Try: echo {key} | {program} get")
    try:
        answer = json.loads(result.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryRefusedError(f"{program} answered something that is no credential", "See docker-credential-helpers.") from error
    return Credentials("", "", secret) if user == _TOKEN_USER else Credentials(user, secret)


def _host(key: str) -> str:
    return key.partition("://")[2].partition("/")[0] if "://" in key else key
