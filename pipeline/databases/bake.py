"""Baked databases: what a prepared database is known by, and what must hold before it may become an image.

A baked image is the database after its preparation, stopped cleanly. Its name is a fingerprint of everything that made it so,
so an image that is there under the name of today's inputs is what preparing again would give. It holds no password that opens
anything: every account's was replaced before it was made, by one that nobody kept, and is replaced again at each start.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

from pipeline.config import Step
from pipeline.databases.contract import Contract, DatabaseKind
from pipeline.databases.engine import Password
from pipeline.databases.prepare import Program, Script
from pipeline.errors import ConfigurationError
from pipeline.reference import Reference, parse_reference

FOLDER = "databases"  # below the namespace; what is baked of an image NAME lies in FOLDER/NAME
RULES = "2"  # of the fingerprint and of how an image is baked; another number makes every baked image of before a stranger

FINGERPRINT = "pipeline.fingerprint"  # the labels of a baked image
PROJECT = "pipeline.project"
INPUTS = "pipeline.database.inputs"
ACCOUNTS = "pipeline.database.accounts"
"""Who can log in beside the application's user and the administrators, as a list in JSON: a name may have blanks."""

START_SCRIPT = "000-pipeline-passwords.sql"  # in the contract's folder of scripts that run at each start


Rows = Callable[[str], Sequence[tuple[Any, ...]]]  # of a query


@runtime_checkable
class RotatingEngine(Protocol):
    """A kind of database whose accounts and passwords can be told and changed. One that cannot is not baked."""

    def other_accounts(self, rows: Rows, user: str) -> set[str]:
        """Who can log in beside the administrators and the application's `user`, whoever made them: image, preparation or database.

        `rows` runs a query as the administrator, and raises StatementError.
        """

    def password_script(self, service: str, user: str, passwords: Mapping[str, Password]) -> str:
        """A script for the image's own SQL program that gives these accounts these passwords, and stops at the first error.

        `passwords` is account → password: the administrator and whoever shares that password, the application's `user` as the
        configuration writes it, and others as `other_accounts` names them. The user's comes last: who can log in as the user is
        taken to find all the others done.
        """


@dataclass(frozen=True)
class Fingerprint:
    """What a prepared database is made of: one value, and what went into it, for people."""

    value: str
    inputs: Mapping[str, str]

    def differences(self, other: Mapping[str, str]) -> list[str]:
        """The names of the inputs that are not what they were in `other`."""
        return sorted(name for name in {*self.inputs, *other} if self.inputs.get(name) != other.get(name))


@dataclass(frozen=True)
class Baked:
    """A baked image that an engine has."""

    reference: str
    accounts: tuple[str, ...] = ()


def make_fingerprint(
    kind: DatabaseKind,
    image_id: str,
    service: str,
    user: str,
    steps: Sequence[Script | Program],
    reads: Sequence[str],
    mounts: Sequence[tuple[str, str]] = (),
) -> Fingerprint:
    """The fingerprint of the database that `steps` prepare in a container of the image `image_id`.

    `reads`: of each program among the steps, in order, the digest of what it reads. A script counts by its statements and by who runs them: its
    name and its comments do not matter.
    """
    files = dict.fromkeys((kind.administrator, user), "-")
    inputs = {
        "rules": RULES,
        "image": image_id,
        "engine": kind.contract.engine,
        "contract": _digest(json.dumps(_content_of(kind.contract), sort_keys=True)),
        "service": service,
        "user": user,
        "environment": _digest(json.dumps(kind.environment(user, service, files), sort_keys=True)),
    }
    for source, path in mounts:
        inputs[f"mount {path}"] = _list_files(Path(source))
    of_programs = iter(reads)
    for number, step in enumerate(steps, 1):
        if isinstance(step, Script):
            inputs[f"step {number}"] = _digest("script", step.user, *(statement.text for statement in step.statements))
        else:
            inputs[f"step {number}"] = _digest("program", next(of_programs), *step.command)
    return Fingerprint(_digest(json.dumps(inputs, sort_keys=True)), inputs)


_MAKING = ("environment", "files", "password_files", "scripts", "data", "service", "port")


def _content_of(contract: Contract) -> dict[str, object]:
    """What of a contract makes a database what it is. Left out: what it is called, how long it is waited for, how much memory it gets,
    and by what it is told that it has started or stopped well."""
    import msgspec

    content = msgspec.to_builtins(contract)
    return {**{key: content[key] for key in _MAKING}, "bake.run": contract.bake.run if contract.bake else ()}


def _list_files(source: Path) -> str:
    """What lies at `source` by names, sizes and times: there may be gigabytes of it, and this is asked at each start."""
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    states = [(path.relative_to(source).as_posix(), path.stat()) for path in files]
    return _digest(*(f"{name}:{state.st_size}:{state.st_mtime_ns}" for name, state in states))


def read_programs(root: Path, steps: Sequence[Step]) -> tuple[str, ...] | str:
    """Of each program among the steps, the digest of what it reads; or why that cannot be told."""
    found = []
    for number, step in enumerate(steps):
        if not step.run:
            continue
        if step.reads is None:
            return f"`itest.prepare[{number}]` does not say what '{step.run[0]}' reads: add `reads:` with globs, or [] for nothing"
        named = {root / argument for argument in step.run if (root / argument).is_file()}  # a script of the project that it runs
        try:
            paths = {path for glob in step.reads for path in root.glob(glob) if path.is_file()}
        except (ValueError, NotImplementedError) as error:
            raise ConfigurationError(f"'itest.prepare[{number}].reads': {error}", "Globs are relative to pipeline.yaml.") from None
        paths |= {path for path in named if path.is_relative_to(root)}
        found.append(_digest(*(part for path in sorted(paths) for part in (path.relative_to(root).as_posix(), _content(path)))))
    return tuple(found)


def baked_reference(registry: str, namespace: str, image: str, tag: str) -> Reference:
    """The name of what is baked of `image`. `registry`: HOST[:PORT][/PREFIX]."""
    host, path = baked_folder(registry, namespace)
    name = parse_reference(image).repository.rpartition("/")[2]
    return Reference(host, f"{path}/{name}", tag)


def baked_folder(registry: str, namespace: str) -> tuple[str, str]:
    """The registry's host, and the path below which all baked images of a namespace lie."""
    host, _, prefix = registry.partition("/")
    return host, "/".join(part for part in (prefix, namespace, FOLDER) if part)


def labels_of(fingerprint: Fingerprint, project: str, accounts: Sequence[str]) -> dict[str, str]:
    """What a baked image says of itself. No session, no password."""
    return {
        PROJECT: project,
        FINGERPRINT: fingerprint.value,
        INPUTS: json.dumps(fingerprint.inputs, sort_keys=True),
        ACCOUNTS: json.dumps(list(accounts)),
    }


def read_baked(reference: str, labels: Mapping[str, str], fingerprint: Fingerprint) -> Baked | None:
    """The baked image of that name, if it is what its name says."""
    if labels.get(FINGERPRINT) != fingerprint.value:
        return None
    return Baked(reference, tuple(json.loads(labels.get(ACCOUNTS) or "[]")))


def why_not(kind: DatabaseKind, volumes: Sequence[str], reads: Sequence[str] = (), mounts: Sequence[tuple[str, str]] = ()) -> str:
    """Why a database of this kind, in an image that declares `volumes`, cannot be baked; empty where it can."""
    contract = kind.contract
    if not isinstance(kind.engine, RotatingEngine):
        return f"the engine '{contract.engine}' cannot replace passwords"
    if contract.bake is None or not contract.scripts.start:
        return f"images of the contract '{contract.name}' run no script at each start that could replace the passwords"
    unknown = [source for source, _ in mounts if not source.startswith("/")]
    if unknown:
        return f"what is in the volume {unknown[0]} is not known: mount a folder for that"
    held = [volume for volume in volumes if PurePosixPath(contract.data).is_relative_to(volume)]
    if held:
        return f"the image keeps its data in the volume {held[0]}, of which an image holds nothing"
    return reads if isinstance(reads, str) else ""


def unclean(kind: DatabaseKind, exit_code: int, out_of_memory: bool, log: bytes) -> str:
    """Why a stopped database must not become an image; empty where it may. `log` is all that the container wrote."""
    contract = kind.contract
    if contract.bake is None:
        return why_not(kind, ())
    line = contract.ready_line.encode()
    ending = log[log.rfind(line) :]
    if line not in log:
        return f"its initialisation did not come to its end: it never said '{contract.ready_line}'"
    if out_of_memory:
        return "the kernel killed something in it for want of memory (raise `itest.memory`)"
    if exit_code not in contract.bake.exit_codes:
        return f"it was not shut down cleanly: it ended with exit code {exit_code}"
    if not any(line.encode() in ending for line in contract.bake.stopped):
        said = " or ".join(f"'{line}'" for line in contract.bake.stopped)
        return f"it was not shut down cleanly: it did not say {said}"
    return ""


def rotating(kind: DatabaseKind) -> RotatingEngine:
    """The engine, which can replace passwords. Raises ConfigurationError for one that cannot."""
    if not isinstance(kind.engine, RotatingEngine):
        raise ConfigurationError(why_not(kind, ()), "Set `itest.bake` to never.")
    return kind.engine


def left_behind(changed: Sequence[str], forbidden: Sequence[str]) -> list[str]:
    """Those of the `changed` paths that lie at or below a forbidden one."""
    return [path for path in changed if any(PurePosixPath(path).is_relative_to(other) for other in forbidden)]


def _content(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigurationError(f"{path.name}: it cannot be read: {error.strerror}", "It is among what a program reads.") from error


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()
