"""What is found out from POMs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigurationError
from pipeline.scaffold.maven import War, read_maven

ROOT = Path(__file__).resolve().parent.parent.parent.parent


def pom(artifact: str, body: str = "", packaging: str = "war", head: str = "<version>1.0</version>") -> str:
    return (
        f'<project xmlns="http://maven.apache.org/POM/4.0.0"><groupId>example</groupId><artifactId>{artifact}</artifactId>{head}'
        f"<packaging>{packaging}</packaging>{body}</project>"
    )


def write(root: Path, **poms: str) -> None:
    for place, text in poms.items():
        folder = root / place.replace("__", "/") if place != "top" else root
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pom.xml").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("body", "file"),
    [
        ("", "target/ledger-*.war"),
        ("<build><finalName>books</finalName></build>", "target/books.war"),
        ("<build><finalName>${project.artifactId}</finalName></build>", "target/ledger.war"),
        ("<build><finalName>${project.artifactId}-${revision}</finalName></build>", "target/ledger-*.war"),
        ("<properties><short>led</short></properties><build><finalName>${short}</finalName></build>", "target/led.war"),
        ("<properties><short>${other}</short></properties><build><finalName>${short}</finalName></build>", "target/*.war"),
        ("<properties><my.version>7</my.version></properties><build><finalName>a-${my.version}</finalName></build>", "target/a-*.war"),
        ("<build><finalName>ledger-1.0</finalName></build>", "target/ledger-*.war"),
        ("<build><finalName>${from.elsewhere}-app</finalName></build>", "target/*-app.war"),
    ],
)
def test_the_name_of_the_war(tmp_path: Path, body: str, file: str) -> None:
    write(tmp_path, top=pom("ledger", body))
    found = read_maven(tmp_path)
    assert found is not None
    assert found.wars == (War(".", "ledger", file),)


def test_the_modules_of_several_levels(tmp_path: Path) -> None:
    def modules(*names: str) -> str:
        return "<modules>" + "".join(f"<module>{name}</module>" for name in names) + "</modules>"

    inherited = "<parent><groupId>example</groupId><artifactId>all</artifactId><version>2.1</version></parent>"
    write(
        tmp_path,
        top=pom(
            "all", modules("core", "apps/pom.xml", "../elsewhere") + "<build><finalName>${project.artifactId}</finalName></build>", "pom"
        ),
        core=pom("core", "", "jar"),
        apps=pom("apps", modules("web", "admin") + "<properties><x>1</x></properties>", "pom"),
        apps__web=pom("web", "<build><finalName>web-2.1</finalName></build>", head=inherited),
        apps__admin=pom("admin", head=inherited),
    )
    found = read_maven(tmp_path)
    assert found is not None
    assert found.wars == (War("apps/web", "web", "target/web-*.war"), War("apps/admin", "admin", "target/admin.war"))
    assert (found.group, found.artifact, found.engine) == ("example", "all", "")


@pytest.mark.parametrize(
    ("drivers", "engine"),
    [
        ((), ""),
        (("ojdbc11",), "oracle"),
        (("postgresql",), "postgres"),
        (("ojdbc8", "postgresql"), ""),
        (("postgresql-tools", "gson"), "postgres"),
    ],
)
def test_the_database(tmp_path: Path, drivers: tuple[str, ...], engine: str) -> None:
    listed = "".join(f"<dependency><artifactId>{name}</artifactId></dependency>" for name in drivers)
    write(tmp_path, top=pom("ledger", f"<dependencies>{listed}</dependencies>"))
    found = read_maven(tmp_path)
    assert found is not None
    assert found.engine == engine


def test_the_example_of_this_repository() -> None:
    found = read_maven(ROOT / "examples/accounting")
    assert found is not None
    assert found.wars == (War(".", "accounting", "target/accounting.war"),)
    assert found.engine == "postgres"
    assert found.fixed_times


def test_a_module_may_be_a_file_and_is_read_once(tmp_path: Path) -> None:
    write(tmp_path, top=pom("top", "<modules><module>web/other.xml</module><module>.</module></modules>", "pom"))
    (tmp_path / "web").mkdir()
    (tmp_path / "web/other.xml").write_text(pom("web", "<modules><module>../web/other.xml</module></modules>"))
    found = read_maven(tmp_path)
    assert found is not None
    assert found.wars == (War("web", "web", "target/web-*.war"),)


def test_no_pom_and_a_broken_one(tmp_path: Path) -> None:
    assert read_maven(tmp_path) is None
    write(tmp_path, top=pom("all", "<modules><module>gone</module></modules>", "pom"))
    with pytest.raises(ConfigurationError, match=r"gone/pom.xml: cannot be read"):
        read_maven(tmp_path)
    write(tmp_path, top="<project>")
    with pytest.raises(ConfigurationError, match=r"pom.xml: cannot be read"):
        read_maven(tmp_path)
