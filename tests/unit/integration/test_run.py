"""Everything the configuration can have wrong is known before a database is started."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from pipeline.adapters import processes
from pipeline.config import read_config
from pipeline.errors import ConfigurationError
from pipeline.integration.run import Run, check_run, read_kind


def check(root: Path, *lines: str, tests: bool = True, image: str = "") -> Run:
    text = "\n".join(["registry: localhost:5000", "namespace: ledger", "itest:", *(f"  {line}" for line in lines)])
    (root / "pipeline.yaml").write_text(text, encoding="utf-8")
    config = read_config(root)
    return check_run(config, image or config.itest.image, read_kind(config), processes, tests)


def test_a_run_holds_the_commands_as_written(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text("SELECT 1 FROM dual;")
    run = check(tmp_path, "run: [sh, -c, 'exit 0']", "prepare: [{sql: a.sql}]", "junit: ['**/TEST-*.xml']")
    assert run.command == ("sh", "-c", "exit 0")
    assert run.folder == tmp_path
    assert len(run.steps) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["user: app"], r"pipeline.yaml:3: 'itest.run': there is no test command"),
        (["user: app", "run: [no-such-program]"], r"pipeline.yaml:5: 'itest.run': there is no program 'no-such-program'"),
        (["run: [sh]", "user: SYSTEM"], r"pipeline.yaml:5: 'itest.user': 'SYSTEM' is the database's own"),
        (["run: [./mvnw]"], r"'itest.run': there is no program './mvnw'"),
        (["run: [sh]", "folder: nowhere"], r"pipeline.yaml:5: 'itest.folder': there is no folder nowhere"),
        (["run: [sh]", "junit:", "  - ../*.xml"], r"pipeline.yaml:6: 'itest.junit\[0\]': '../\*.xml' leaves the project"),
        (["run: [sh]", "prepare:", "  - run: [flywai]"], r"'itest.prepare\[0\].run': there is no program 'flywai'"),
        (["run: [sh]", "prepare:", "  - sql: nowhere"], r"pipeline.yaml:6: 'itest.prepare\[0\].sql': there is no nowhere"),
        (["run: [sh]", "engine: orakle"], r"pipeline.yaml:5: 'itest.engine': there is no database engine 'orakle'"),
        (["run: [sh]", "image: UPPER/x:y:z"], r"pipeline.yaml:5: 'itest.image': 'UPPER/x:y:z' is not an image reference"),
    ],
)
def test_mistakes_name_file_line_and_key(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check(tmp_path, *lines)


@pytest.mark.parametrize("source", ["/var/run", "/run", "/", "./own", "./own/other.sock", "./link"])
def test_no_container_gets_the_engines_socket(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("/run")
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("own/other.sock")
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/own/engine.sock")
        named = rf"pipeline.yaml:6: 'itest.mounts.{re.escape(source)}': .* is or holds a socket"
        with pytest.raises(ConfigurationError, match=named):
            check(tmp_path, "run: [sh]", "mounts:", f'  "{source}": /x')
        assert check(tmp_path, "run: [sh]", "mounts: {./data: /x}").database.mounts == ((str(tmp_path / "data"), "/x"),)


def test_the_nearest_valid_name_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "schema").mkdir()
    (tmp_path / "schema/a.sql").touch()
    (tmp_path / "schemata").mkdir()  # holds no script
    for line, hint in (("prepare: [{sql: shema}]", "Did you mean 'schema'?"), ("engine: orakle", "Did you mean 'oracle'?")):
        with pytest.raises(ConfigurationError) as caught:
            check(tmp_path, "run: [sh]", line)
        assert caught.value.hint.startswith(hint)


def test_a_mistake_in_a_script_names_the_script_first(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text("a;\n@other.sql\n")
    with pytest.raises(ConfigurationError, match=r"^a.sql:2: "):
        check(tmp_path, "run: [sh]", "prepare: [{sql: a.sql}]")


def test_a_bad_image_of_the_command_line_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^--image: 'a:b:c' is not an image reference"):
        check(tmp_path, "run: [sh]", image="a:b:c")


def test_starting_a_database_needs_no_test_command(tmp_path: Path) -> None:
    assert check(tmp_path, "user: app", tests=False).command == ()
