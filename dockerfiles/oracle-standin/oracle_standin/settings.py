"""What the container's environment asks for, read once, at the first start; and what is remembered of it."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

ALWAYS_SERVED = ("FREEPDB1", "FREE")
DEFAULT_SIDS = ("FREE",)

_NAME = re.compile(r"[A-Za-z][\w$#]{0,127}$")
_SERVICE = re.compile(r"[A-Za-z][\w$#.-]{0,127}$")
_TRUE = ("1", "y", "yes", "true", "on")
_RESERVED_USERS = ("SYS", "SYSTEM", "PUBLIC")


class SettingsError(Exception):
    """The environment does not say what is needed, or says it twice. The message says what to set."""


@dataclass(frozen=True)
class Settings:
    """A first start's orders. Its repr keeps the passwords to itself."""

    system_password: str
    password_is_random: bool
    app_user: str | None
    app_password: str | None
    services: tuple[str, ...]
    postgresql: bool

    def __repr__(self) -> str:
        return f"Settings(app_user={self.app_user!r}, services={self.services!r}, postgresql={self.postgresql})"


@dataclass(frozen=True)
class State:
    """What later starts need to know of the first one. It holds no secret."""

    complete: bool
    app_user: str | None
    services: tuple[str, ...]
    postgresql: bool

    @property
    def sids(self) -> tuple[str, ...]:
        """XE's instance is called XE: who asks for its pluggable database or for it gets the identifier, too."""
        return (*DEFAULT_SIDS, "XE") if {"XE", "XEPDB1"} & set(self.services) else DEFAULT_SIDS

    @classmethod
    def read(cls, path: Path) -> State | None:
        try:
            kept = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        return cls(kept["complete"], kept["app_user"], tuple(kept["services"]), kept["postgresql"])

    def write(self, path: Path) -> None:
        """Whole or not at all: a reader never meets half of it."""
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(path)


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The environment's orders, checked. Raises SettingsError."""
    password = _value(environment, "ORACLE_PASSWORD")
    is_random = bool(environment.get("ORACLE_RANDOM_PASSWORD"))
    if password and is_random:
        raise SettingsError("Both ORACLE_PASSWORD and ORACLE_RANDOM_PASSWORD are set: set only one of them.")
    if not password and not is_random:
        raise SettingsError(
            "No password for SYSTEM: set ORACLE_PASSWORD, or ORACLE_PASSWORD_FILE to a file that holds it, "
            "or ORACLE_RANDOM_PASSWORD=yes to have one made and printed."
        )
    app_user, app_password = _value(environment, "APP_USER"), _value(environment, "APP_USER_PASSWORD")
    if app_user and not app_password:
        raise SettingsError("APP_USER is set without APP_USER_PASSWORD or APP_USER_PASSWORD_FILE: set both or neither.")
    if app_password and not app_user:
        raise SettingsError("APP_USER_PASSWORD is set without APP_USER: set both or neither.")
    if app_user and (not _NAME.match(app_user) or app_user.upper() in _RESERVED_USERS):
        raise SettingsError(f"APP_USER={app_user!r} cannot be a user's name: a letter, then letters, digits, _ $ #.")
    postgresql = environment.get("STANDIN_POSTGRESQL", "").lower() in _TRUE
    if postgresql and not app_user:
        raise SettingsError("STANDIN_POSTGRESQL is set without APP_USER: it opens PostgreSQL to that user.")
    return Settings(
        system_password=_checked(password or secrets.token_urlsafe(12), "ORACLE_PASSWORD"),
        password_is_random=is_random,
        app_user=app_user,
        app_password=_checked(app_password, "APP_USER_PASSWORD") if app_password else None,
        services=(*ALWAYS_SERVED, *_extra_services(_value(environment, "ORACLE_DATABASE") or "")),
        postgresql=postgresql,
    )


def script_environment(settings: Settings) -> dict[str, str]:
    """What a first start's shell scripts find in their environment, as with the vendor's image."""
    environment = dict(os.environ) | {"ORACLE_PASSWORD": settings.system_password}
    if settings.app_user and settings.app_password:
        environment |= {"APP_USER": settings.app_user, "APP_USER_PASSWORD": settings.app_password}
    if extra := settings.services[len(ALWAYS_SERVED) :]:
        environment["ORACLE_DATABASE"] = ",".join(extra)
    return environment


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for the processes of the database, which need no password from it."""
    return {name: value for name, value in environment.items() if "PASSWORD" not in name}


def _value(environment: Mapping[str, str], name: str) -> str | None:
    """A variable, or what is in the file that its ..._FILE form names, without the newlines at the end."""
    value, file = environment.get(name), environment.get(f"{name}_FILE")
    if value and file:
        raise SettingsError(f"Both {name} and {name}_FILE are set: set only one of them.")
    if file:
        try:
            value = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise SettingsError(f"{name}_FILE names {file}, which cannot be read: {reason}.") from error
        if not value:
            raise SettingsError(f"{name}_FILE names {file}, which is empty.")
    return value or None


def _checked(password: str, name: str) -> str:
    if '"' in password or any(ord(character) < 32 for character in password):
        raise SettingsError(f"{name} holds a double quote or a control character, which Oracle does not allow.")
    return password


def _extra_services(given: str) -> tuple[str, ...]:
    names: list[str] = []
    for name in filter(None, (part.strip().upper() for part in given.split(","))):
        if not _SERVICE.match(name):
            raise SettingsError(f"ORACLE_DATABASE={given!r}: {name!r} cannot be a service's name.")
        if name not in names and name not in ALWAYS_SERVED:
            names.append(name)
    return tuple(names)
