"""Many images at the same time: built in the right order, shown while it lasts, broken off, failed, and gone on with."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import random
import re
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import docker
import pytest

from tests.engine.conftest import Project, RegistryContainer, wait_for
from tests.engine.test_failures import PAUSE, SECRETS, Fault, begun, processes_with, published_at, registry_proxy

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


@pytest.fixture
def family(project: Project, tiny_image: str) -> Project:
    """root → fast → tip, root → slow, root → late; building `slow` and `late` takes PAUSE seconds."""
    project.write("pipeline.yaml", (project.root / "pipeline.yaml").read_text() + SECRETS)
    for name, definition, dockerfile in (
        ("root", f"from: {tiny_image}\n", ""),
        ("fast", "parent: root\n", ""),
        ("tip", "parent: fast\n", ""),
        ("slow", "parent: root\nsecrets: [pause]\n", PAUSE),
        ("late", "parent: root\nsecrets: [pause]\n", PAUSE),
    ):
        project.image(name, definition, f"COPY {name}.txt /{name}.txt\n" + dockerfile)
        project.write(f"dockerfiles/{name}/{name}.txt", f"{project.namespace}\n")  # BuildKit's cache knows no other test's
    project.environment["PAUSE"] = "0"
    project.commit("begin")
    return project


def make_hierarchy(project: Project, count: int, base: str, seed: int) -> Mapping[str, str]:
    """Trees and chains of tiny images, drawn at random; image → parent."""
    source = random.Random(seed)
    parents: dict[str, str] = {}
    for number in range(count):
        names = list(parents)
        parent = "" if not names else names[-1] if source.random() < 0.3 else source.choice(names[-40:])
        name = f"image-{number:03}"
        parents[name] = parent
        project.image(name, f"parent: {parent}\n" if parent else f"from: {base}\n", f"COPY own.txt /{name}.txt\n")
        project.write(f"dockerfiles/{name}/own.txt", f"{name} of {project.namespace}\n")
    project.commit("begin")
    return parents


def test_many_linked_images_complete_and_are_complete(
    project: Project, engine: docker.DockerClient, tiny_image: str, long_run: bool
) -> None:
    parents = make_hierarchy(project, 300 if long_run else 40, tiny_image, seed=1)
    ended: list[str] = []
    result = project.run("build", "--jobs", "4", "--json")
    assert result.returncode == 0, result.stderr
    for line in result.stderr.splitlines():
        name, _, what = line.partition(": ")
        if what.startswith("build ("):
            assert not parents[name] or parents[name] in ended, line
        elif what.startswith("done in"):
            ended.append(name)
    assert sorted(ended) == sorted(parents)
    contents = {image["name"]: image["references"][0] for image in json.loads(result.stdout)["images"]}
    last = list(parents)[-1]
    ancestry = [last]
    while parents[ancestry[-1]]:
        ancestry.append(parents[ancestry[-1]])
    command = ["/bin/cat", *(f"/{name}.txt" for name in ancestry)]
    assert engine.containers.run(contents[last], command, remove=True).decode() == "".join(
        f"{name} of {project.namespace}\n" for name in ancestry
    )
    assert set(project.actions("build").values()) == {"none"}
    assert set(json.loads((project.root / ".pipeline/durations.json").read_text())) == set(parents)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "TERM"])
def test_the_run_after_an_interrupt_goes_on_where_it_ended(
    family: Project, engine: docker.DockerClient, number: signal.Signals, code: int
) -> None:
    with begun(family, "build", "--jobs", "3", image="slow", PAUSE="60") as process:
        finished = {name: f"{family.registry}/{family.namespace}/{name}:main" for name in ("root", "fast", "tip")}
        wait_for(lambda: all(_has_image(engine, name) for name in finished.values()), "what can be built is finished")
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=15)
    assert process.returncode == code
    assert "failed" not in said
    assert not processes_with(family.namespace)
    assert family.actions("build") == {"root": "none", "fast": "none", "tip": "none", "slow": "build", "late": "build"}


def test_an_interrupted_pull_ends_at_once(family: Project, engine: docker.DockerClient, registry: RegistryContainer) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        go_on.wait(60)

    with registry_proxy(registry) as proxy, published_at(family, engine, proxy.host):
        family.invoke("build", "push")
        for image in engine.images.list(filters={"reference": f"{proxy.host}/{family.namespace}/*"}):
            for tag in image.tags:
                engine.images.remove(tag)
        proxy.faults = [Fault("GET", "/root/blobs/", hold)]
        environment = {**os.environ, **family.environment}
        process = subprocess.Popen(
            family.command("build", "--pull", "--only", "root"), cwd=family.root, env=environment, stderr=subprocess.PIPE, text=True
        )
        try:
            assert asked.wait(30)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=10)
        finally:
            process.kill()
            go_on.set()
        assert process.returncode == 130, said
        assert "Traceback" not in said


# What is reported


def test_keep_going_reports_the_rest_by_cause(family: Project) -> None:
    family.image("fast", "parent: root\n", "RUN echo the reason is here; exit 7\n")
    family.image("late", "parent: root\n", "COPY missing.txt /\n")
    family.commit()
    failed = family.run("build", "--keep-going")
    assert failed.returncode == 21
    assert "2 images failed, 1 more not built because of them" in failed.stderr
    error = failed.stderr[failed.stderr.index("error: ") :]
    fast, late = sorted(error.index(f"{name} could not be built:\n") for name in ("fast", "late"))
    assert fast < late or late < fast
    assert error.count("not built because of it:\n    tip\n") == 1
    assert len(re.findall(r"^\s+#\d+ \d+\.\d+ the reason is here$|^\s+\d+\.\d+ the reason is here$", failed.stderr, re.M)) == 1
    assert len(re.findall(r"^\s+ERROR: .*missing.txt.* not found$", failed.stderr, re.M)) == 1
    assert family.actions() == {"root": "none", "fast": "build", "tip": "build", "slow": "none", "late": "build"}


def test_a_failure_shows_the_line_of_the_dockerfile_and_the_last_output_once(family: Project) -> None:
    family.image("fast", "parent: root\n", "COPY fast.txt /fast.txt\nRUN echo the reason is here; exit 7\n")
    family.commit()
    failed = family.run("build")
    assert failed.returncode == 21
    assert len(re.findall(r"^ *\d+\.\d+ the reason is here$", failed.stderr, re.M)) == 1
    assert len(re.findall(r"^ *4 \| >>> RUN echo the reason is here; exit 7$", failed.stderr, re.M)) == 1
    assert re.search(r"^fast: failed after \d+\.\d s$", failed.stderr, re.M)


def test_quiet(family: Project) -> None:
    for command in (["build", "--quiet"], ["push", "--quiet"], ["build", "--quiet", "push", "--quiet"]):
        result = family.run(*command)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", ""), command
    result = family.run("push", "--quiet", "--json")
    assert result.stderr == ""
    assert {image["action"] for image in json.loads(result.stdout)["images"]} == {"none"}
    family.image("fast", "parent: root\n", "RUN exit 7\n")
    family.commit()
    failed = family.run("build", "--quiet")
    assert failed.returncode == 21
    assert failed.stderr.startswith("error: fast could not be built:\n")


# What a person sees


@dataclass
class Watched:
    """`invoke` with a terminal as its stderr, and all that it wrote there."""

    process: subprocess.Popen[str]
    output: bytearray = field(default_factory=bytearray)

    @property
    def text(self) -> str:
        return self.output.decode(errors="replace").replace("\r\n", "\n")

    def last_picture(self) -> list[str]:
        """The lines after the last move of the cursor, without colours."""
        text = re.split(r"\x1b\[[0-9]+A|\x1b\[2K", self.text)[-1]
        return [line.rstrip() for line in re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]|\r", "", text).splitlines()]


@contextlib.contextmanager
def watched(project: Project, *arguments: str, height: int = 30, **environment: str) -> Iterator[Watched]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, 100, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in ("CI", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        project.command(*arguments),
        cwd=project.root,
        env={**inherited, "TERM": "xterm", **project.environment, **environment},
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
        start_new_session=True,
    )
    os.close(slave)
    found = Watched(process)

    def collect() -> None:
        with contextlib.suppress(OSError):  # how a pseudo-terminal says that nothing follows
            while data := os.read(master, 4096):
                found.output.extend(data)

    reader = threading.Thread(target=collect)
    reader.start()
    try:
        yield found
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        reader.join()
        os.close(master)


def test_a_person_sees_each_image_come_to_its_end(family: Project) -> None:
    with watched(family, "build", "--jobs", "2", PAUSE="1") as seen:
        assert seen.process.wait(60) == 0
    drawn = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", seen.text)
    assert re.search(r"slow +building +\[3/3\] RUN --mount=type=secret", drawn)
    assert re.search(r"tip +waiting", drawn)
    picture = "\n".join(seen.last_picture())
    for name in ("root", "fast", "tip", "slow", "late"):
        assert re.search(rf"^{name} +done +.*\d+\.\d s$", picture, re.M), picture
    assert re.search(r"^5/5, \d+\.\d s$", picture, re.M)
    assert seen.text.rindex(SHOW_CURSOR) > seen.text.rindex(HIDE_CURSOR)
    with watched(family, "build") as seen:
        assert seen.process.wait(60) == 0
    assert sorted(seen.text.splitlines()) == [f"{name}: unchanged" for name in ("fast", "late", "root", "slow", "tip")]


def test_a_push_is_shown_too(family: Project) -> None:
    family.invoke("build")
    with watched(family, "push") as seen:
        assert seen.process.wait(60) == 0
    picture = "\n".join(seen.last_picture())
    for name in ("root", "fast", "tip", "slow", "late"):
        assert re.search(rf"^{name} +done +.*\d+\.\d s$", picture, re.M), picture
    assert len(re.findall(r"release of main at .*: \.pipeline/release.json", seen.text)) == 1, seen.text


def test_on_a_terminal_too_a_failure_is_shown_once(family: Project) -> None:
    family.image("fast", "parent: root\n", "RUN echo the reason is here; exit 7\n")
    family.commit()
    with watched(family, "build") as seen:
        assert seen.process.wait(60) == 21
    said = "\n".join(seen.last_picture())
    assert re.search(r"^fast +failed ", said, re.M)
    assert re.search(r"^tip +skipped +made from fast", said, re.M)
    assert len(re.findall(r"^ *\d+\.\d+ the reason is here$", said, re.M)) == 1
    assert said.index("1 failed") < said.index("error: fast could not be built")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "TERM"])
def test_an_interrupt_gives_the_terminal_back(family: Project, number: signal.Signals, code: int) -> None:
    with watched(family, "build", "--jobs", "2", PAUSE="60") as seen:
        wait_for(lambda: "sleep $(cat" in seen.text, "the display shows the slow build")
        os.killpg(seen.process.pid, number)
        assert seen.process.wait(15) == code
    assert re.search(r"^slow +cancelled ", "\n".join(seen.last_picture()), re.M)
    assert seen.text.rindex(SHOW_CURSOR) > seen.text.rindex(HIDE_CURSOR)
    assert not processes_with(family.namespace)


def _has_image(engine: docker.DockerClient, name: str) -> bool:
    return bool(engine.images.list(filters={"reference": name}))
