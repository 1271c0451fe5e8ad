"""What a test database needs of a container engine: of a container looked at closely, and of the engine itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from pipeline import sessions
from pipeline.integration.room import Room
from pipeline.sessions import Labelled


class Inspected(Labelled, Protocol):
    """A container, looked at closely."""

    @property
    def exit_code(self) -> int: ...

    @property
    def out_of_memory(self) -> bool: ...

    @property
    def error(self) -> str: ...

    @property
    def ports(self) -> Mapping[int, int]: ...


class ContainerEngine(sessions.Engine, Protocol):
    """What a database needs of a container engine. Every method may raise EngineError."""

    @property
    def name(self) -> str: ...

    @property
    def host(self) -> str: ...

    @property
    def is_local(self) -> bool: ...

    def room(self) -> Room: ...

    def find_image(self, reference: str) -> object | None: ...

    def pull_image(self, reference: str) -> None: ...

    def create_container(
        self,
        *,
        name: str,
        image: str,
        labels: Mapping[str, str],
        environment: Mapping[str, str],
        publish: int,
        bind: str,
        memory: str,
        shm: str,
        processes: int,
        launcher: Sequence[str],
        auto_remove: bool,
        mounts: Sequence[tuple[str, str]],
    ) -> str | None: ...

    def write_files(self, container: str, folder: str, files: Mapping[str, bytes]) -> None: ...

    def read_file(self, container: str, path: str) -> bytes | None: ...

    def start_container(self, container: str) -> None: ...

    def find_container(self, container: str) -> Inspected | None: ...

    def rename_container(self, container: str, name: str) -> bool: ...

    def follow_log(self, container: str) -> Iterable[bytes]: ...

    def read_log(self, container: str, lines: int = 0, since: float = 0.0) -> bytes: ...
