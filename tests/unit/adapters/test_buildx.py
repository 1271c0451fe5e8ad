"""How buildx is started, and what is made of what it says; a stand-in of its takes its place."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from pipeline.adapters import buildx
from pipeline.adapters.buildx import BuildRequest, Buildx, buildx_command, read_instruction
from pipeline.adapters.docker_context import Endpoint
from pipeline.errors import BuildError, EngineError

REQUEST = BuildRequest("tool", ("r/tool:1",), "linux/amd64", {"BASE_IMAGE": "x"}, {}, {})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """DOCKER_CONFIG, with no plugin anywhere else."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr(buildx, "PLUGIN_FOLDERS", ())
    buildx_command.cache_clear()
    yield tmp_path
    buildx_command.cache_clear()


def install(folder: Path, script: str = "") -> Path:
    plugin = folder / "docker-buildx"
    folder.mkdir(exist_ok=True)
    plugin.write_text(f"#!/bin/sh\n{script}")
    plugin.chmod(0o755)
    return plugin


def write_nothing(_stream: IO[bytes]) -> None:
    pass


@pytest.mark.parametrize(
    ("line", "instruction"),
    [
        (b"#5 [2/3] COPY files /x\n", "[2/3] COPY files /x"),
        (b"#12 [build 1/4] FROM docker.io/a/b:c\n", "[build 1/4] FROM docker.io/a/b:c"),
        (b"#7 [stage-0 3/3] RUN true\n", "[3/3] RUN true"),
        (b"#9 exporting to image\n", "exporting to image"),
        (b"#9 exporting to image", "exporting to image"),
        (b"#5 [2/3] COPY \xff /x\n", "[2/3] COPY \ufffd /x"),
        (b"#1 [internal] load remote build context\n", ""),
        (b"#5 CACHED\n", ""),
        (b"#5 DONE 0.0s\n", ""),
        (b"#5 0.123 [2/3] COPY is what the command printed\n", ""),
        (b'#0 building with "default" instance using docker driver\n', ""),
        (b"\n", ""),
    ],
)
def test_which_instruction_begins(line: bytes, instruction: str) -> None:
    assert read_instruction(line) == instruction


def test_the_plugin_is_started_itself_where_it_is_found(folder: Path) -> None:
    assert buildx_command() == ("docker", "buildx")
    buildx_command.cache_clear()
    plugin = install(folder / "cli-plugins")
    assert buildx_command() == (str(plugin),)


def test_folders_of_dockers_configuration_come_first(folder: Path, tmp_path: Path) -> None:
    install(folder / "cli-plugins")
    other = install(tmp_path / "other")
    (folder / "config.json").write_text(json.dumps({"cliPluginsExtraDirs": [str(other.parent)]}))
    assert buildx_command() == (str(other),)


def test_a_plugin_that_cannot_be_started_is_none(folder: Path) -> None:
    install(folder / "cli-plugins").chmod(0o644)
    assert buildx_command() == ("docker", "buildx")


def test_what_buildx_says_is_logged_and_its_instructions_are_told(folder: Path, tmp_path: Path) -> None:
    script = """
cat > "$DOCKER_CONFIG/context"
echo '#5 [2/2] COPY a /a'
echo 'on stderr' >&2
while [ "$1" != --metadata-file ]; do shift; done
echo '{"containerimage.digest": "sha256:1"}' > "$2"
ls -a "$BUILDX_CONFIG" >&2
"""
    install(folder / "cli-plugins", script)
    told: list[str] = []

    def write(stream: IO[bytes]) -> None:
        stream.write(b"context")

    assert Buildx(Endpoint("unix:///x"), tmp_path / "logs").build(REQUEST, write, told.append) == "sha256:1"
    assert told == ["[2/2] COPY a /a"]
    assert (folder / "context").read_bytes() == b"context"
    assert (tmp_path / "logs/tool.log").read_text() == "#5 [2/2] COPY a /a\non stderr\n.\n..\nmetadata.json\n"


def test_a_buildx_that_says_much_before_it_reads_does_not_stand_still(folder: Path, tmp_path: Path) -> None:
    install(folder / "cli-plugins", 'head -c 300000 /dev/zero | tr "\\0" "\\n"; cat > /dev/null; exit 1\n')

    def write(stream: IO[bytes]) -> None:
        stream.write(bytes(300_000))

    with pytest.raises(BuildError):
        Buildx(Endpoint("unix:///x"), tmp_path / "logs").build(REQUEST, write)


def test_a_build_that_met_another_one_of_the_same_image_is_repeated_once(folder: Path, tmp_path: Path) -> None:
    script = """
cat > /dev/null
echo run >> "$DOCKER_CONFIG/runs"
echo 'ERROR: failed to solve: image "127.0.0.1:1/a:b": already exists' >&2
exit 1
"""
    install(folder / "cli-plugins", script)
    with pytest.raises(BuildError, match="is being built by another process, too"):
        Buildx(Endpoint("unix:///x"), tmp_path / "logs").build(REQUEST, write_nothing)
    assert (folder / "runs").read_text() == "run\n" * 2


FAILURE = """#1 [1/2] FROM scratch
#1 0.1 of another step
#2 [2/2] RUN false
#2 0.2 it begins
#3 DONE 0.1s
#2 0.3 it ends
#2 ERROR: process "/bin/sh -c false" did not complete successfully: exit code: 1
------
 > [2/2] RUN false:
0.2 it begins
------
Dockerfile:2
--------------------
   2 | >>> RUN false
--------------------
ERROR: failed to solve: exit code: 1
"""


def test_a_failure_shows_all_that_the_failed_step_said_and_nothing_of_others(folder: Path, tmp_path: Path) -> None:
    (folder / "said").write_text(FAILURE)
    install(folder / "cli-plugins", f"cat > /dev/null; cat {folder}/said; exit 1\n")
    with pytest.raises(BuildError) as caught:
        Buildx(Endpoint("unix:///x"), tmp_path / "logs").build(REQUEST, write_nothing)
    assert [line[2:] for line in caught.value.message.splitlines()] == [
        "ol could not be built:",
        " > [2/2] RUN false:",
        "0.2 it begins",
        "0.3 it ends",  # buildx's summary lacks it
        "Dockerfile:2",
        "--------------------",
        "   2 | >>> RUN false",
        "--------------------",
        "ERROR: failed to solve: exit code: 1",
    ]
    assert str(tmp_path / "logs/tool.log") in caught.value.hint


def test_a_failure_before_any_step_shows_what_was_said(folder: Path, tmp_path: Path) -> None:
    install(folder / "cli-plugins", 'cat > /dev/null; echo "ERROR: failed to solve: dockerfile parse error"; exit 1\n')
    with pytest.raises(BuildError, match=r"tool could not be built:\n  ERROR: failed to solve: dockerfile parse error"):
        Buildx(Endpoint("unix:///x"), tmp_path / "logs").build(REQUEST, write_nothing)


def test_what_a_buildx_leaves_running_does_not_keep_the_build_waiting_for_ever(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buildx, "READ_DEADLINE", 0.05)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    install(folder / "cli-plugins", f"cat > /dev/null; read line < {gate} & exit 1\n")
    with pytest.raises(BuildError):
        Buildx(Endpoint("unix:///x"), tmp_path / "logs").build(REQUEST, write_nothing)
    gate.write_text("go\n")


def test_a_cancelled_build_is_ended_and_no_other_begins(folder: Path, tmp_path: Path) -> None:
    install(folder / "cli-plugins", "cat > /dev/null; echo '#5 [2/2] RUN sleep'; exec sleep 60\n")
    made = Buildx(Endpoint("unix:///x"), tmp_path / "logs")
    begun = threading.Event()
    failures: list[Exception] = []

    def build() -> None:
        try:
            made.build(REQUEST, write_nothing, lambda _instruction: begun.set())
        except BuildError as error:
            failures.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    assert begun.wait(10)
    made.cancel()
    thread.join(10)
    assert [str(error) for error in failures] == ["tool: the build was cancelled"]
    with pytest.raises(BuildError, match="cancelled"):
        made.build(REQUEST, write_nothing)


def test_no_buildx_at_all(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="not installed"):
        Buildx(Endpoint("unix:///x"), tmp_path / "logs").build(REQUEST, write_nothing)
