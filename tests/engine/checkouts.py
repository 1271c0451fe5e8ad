"""A project in a folder of its own, as a person at a command line has it: real processes, a real database, its own label."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.docker_engine import Container, DockerEngine
from pipeline.sessions import PROJECT

TASKS = "from pipeline.tasks import namespace\n"
PASSING = """
import os, sys
from pathlib import Path
import oracledb
with oracledb.connect(user=os.environ["DB_USER"], password=os.environ["DB_PASSWORD"], dsn=os.environ["DB_DSN"]) as connection:
    rows = connection.cursor().execute("SELECT name FROM customer ORDER BY name").fetchall()
assert rows == [("a;b",), ("it's",)], rows
Path(os.environ["PIPELINE_RESULTS"], "junit.xml").write_text('<testsuite name="s"><testcase name="t"/></testsuite>')
"""
SCHEMA = (
    "CREATE TABLE customer (name VARCHAR2(20));\nINSERT INTO customer VALUES ('a;b');\n/* ; */ INSERT INTO customer VALUES ('it''s');\n"
)
NOISE_OF_CI = (
    "BUILD_TAG",
    "NODE_NAME",
    "EXECUTOR_NUMBER",
    "bamboo_buildResultKey",
    "PIPELINE_SESSION",
    "PIPELINE_REGISTRY",
    "PIPELINE_NAMESPACE",
)


WAITING = "import pathlib, time; pathlib.Path('testing').touch()\nwhile not pathlib.Path('go').exists(): time.sleep(0.02)\n"


@dataclass
class Ended:
    code: int
    out: str
    err: str


@dataclass
class Checkout:
    """A project in a folder of its own."""

    root: Path
    project: str
    engine: DockerEngine = field(default_factory=DockerEngine)

    def configure(self, image: str, *lines: str, run: Sequence[str] = (sys.executable, "tests.py")) -> None:
        text = [
            "registry: localhost:5000",
            "namespace: ledger",
            f"project: {self.project}",
            "itest:",
            f"  image: {image}",
            f"  run: {json.dumps(run)}",
        ]
        (self.root / "pipeline.yaml").write_text("\n".join([*text, *(f"  {line}" for line in lines)]) + "\n", encoding="utf-8")
        (self.root / "tasks.py").write_text(TASKS, encoding="utf-8")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def begin(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if name not in NOISE_OF_CI}
        return subprocess.Popen(
            [sys.executable, "-m", "invoke", *arguments],
            cwd=self.root,
            env={**clean, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def invoke(self, *arguments: str, **environment: str) -> Ended:
        process = self.begin(*arguments, **environment)
        out, err = process.communicate(timeout=120)
        return Ended(process.returncode, out, err)

    def start(self, *arguments: str, **environment: str) -> dict[str, Any]:
        ended = self.invoke("start-oracle", "--json", *arguments, **environment)
        assert ended.code == 0, ended.err
        return dict(json.loads(ended.out))

    @property
    def containers(self) -> list[Container]:
        return self.engine.list_containers({PROJECT: self.project})

    @property
    def results(self) -> Path:
        return self.root / ".pipeline" / "itest"

    def assert_nothing_left(self) -> None:
        assert self.containers == []
        assert self.engine.list_volumes({PROJECT: self.project}) == {}
        assert self.engine.list_networks({PROJECT: self.project}) == {}
        assert list((self.root / ".pipeline").glob("database*")) == []


@pytest.fixture
def make_checkout(tmp_path: Path) -> Iterator[Callable[[], Checkout]]:
    made: list[Checkout] = []

    def make() -> Checkout:
        root = tmp_path / f"checkout-{len(made)}"
        root.mkdir()
        made.append(Checkout(root, f"test-{uuid.uuid4().hex[:10]}"))
        return made[-1]

    yield make
    for checkout in made:
        for container in checkout.containers:
            checkout.engine.remove_container(container.id)


@pytest.fixture
def checkout(make_checkout: Callable[[], Checkout], standin_image: str) -> Checkout:
    """A project whose configuration is right and whose tests pass."""
    found = make_checkout()
    found.configure(standin_image, "prepare: [{sql: sql}]", "deadline: 60")
    found.write("sql/01-schema.sql", SCHEMA)
    found.write("tests.py", PASSING)
    return found


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def kill_programs(container: str) -> None:
    """SIGKILL for everything in a container but what keeps its lease."""
    top = subprocess.run(["docker", "top", container, "-o", "pid,ppid,args"], check=True, capture_output=True, text=True).stdout
    processes = [line.split(maxsplit=2) for line in top.splitlines()[1:]]
    lease = {pid for pid, _, command in processes if "/run/pipeline/lease.sh" in command}
    for pid, parent, command in processes:
        if pid not in lease and not (parent in lease and command.startswith("sleep ")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
