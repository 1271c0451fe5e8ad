"""Unit tests know no engine, no registry and no credentials of this machine; projects are real files in a temporary folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("unit", deadline=None, max_examples=60)  # a busy machine is no failure
settings.load_profile("unit")

CONFIG = "registry: registry.example.com\nnamespace: team\n"
DOCKERFILE = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY . /context/\n"


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An empty Docker configuration in place of this user's."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path_factory.mktemp("docker")))


@pytest.fixture
def project(tmp_path: Path) -> Callable[[Mapping[str, str]], Path]:
    """Make a project of these files (path → text), with a valid pipeline.yaml unless one is given; return its root."""

    def make(files: Mapping[str, str]) -> Path:
        root = tmp_path / "project"
        for path, text in {"pipeline.yaml": CONFIG, **files}.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
        return root

    return make


@pytest.fixture
def images(project: Callable[[Mapping[str, str]], Path]) -> Callable[[Mapping[str, str]], Path]:
    """Make a project of these image definitions (name → YAML), each with the shortest Dockerfile that is allowed."""

    def make(definitions: Mapping[str, str]) -> Path:
        files = {f"images/{name}.yaml": text for name, text in definitions.items()}
        return project(files | {f"dockerfiles/{name}/Dockerfile": DOCKERFILE for name in definitions})

    return make
