"""What a repository's POMs say: which WARs are made, where, and which database driver they use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from pipeline.errors import ConfigurationError

POM = "pom.xml"
DRIVERS = {"ojdbc": "oracle", "postgresql": "postgres"}  # how an artifact's id begins → the database engine


@dataclass(frozen=True)
class War:
    """A module that makes a WAR. `folder`: relative to the repository, `.` for its top; `file`: below `folder`, with `*` for what
    only Maven knows, such as the version."""

    folder: str
    name: str
    file: str


@dataclass(frozen=True)
class Maven:
    """All that was found. `engine`: of the one database driver among the dependencies; empty where there is none, or several.

    `fixed_times`: whether two builds of a commit make the same bytes.
    """

    group: str
    artifact: str
    wars: tuple[War, ...]
    engine: str
    fixed_times: bool


def read_maven(root: Path) -> Maven | None:
    """None where there is no pom.xml. Raises ConfigurationError for one that cannot be read."""
    if not (root / POM).is_file():
        return None
    modules = list(_read_modules(root))
    top = modules[0]
    engines = {engine for module in modules for engine in module.engines()}
    return Maven(
        group=top.value("groupId") or top.value("parent/groupId"),
        artifact=top.value("artifactId"),
        wars=tuple(
            War(module.folder, module.value("artifactId"), module.war()) for module in modules if module.value("packaging") == "war"
        ),
        engine=engines.pop() if len(engines) == 1 else "",
        fixed_times=any("project.build.outputTimestamp" in module.properties() for module in modules),
    )


class _Module:
    """One POM, with those above it that are in the repository. `pom`: its file, relative to the repository."""

    def __init__(self, root: Path, pom: str, above: _Module | None) -> None:
        self.folder = Path(pom).parent.as_posix()
        self._above = above
        path = root / pom
        try:
            self._pom = ElementTree.fromstring(path.read_bytes())  # noqa: S314 - the team's own file
        except (OSError, ElementTree.ParseError) as error:
            raise ConfigurationError(f"{path.relative_to(root)}: cannot be read: {error}", "It must be a POM that Maven reads.") from None
        for element in self._pom.iter():
            if isinstance(element.tag, str):
                element.tag = element.tag.rpartition("}")[2]

    def value(self, path: str) -> str:
        return (self._pom.findtext(path) or "").strip()

    def submodules(self) -> list[str]:
        return [(found.text or "").strip() for found in self._pom.iterfind("modules/module")]

    def properties(self) -> Mapping[str, str]:
        own = {found.tag: (found.text or "").strip() for found in self._pom.iterfind("properties/*")}
        return {**(self._above.properties() if self._above else {}), **own}

    def engines(self) -> Iterator[str]:
        for found in self._pom.iterfind("dependencies/dependency/artifactId"):
            yield from (engine for begin, engine in DRIVERS.items() if (found.text or "").strip().startswith(begin))

    def war(self) -> str:
        return f"target/{self._resolved(self._final_name() or '${project.artifactId}-${project.version}')}.war"

    def _final_name(self) -> str:
        return self.value("build/finalName") or (self._above._final_name() if self._above else "")

    def _resolved(self, text: str) -> str:
        """A version changes with each release, and what is no property of these POMs comes from elsewhere: `*` for both."""
        known = {**self.properties(), "project.artifactId": self.value("artifactId"), "artifactId": self.value("artifactId")}

        def replace(found: re.Match[str]) -> str:
            changes = re.search("version|revision|timestamp|number", found[1], re.IGNORECASE)
            return "*" if changes or found[1] not in known or "${" in known[found[1]] else known[found[1]]

        text = re.sub(r"\$\{([^}]*)\}", replace, text)
        version = self.value("version") or self.value("parent/version")
        return text.replace(version, "*") if version and "${" not in version else text


def _read_modules(root: Path, pom: str = POM, above: _Module | None = None, known: frozenset[str] = frozenset()) -> Iterator[_Module]:
    """A POM's and those of its modules, which it names by their folders or files."""
    module, known = _Module(root, pom, above), known | {pom}
    yield module
    for name in module.submodules():
        place = Path(module.folder) / name
        below = (place if (root / place).is_file() else place / POM).as_posix()
        if ".." not in Path(below).parts and below not in known:
            yield from _read_modules(root, below, module, known)
