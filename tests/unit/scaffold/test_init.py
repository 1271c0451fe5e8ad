"""invoke init in real folders: what it writes, what it leaves, and what a newer version of the toolkit then changes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from git import Repo
from invoke.context import Context
from invoke.exceptions import Exit

from pipeline.config import read_config
from pipeline.images.context import read_context
from pipeline.images.hierarchy import read_hierarchy
from pipeline.scaffold import files
from pipeline.scaffold.files import CI_FILES, bamboo_key, fit_ci, make_files
from pipeline.scaffold.repository import Answers, Application
from pipeline.tasks.init import init, running_toolkit
from tests.bamboo_specs import read_specs, task_kind
from tests.jenkinsfile import read_pipeline
from tests.unit.scaffold.test_maven import pom, write

ROOT = Path(__file__).resolve().parent.parent.parent.parent
TOLD = {"parent": "base-images/tomcat", "registry": "registry.example.com", "toolkit": "pipeline==0.1.0"}
FIXED = "<properties><project.build.outputTimestamp>2000-01-01T00:00:00Z</project.build.outputTimestamp></properties>"

POSTGRESQL = "<dependencies><dependency><groupId>org.postgresql</groupId><artifactId>postgresql</artifactId></dependency></dependencies>"


class Repository:
    """A Maven repository, and `invoke init` in it."""

    def __init__(self, root: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self._capture = capture

    def init(self, **options: str | bool) -> str:
        """What it prints; where it fails, the error."""
        try:
            init(Context(), **options)
        except Exit as error:
            return str(error.message)
        return self._capture.readouterr().out

    def text(self, path: str) -> str:
        return (self.root / path).read_text(encoding="utf-8")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8")

    def all(self) -> dict[str, str]:
        return {
            path.relative_to(self.root).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and ".git" not in path.parts
        }


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Repository:
    for name in ("PIPELINE_REGISTRY", "PIPELINE_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "ledger"
    with Repo.init(root, initial_branch="main") as made:
        made.create_remote("origin", "git@git.example.com:Finance/Ledger_App.git")
    write(root, top=pom("ledger", FIXED))
    monkeypatch.chdir(root)
    return Repository(root, capsys)


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """A newer version of the toolkit, in which `old` reads `new` in what it writes."""

    def make(old: str, new: str) -> None:
        before = files.read_shipped
        assert old in "".join(map(before, ["invokew", *CI_FILES]))
        monkeypatch.setattr(files, "read_shipped", lambda path: before(path).replace(old, new))

    return make


def test_what_it_writes_is_valid_and_little(repository: Repository) -> None:
    said = repository.init(**TOLD)
    written = repository.all().keys() - {"pom.xml"}
    assert written == {
        "pipeline.yaml", "image.yaml", "Dockerfile", "requirements-pipeline.txt", "tasks.py", "invokew", "Jenkinsfile",
        "bamboo-specs/bamboo.yaml", ".gitignore", ".dockerignore", ".pipeline-init.json",
    }  # fmt: skip
    assert f"{len(written) - 1} files written" in said
    assert "note:" not in said
    (definition,) = read_hierarchy(read_config(repository.root))
    assert str(definition.repository) == "registry.example.com/finance/ledger-app/ledger"
    assert "COPY target/ledger-*.war /opt/tomcat/webapps/ledger.war" in repository.text("Dockerfile")
    assert (repository.root / "invokew").stat().st_mode & 0o111 == 0o111
    ignored = {f"{name}x" if name.endswith("/") else name for name in (".venv/", ".venv.lock", ".pipeline/", "src/__pycache__/")}
    assert len(Repo(repository.root).ignored(*ignored)) == len(ignored)


def test_the_toolkits_own_postgresql_is_taken_with_all_that_it_can(repository: Repository) -> None:
    write(repository.root, top=pom("ledger", FIXED + POSTGRESQL))
    repository.init(**TOLD)
    itest = read_config(repository.root).itest
    assert (itest.engine, itest.contract, itest.image) == ("postgres", "postgres", "postgres")


@pytest.mark.parametrize("engine", ["oracle", "postgres"])
def test_the_team_owns_at_most_fifteen_lines(repository: Repository, engine: str) -> None:
    write(repository.root, top=pom("ledger", FIXED + (POSTGRESQL if engine == "postgres" else "")))
    repository.init(**TOLD)
    assert read_config(repository.root).itest.engine == engine
    record = json.loads(repository.text(".pipeline-init.json"))
    owned = {path for path, lines in record["files"].items() if lines is None}
    assert owned == {"pipeline.yaml", "image.yaml", "Dockerfile", "requirements-pipeline.txt"}
    count = {path: len(repository.text(path).splitlines()) for path in owned}
    assert count["pipeline.yaml"] + count["image.yaml"] <= 15
    assert sum(count.values()) <= 15, count  # the Dockerfile and the toolkit's version with them
    assert len(repository.text("tasks.py").split("\n\n")) == 3


def test_a_second_run_changes_nothing_and_asks_for_nothing(repository: Repository) -> None:
    repository.init(**TOLD)
    before = {path: (repository.root / path).stat().st_mtime_ns for path in repository.all()}
    for options in ({}, {"upgrade": True}, {"yes": True}, {**TOLD}):
        assert repository.init(**options) == "nothing was written\n"
    assert {path: (repository.root / path).stat().st_mtime_ns for path in repository.all()} == before


def test_what_the_team_edits_or_removes_stays(repository: Repository) -> None:
    repository.init(**TOLD)
    for path in ("pipeline.yaml", "image.yaml", "Dockerfile", "Jenkinsfile", "tasks.py", "requirements-pipeline.txt"):
        repository.write(path, repository.text(path) + "# ours\n")
    (repository.root / "bamboo-specs/bamboo.yaml").unlink()
    repository.write(".gitignore", "/target/\n/.venv/\n")
    before = repository.all()
    for options in ({}, {"yes": True}, {"upgrade": True, "yes": True}):
        assert "kept      bamboo-specs/bamboo.yaml: you removed it" in repository.init(**options)
    assert repository.all() == before


def test_what_was_there_before_is_shown_and_kept_unless_confirmed(repository: Repository) -> None:
    theirs = {"Jenkinsfile": "node { sh 'make' }\n", ".gitignore": "/target/", "Dockerfile": "FROM tomcat:10\n", "tasks.py": "import os\n"}
    for path, text in theirs.items():
        repository.write(path, text)
    said = repository.init(**TOLD)
    for path in ("Jenkinsfile", "tasks.py"):
        assert f"kept      {path}: it was there before; --yes writes it as shown" in said
        assert f"--- a/{path}\n+++ b/{path}\n" in said
        assert repository.text(path) == theirs[path]
    assert "-node { sh 'make' }\n" in said
    assert repository.text("Dockerfile") == theirs["Dockerfile"]
    assert "note: Dockerfile has to take its base from image.yaml" in said
    assert repository.text(".gitignore") == "/target/\n/.venv/\n/.venv.lock\n.pipeline/\n__pycache__/\n"
    assert "+/.venv.lock\n" in said
    repository.init(yes=True)
    assert repository.text("tasks.py") == files.TASKS
    assert repository.text("Dockerfile") == theirs["Dockerfile"]
    assert repository.init() == said[said.index("note:") :].join(["nothing was written\n", ""])


def test_a_person_at_a_terminal_is_asked(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.write("Jenkinsfile", "theirs\n")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for answer, after in (("", "theirs\n"), ("n", "theirs\n"), ("y", files.read_shipped("Jenkinsfile")[:20])):
        monkeypatch.setattr("builtins.input", lambda _question, answer=answer: answer)
        repository.init(**TOLD)
        assert repository.text("Jenkinsfile").startswith(after)


def test_an_upgrade_replaces_what_nobody_edited(repository: Repository, newer: Callable[[str, str], None]) -> None:
    repository.init(**TOLD)
    before = repository.text("invokew")
    newer("# what mvnw is to Maven", "# what gradlew is to Gradle")
    assert "kept      invokew: this version of the toolkit writes another one: invoke init --upgrade" in repository.init()
    assert repository.text("invokew") == before
    said = repository.init(upgrade=True)
    assert "-# what mvnw is to Maven" in said
    assert "+# what gradlew is to Gradle" in said
    assert "changed   invokew: a newer version, and you had not edited it" in said
    assert "gradlew" in repository.text("invokew")
    assert (repository.root / "invokew").stat().st_mode & 0o100
    assert repository.init(upgrade=True) == "nothing was written\n"


def test_an_upgrade_puts_both_sides_changes_together(repository: Repository, newer: Callable[[str, str], None]) -> None:
    repository.init(**TOLD)
    repository.write("bamboo-specs/bamboo.yaml", repository.text("bamboo-specs/bamboo.yaml").replace("  key: LEDGERAPP", "  key: OURS"))
    newer("after-deleted-days: 7", "after-deleted-days: 14")
    said = repository.init(upgrade=True)
    assert "kept      bamboo-specs/bamboo.yaml: your changes and those of this version go together; --yes writes it as shown" in said
    assert "after-deleted-days: 14" not in repository.text("bamboo-specs/bamboo.yaml")
    repository.init(upgrade=True, yes=True)
    merged = repository.text("bamboo-specs/bamboo.yaml")
    assert "key: OURS" in merged
    assert "after-deleted-days: 14" in merged
    assert repository.init(upgrade=True) == "nothing was written\n"
    newer("after-deleted-days: 14", "after-deleted-days: 21")  # and again: what was written last is known
    repository.init(upgrade=True, yes=True)
    assert repository.text("bamboo-specs/bamboo.yaml") == merged.replace("14", "21")


def test_changes_that_contradict_each_other_are_both_shown_and_nothing_is_lost(
    repository: Repository, newer: Callable[[str, str], None]
) -> None:
    repository.init(**TOLD)
    ours = repository.text("bamboo-specs/bamboo.yaml").replace("after-deleted-days: 7", "after-deleted-days: 30")
    repository.write("bamboo-specs/bamboo.yaml", ours)
    newer("after-deleted-days: 7", "after-deleted-days: 14")
    said = repository.init(upgrade=True)
    assert "+++ bamboo-specs/bamboo.yaml (yours)" in said
    assert "+++ bamboo-specs/bamboo.yaml (this version)" in said
    assert "+  delete: {after-deleted-days: 14}" in said
    assert repository.init(upgrade=True) == said  # until somebody says that it was seen
    assert "noted, and not shown again" in repository.init(upgrade=True, yes=True)
    assert repository.init(upgrade=True) == "nothing was written\n"
    assert repository.text("bamboo-specs/bamboo.yaml") == ours


def test_the_toolkits_version_changes_where_it_is_asked_for(repository: Repository) -> None:
    repository.init(**TOLD)
    repository.write("requirements-pipeline.txt", repository.text("requirements-pipeline.txt") + "team-settings==3\n")
    assert "+pipeline==0.2.0" in repository.init(toolkit="pipeline==0.2.0")
    assert "pipeline==0.1.0" in repository.text("requirements-pipeline.txt")
    repository.init(toolkit="pipeline==0.2.0", yes=True)
    assert repository.text("requirements-pipeline.txt").splitlines() == ["pipeline==0.2.0", "team-settings==3"]
    assert repository.init(toolkit="pipeline==0.2.0", yes=True) == "nothing was written\n"


@pytest.mark.parametrize(
    "old",
    ["pipeline==0.1.0", "./tools/pipeline-0.1.0-py3-none-any.whl", "pipeline @ git+https://x/y.git@1", "pipeline", "pipeline[pytest]>=1"],
)
def test_the_line_of_the_toolkit_is_known(old: str) -> None:
    assert files.replace_toolkit(f"# note\npipeline-settings==1\n{old}\nother\n", "NEW") == "# note\npipeline-settings==1\nNEW\nother\n"
    assert files.replace_toolkit("other\n", "NEW") == "other\nNEW\n"


@pytest.mark.parametrize(
    ("missing", "message", "hint"),
    [
        ("parent", "nothing says what the image of", "--parent base-images/tomcat"),
        ("registry", "nothing says where the images are pushed", "--registry HOST"),
        ("toolkit", "installed from a file or folder of this machine", "--toolkit REQUIREMENT"),
    ],
)
def test_what_cannot_be_found_out_is_asked_for(repository: Repository, missing: str, message: str, hint: str) -> None:
    before = repository.all()
    said = repository.init(**{name: value for name, value in TOLD.items() if name != missing})
    assert message in said
    assert hint in said
    assert repository.all() == before


def test_the_registry_that_docker_has_a_login_for(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    hub: dict[str, object] = {"https://index.docker.io/v1/": {}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"a.example.com": {}, **hub}, "credHelpers": {"b.example.com": "x"}}))
    told = {name: value for name, value in TOLD.items() if name != "registry"}
    assert "Docker has a login for a.example.com, b.example.com." in repository.init(**told)
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"a.example.com": {}, **hub}}))
    repository.init(**told)
    assert read_config(repository.root).registry == "a.example.com"


@pytest.mark.parametrize(
    ("remote", "namespace"),
    [
        ("https://git.example.com/scm/finance/ledger.git", "finance/ledger"),
        ("ssh://git@git.example.com:7999/~somebody/Ledger.git", "somebody/ledger"),
        ("git@git.example.com:ledger.git", "ledger"),
        ("/srv/git/ledger.git", "ledger"),
    ],
)
def test_the_namespace_is_where_the_repository_comes_from(repository: Repository, remote: str, namespace: str) -> None:
    Repo(repository.root).remote().set_url(remote)
    repository.init(**TOLD)
    assert read_config(repository.root).namespace == namespace


@pytest.mark.parametrize(
    ("parent", "line"),
    [
        ("base-images/tomcat", "parent: {release: base-images, image: tomcat, track: main}"),
        ("team/base-images/tomcat@release/1", "parent: {release: team/base-images, image: tomcat, track: release/1}"),
        ("docker.io/library/tomcat:10.1", "from: docker.io/library/tomcat:10.1"),
        ("registry.example.com:5000/tomcat:10.1", "from: registry.example.com:5000/tomcat:10.1"),
        ("base-images/tomcat@1.0", 'parent: {release: base-images, image: tomcat, track: "1.0"}'),
        ("base-images/tomcat@yes", 'parent: {release: base-images, image: tomcat, track: "yes"}'),
        ("base-images/tomcat@a, x: y", 'parent: {release: base-images, image: tomcat, track: "a, x: y"}'),
        ("2024/tomcat", 'parent: {release: "2024", image: tomcat, track: main}'),
    ],
)
def test_the_forms_of_a_parent(repository: Repository, parent: str, line: str) -> None:
    repository.init(**{**TOLD, "parent": parent})
    assert line in repository.text("image.yaml").splitlines()
    (definition,) = read_hierarchy(read_config(repository.root))
    place, _, track = parent.partition("@")
    written = definition.release
    assert written is None or (f"{written.release}/{written.image}", written.track) == (place, track or "main")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"parent": "tomcat"}, "'tomcat' names no namespace"),
        ({"parent": "tomcat:"}, "--parent: "),
        ({"parent": "Base/tomcat"}, "image.yaml:2: 'parent': 'Base' and 'tomcat' name no image of a release"),
        ({"registry": "https://reg.example.com/"}, "pipeline.yaml:1: 'registry': 'https://reg.example.com/' is not a registry's address"),
        ({"registry": "reg"}, "pipeline.yaml:1: 'registry': 'reg' does not look like a host to Docker"),
        ({"namespace": "Finance"}, "pipeline.yaml:2: 'namespace': 'Finance' is not a repository path"),
    ],
)
def test_an_answer_that_is_wrong_leaves_no_file(repository: Repository, wrong: dict[str, str], message: str) -> None:
    before = repository.all()
    assert message in repository.init(**{**TOLD, **wrong})
    assert repository.all() == before
    assert "files written" in repository.init(**TOLD)


def test_names_that_yaml_and_dockerfiles_read_otherwise(repository: Repository) -> None:
    write(repository.root, top=pom("top", "<modules><module>web, two</module></modules>", "pom"))
    write(repository.root, **{"web, two": pom("404", "<build><finalName>My App</finalName></build>")})
    repository.init(**{**TOLD, "namespace": "2024"})
    config = read_config(repository.root)
    (definition,) = read_hierarchy(config)
    assert (config.namespace, definition.name) == ("2024", "404")
    assert definition.file == "web, two/image.yaml"
    assert 'COPY ["target/My App.war", "/opt/tomcat/webapps/404.war"]' in repository.text("web, two/Dockerfile")


def test_names_of_repositories_are_told_apart_in_bamboo() -> None:
    names = ["finance/ledger", "finance/ledger-app", "sales/ledger", "accounting-frontend", "accounting-backend", "accounting"]
    names += ["team/accounting-frontend", "team/accounting-backend", "team/a", "1/2", "finance/sub/ledger", "accounting-department/x"]
    plans = set()
    for name in names:
        answers = Answers("127.0.0.1:5000", name, (Application(".", "x", "", ""),), "", "mvn", True, "")
        (plan, _) = read_specs(fit_ci("bamboo-specs/bamboo.yaml", answers))
        assert all(re.fullmatch("[A-Z][A-Z0-9]{1,9}", key) for key in (plan.plan.project_key, plan.plan.key)), name
        plans.add((plan.plan.project_key, plan.plan.key))
    assert len(plans) == len(names)


def test_the_wars_place_in_dockers_own_tomcat(repository: Repository) -> None:
    repository.init(**{**TOLD, "parent": "docker.io/library/tomcat:10.1"})
    assert repository.text("Dockerfile").splitlines()[-1] == "COPY target/ledger-*.war ${CATALINA_HOME}/webapps/ledger.war"
    context = read_context(repository.root)
    assert context.depends_on("target/ledger-1.0.war")
    assert not context.depends_on("pom.xml")


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        (None, "pipeline==0.1.0"),
        (
            {"url": "https://git.example.com/p.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pipeline @ git+https://git.example.com/p.git@abc",
        ),
        ({"url": "https://example.com/pipeline.whl", "archive_info": {}}, "pipeline @ https://example.com/pipeline.whl"),
        ({"url": "file://{root}/tools/a%20b/pipeline.whl", "archive_info": {}}, "tools/a b/pipeline.whl"),
        ({"url": "file:///elsewhere/pipeline.whl", "archive_info": {}}, ""),
        ({"url": "file://{root}", "dir_info": {"editable": True}}, ""),
    ],
)
def test_what_installs_the_toolkit_that_runs(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, origin: dict[str, object] | None, requirement: str
) -> None:
    class Installed:
        version = "0.1.0"

        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return json.dumps(origin).replace("{root}", str(repository.root)) if origin else None

    monkeypatch.setattr("importlib.metadata.distribution", lambda _name: Installed())
    assert running_toolkit(repository.root) == requirement


def test_the_base_of_an_existing_dockerfile_is_its_parent(repository: Repository) -> None:
    repository.write(
        "Dockerfile", "FROM maven:3 AS build\nFROM --platform=linux/amd64 registry.example.com/tomcat:10.1 AS final\nCOPY x /\n"
    )
    repository.init(**{**TOLD, "parent": ""})
    assert "from: registry.example.com/tomcat:10.1" in repository.text("image.yaml")


@pytest.mark.parametrize(
    ("dockerfile", "base"),
    [
        ("FROM maven:3 AS build\nFROM ${TOMCAT}\n", ""),
        ("ARG TOMCAT=example/tomcat:10\nFROM maven:3 AS build\nFROM $TOMCAT\n", "example/tomcat:10"),
        ("ARG VERSION\nFROM example/tomcat:${VERSION:-10.1}\n", "example/tomcat:10.1"),
        ("FROM example/tomcat:10 AS Base\nFROM maven:3 AS build\nFROM base\n", "example/tomcat:10"),
        ("FROM example/tomcat:10\nARG TOMCAT=example/other:1\nFROM maven:3\nFROM 0\n", "example/tomcat:10"),
        ("\ufefffrom \\\n  example/tomcat:10\r\n", "example/tomcat:10"),
        ("ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n", ""),
        ("# FROM example/old:1\nFROM example/tomcat:10\nRUN echo FROM nowhere\n", "example/tomcat:10"),
    ],
)
def test_the_base_is_that_of_the_last_stage_or_asked_for(repository: Repository, dockerfile: str, base: str) -> None:
    repository.write("Dockerfile", dockerfile)
    said = repository.init(**{**TOLD, "parent": ""})
    if base:
        assert repository.text("image.yaml").splitlines()[-1] == f"from: {base}"
    else:
        assert "nothing says what the image of" in said
        assert not (repository.root / "image.yaml").exists()


def test_files_with_the_line_ends_of_windows_keep_them(repository: Repository, newer: Callable[[str, str], None]) -> None:
    repository.init(**TOLD)
    path = repository.root / "Jenkinsfile"
    path.write_bytes(path.read_bytes().replace(b"60,", b"90,").replace(b"\n", b"\r\n"))
    assert repository.init() == "nothing was written\n"
    newer("junit testResults", "junit testDataPublishers: [], testResults")
    repository.init(upgrade=True, yes=True)
    content = path.read_bytes()
    assert content.count(b"\r\n") == content.count(b"\n")
    assert b"90," in content
    assert b"testDataPublishers" in content
    assert repository.init(upgrade=True) == "nothing was written\n"


def test_a_link_stays_one(repository: Repository, tmp_path: Path) -> None:
    repository.write("ci/Jenkinsfile", "// ours\n")
    (repository.root / "Jenkinsfile").symlink_to("ci/Jenkinsfile")
    (tmp_path / "elsewhere").write_text("# theirs\n")
    (repository.root / "tasks.py").symlink_to(tmp_path / "elsewhere")
    assert "kept      tasks.py: it is a link to what is not of this repository" in repository.init(**TOLD, yes=True)
    assert (repository.root / "Jenkinsfile").is_symlink()
    assert "pipeline {" in repository.text("ci/Jenkinsfile")
    assert (tmp_path / "elsewhere").read_text() == "# theirs\n"


def test_a_wheel_is_named_by_its_path_in_the_repository(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "pipeline-0.1.0-py3-none-any.whl").touch()
    assert "Copy the wheel into it" in repository.init(**{**TOLD, "toolkit": str(tmp_path / "pipeline-0.1.0-py3-none-any.whl")})
    repository.write("tools/pipeline-0.1.0-py3-none-any.whl", "")
    repository.init(**{**TOLD, "toolkit": "tools/pipeline-0.1.0-py3-none-any.whl"})
    assert repository.text("requirements-pipeline.txt").splitlines()[-1] == "./tools/pipeline-0.1.0-py3-none-any.whl"


def test_each_module_that_makes_a_war_has_its_image(repository: Repository) -> None:
    listed = "<modules><module>web</module><module>admin</module><module>core</module></modules>"
    write(repository.root, top=pom("all", FIXED + listed, "pom"), web=pom("web"), admin=pom("admin"), core=pom("core", "", "jar"))
    repository.init(**TOLD)
    assert sorted(read_hierarchy(read_config(repository.root)).names) == ["admin", "web"]
    assert "COPY target/web-*.war" in repository.text("web/Dockerfile")
    assert not (repository.root / "core/image.yaml").exists()
    for name in ("image.yaml", "Dockerfile"):
        (repository.root / "admin" / name).unlink()  # this one is to have none
    assert repository.init() == "nothing was written\n"
    write(repository.root, top=pom("all", FIXED + listed.replace("core", "shop"), "pom"), shop=pom("shop"))
    assert "nothing says what the image of" in repository.init()
    assert "note: shop/image.yaml is none of the files that `images:` in pipeline.yaml names" in repository.init(
        parent="base-images/tomcat"
    )


def test_a_repository_of_shared_images_gets_what_the_toolkit_keeps_up(repository: Repository) -> None:
    (repository.root / "pom.xml").unlink()
    repository.write("pipeline.yaml", "registry: registry.example.com\nnamespace: base-images\n")
    repository.write("images/tomcat.yaml", "from: ubuntu:24.04\n")
    repository.write("dockerfiles/tomcat/Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n")
    said = repository.init(toolkit="pipeline==0.1.0")
    assert "6 files written" in said
    assert "note:" not in said
    assert "./invokew build" in repository.text("Jenkinsfile")
    assert "mvn" not in repository.text("Jenkinsfile")


def test_in_a_subfolder_of_a_git_repository(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    write(repository.root, services__ledger=pom("ledger", FIXED))
    monkeypatch.chdir(repository.root / "services/ledger")
    said = repository.init(**TOLD)
    assert "Jenkins: its multibranch pipeline has the Script Path services/ledger/Jenkinsfile\n" in said
    assert {path for path in repository.all() if path.startswith(("Jenkins", "bamboo"))} == set()
    assert read_config(repository.root / "services/ledger").namespace == "finance/ledger-app/ledger"
    assert repository.init(upgrade=True).startswith("nothing was written\n")

    there = [line.partition("There: ")[2] for line in said.splitlines() if "Bamboo reads" in line]
    assert there == ["mkdir -p bamboo-specs && cat services/ledger/bamboo-specs/bamboo.yaml >>bamboo-specs/bamboo.yaml"]
    repository.write("bamboo-specs/bamboo.yaml", fit_ci("bamboo-specs/bamboo.yaml", own_answers(maven=False)))  # another plan's
    assert "There: cat services/ledger/bamboo-specs/bamboo.yaml >>bamboo-specs/bamboo.yaml\n" in repository.init()
    subprocess.run(there, shell=True, cwd=repository.root, check=True)
    assert "Bamboo" not in repository.init()
    plans = [read_specs(document)[0].plan for document in repository.text("bamboo-specs/bamboo.yaml").split("---\n")[1:]]
    assert [(plan.project_key, plan.key) for plan in plans] == [("PIPE", "MAIN"), (bamboo_key("finance/ledger-app"), "LEDGER")]


@pytest.mark.parametrize(("folder", "there"), [("services/ledger", "cd services/ledger && "), ("our ledger", 'cd "our ledger" && ')])
def test_in_a_subfolder_the_build_servers_commands_go_there_and_take_the_results_from_there(folder: str, there: str) -> None:
    answers = replace(own_answers(maven=True), below=folder)
    pipeline = read_pipeline(fit_ci("Jenkinsfile", answers))
    commands = [command for stage in pipeline.stages for command in (*stage.commands, *stage.always)]
    assert {command.partition("&& ")[0] + "&& " for command in commands} == {there}
    assert f"{there}mvn --batch-mode clean package && ./invokew build" in commands
    results = [*pipeline.artifacts, *(result for stage in pipeline.stages for result in stage.results)]
    _, jobs = read_specs(fit_ci("bamboo-specs/bamboo.yaml", answers))
    for job in jobs.values():
        for kind, settings in map(task_kind, [*job.tasks, *job.final_tasks]):
            if kind == "script":
                assert settings[0].startswith(there)
            if kind == "test-parser":
                results.append(settings["test-results"])
        results += [f"{artifact.location}/{artifact.pattern}" for artifact in job.artifacts]
    assert len(results) == 8
    assert all(result.startswith(f"{folder}/.pipeline/") for result in results)


def test_neither_maven_nor_dockerfile(repository: Repository) -> None:
    (repository.root / "pom.xml").unlink()
    assert "there is neither a pom.xml nor a Dockerfile" in repository.init(**TOLD)
    write(repository.root, top=pom("ledger", packaging="jar"))
    assert "no module of pom.xml has the packaging war, and no Dockerfile" in repository.init(**TOLD)


def test_what_a_person_should_know(repository: Repository) -> None:
    write(repository.root, top=pom("ledger"))
    repository.write(".dockerignore", "target/\n")
    (repository.root / ".venv").mkdir()
    said = repository.init(**TOLD)
    assert "note: without the property project.build.outputTimestamp" in said
    assert "note: .dockerignore leaves out target/" in said
    assert "note: .venv belongs to ./invokew from now on" in said


def test_it_works_where_nothing_is_there_yet(tmp_path: Path) -> None:
    write(tmp_path, top=pom("ledger", FIXED))
    command = [sys.executable, "-m", "pipeline", "init", *(f"--{name}={value}" for name, value in TOLD.items())]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "note: this is no Git repository yet" in ended.stdout
    assert read_config(tmp_path).namespace == "ledger"


def own_answers(maven: bool) -> Answers:
    return Answers("127.0.0.1:5000", "", (Application(".", "x", "", ""),), "", "mvn", maven, "")


def test_the_build_servers_files_are_this_repositorys_own() -> None:
    """Without another name and without Maven, what init writes is what is here."""
    for path in CI_FILES:
        assert fit_ci(path, own_answers(maven=False)) == (ROOT / path).read_text(encoding="utf-8")
    assert next(made for made in make_files(own_answers(maven=False)) if made.path == "invokew").text == (ROOT / "invokew").read_text()


def test_the_build_servers_files_differ_by_names_and_by_maven_alone() -> None:
    answers = Answers("127.0.0.1:5000", "finance/ledger-app", (Application(".", "x", "", ""),), "", "./mvnw", True, "")
    for path in CI_FILES:
        before, after = (ROOT / path).read_text().splitlines(), fit_ci(path, answers).splitlines()
        changed = [(old.strip(), new.strip()) for old, new in zip(before, after, strict=True) if old != new]
        builds = [pair for pair in changed if "./mvnw --batch-mode clean package && ./invokew build" in pair[1]]
        assert builds, path
        names = [new.partition(":")[0] for _, new in changed if (_, new) not in builds]
        assert names == (["project-key", "key", "name"] if path.endswith(".yaml") else [])
    plan = yaml.safe_load(fit_ci("bamboo-specs/bamboo.yaml", answers).partition("---\n")[2].partition("\n---")[0])["plan"]
    assert (plan["project-key"], plan["key"], plan["name"]) == ("FINANCE", "LEDGERAPP", "ledger-app")


def test_everything_that_init_takes_from_here_is_in_the_wheel() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shipped = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert shipped == {path: f"pipeline/shipped/{path}" for path in shipped}
    assert {"invokew", *CI_FILES} <= shipped.keys()
    assert shutil.which("git")
