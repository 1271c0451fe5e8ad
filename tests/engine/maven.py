"""Maven as Debian packages it, offline: a local repository of its packages, which also answers to the versions a POM names."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

PACKAGES = Path("/usr/share/maven-repo")
POM = "{http://maven.apache.org/POM/4.0.0}"
ALIASES = (("org.codehaus.plexus", "plexus-utils", "1.1"),)  # what Maven's core asks for by itself
MISSING = "Install what setup/engine.sh lists for the tests: ./invokew test does, where it may"

# Of a POM that makes a WAR, in the versions that Debian's packages are asked for in place of Maven's defaults.
WAR_PLUGINS = """
      <plugin><artifactId>maven-compiler-plugin</artifactId><version>3.10.1</version></plugin>
      <plugin><artifactId>maven-surefire-plugin</artifactId><version>2.22.3</version></plugin>
      <plugin>
        <artifactId>maven-war-plugin</artifactId><version>3.3.2</version>
        <configuration><failOnMissingWebXml>false</failOnMissingWebXml></configuration>
      </plugin>
"""


class Maven:
    """Runs `mvn` in a folder, with a repository of the test's own."""

    def __init__(self, repository: Path) -> None:
        assert shutil.which("mvn"), f"there is no mvn. {MISSING}"
        self._repository = repository
        shutil.copytree(
            PACKAGES, repository, symlinks=False, copy_function=lambda source, target: os.symlink(Path(source).resolve(), target)
        )

    def command(self, *arguments: str) -> list[str]:
        return ["mvn", "--batch-mode", "--offline", f"-Dmaven.repo.local={self._repository}", *arguments]

    def run(self, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`mvn ARGUMENTS`, whatever its exit code; standard output is what Maven and all it calls have said."""
        self.provide(folder)
        return subprocess.run(
            self.command(*arguments),
            cwd=folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def provide(self, folder: Path) -> None:
        """Let Debian's version of each artifact that a POM below `folder` names be found under the version named there."""
        for group, artifact, version in [*ALIASES, *(item for pom in folder.rglob("pom.xml") for item in _named(pom))]:
            place = self._repository / group.replace(".", "/") / artifact
            if (place / version).exists():
                continue
            versions = [path for path in place.glob("[0-9]*") if path.is_dir()]
            assert versions, f"Debian's packages have no {group}:{artifact}. {MISSING}"
            given = max(versions, key=lambda path: [int(part) if part.isdigit() else 0 for part in path.name.split(".")])
            (place / version).mkdir()
            for file in given.iterdir():
                alias = place / version / file.name.replace(given.name, version)
                if file.suffix == ".pom":
                    alias.write_text(file.read_text().replace(f"<version>{given.name}</version>", f"<version>{version}</version>", 1))
                else:
                    alias.symlink_to(file.resolve())


def _named(pom: Path) -> Iterator[tuple[str, str, str]]:
    """Group, artifact and version of each dependency and plugin that is written with a version."""
    for element in ElementTree.parse(pom).iter():
        if element.tag in (f"{POM}dependency", f"{POM}plugin"):
            group = element.findtext(f"{POM}groupId") or "org.apache.maven.plugins"
            artifact, version = element.findtext(f"{POM}artifactId"), element.findtext(f"{POM}version")
            if artifact and version and "$" not in version and group != "example":
                yield group, artifact, version
