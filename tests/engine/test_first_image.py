"""docs/first-image.md: the tutorial, done as it is shown, in another folder and with another registry."""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.engine.conftest import INVOKE, RegistryContainer, remove_images
from tests.engine.documents import DOCS, read_shown

DOCUMENT = "first-image.md"


@pytest.fixture
def namespace(engine: docker.DockerClient) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    yield name
    remove_images(engine, f"*/{name}/*")


def test_the_tutorial(tmp_path: Path, registry: RegistryContainer, ubuntu_image: str, namespace: str) -> None:
    shown = read_shown(DOCUMENT)
    steps = re.findall(r"^```console\n(.*?)^```$", (DOCS / DOCUMENT).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    begin, commit, *rest = ["\n".join(line.removeprefix("$ ") for line in step.splitlines()) for step in steps]
    files = "\n".join(f"cat >'{name}' <<'END'\n{text}END" for name, text in shown.items())
    script = "\n".join(["set -eux", begin, files, commit, *rest])
    for old, new in (
        ("127.0.0.1:5000/demo/ubuntu:main", ubuntu_image),
        ("127.0.0.1:5000/hello/", f"{registry.host}/{namespace}/"),
        ("registry: 127.0.0.1:5000", f"registry: {registry.host}"),
        ("namespace: hello", f"namespace: {namespace}"),
        ("../pipeline/.venv/bin/invoke", INVOKE),
    ):
        assert old in script, old
        script = script.replace(old, new)
    identity = {f"GIT_{who}_{what}": "somebody@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env={**os.environ, **identity}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("Hello")] == ["Hello from Git.", "Hello again."]
    assert "hello.txt changed" in done.stdout
    assert "1 of 1 images differ" in done.stdout
