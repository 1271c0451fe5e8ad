"""`extends:`: settings that several repositories share, in a file of an installed package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pipeline.config import Config, read_config
from pipeline.errors import ConfigurationError

MakeProject = Callable[[Mapping[str, str]], Path]
SHARED = """registry: registry.example.com
max_pin_age: 10
secrets:
  pip_index: {env: PIP_INDEX_URL, required: false}
itest:
  image: registry.example.com/oracle:23
  deadline: 300
  prepare: [{sql: database/shared}]
"""


@pytest.fixture
def extending(project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """Reads a pipeline.yaml of these lines, which extends company_settings/pipeline.yaml of this text."""
    package = tmp_path / "packages/company_settings"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('its code is not run')\n")
    monkeypatch.syspath_prepend(str(package.parent))

    def read(own: str, shared: str = SHARED, extends: str = "{package: company_settings}") -> Config:
        (package / "pipeline.yaml").write_text(shared)
        return read_config(project({"pipeline.yaml": f"extends: {extends}\nnamespace: ledger\n{own}"}))

    return read


def test_what_is_shared_holds_where_the_repository_says_nothing(extending: Callable[..., Config]) -> None:
    config = extending("itest:\n  deadline: 20\n  prepare: [{sql: database/own}]\nsecrets:\n  other: {env: OTHER}\n")
    assert (config.registry, config.namespace, config.max_pin_age) == ("registry.example.com", "ledger", 10)
    assert (config.itest.image, config.itest.deadline) == ("registry.example.com/oracle:23", 20)
    assert [step.sql for step in config.itest.prepare] == ["database/own"]  # a list is replaced
    assert set(config.secrets) == {"pip_index", "other"}  # mappings are merged


def test_a_secret_of_ones_own_replaces_a_shared_one(extending: Callable[..., Config]) -> None:
    secret = extending("secrets:\n  pip_index: {file: ~/.pip-index}\n").secrets["pip_index"]
    assert (secret.file, secret.env, secret.required) == ("~/.pip-index", "", True)


def test_the_environment_wins_over_both(extending: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_REGISTRY", "other.example.com")
    assert extending("").registry == "other.example.com"


@pytest.mark.parametrize(
    ("own", "shared", "message"),
    [
        ("", SHARED + "  deadlin: 3\n", "company_settings/pipeline.yaml:9: unknown key 'deadlin' in 'itest'"),
        ("itest:\n  deadlin: 3\n", SHARED, "pipeline.yaml:4: unknown key 'deadlin' in 'itest'"),
        ("", "registry: http://r\n", "company_settings/pipeline.yaml:1: 'registry': 'http://r' is not a registry's address"),
        ("registry: http://r\n", SHARED, "pipeline.yaml:3: 'registry': 'http://r' is not"),
        ("", "registry: r.example.com\nitest:\n  prepare:\n    - {user: app}\n", "company_settings/pipeline.yaml:4: 'itest.prepare[0]'"),
        ("secrets: null\n", SHARED, "pipeline.yaml:3: 'secrets': expected keys and values, got nothing"),
        ("", "max_pin_age: 1\n", "pipeline.yaml:1: the key 'registry' is missing"),
        ("", "registry: [\n", "company_settings/pipeline.yaml:2: not valid YAML"),
        ("", SHARED + "extends: {package: company_settings}\n", "company_settings/pipeline.yaml:9: extends another file itself"),
    ],
)
def test_a_mistake_is_told_where_it_stands(extending: Callable[..., Config], own: str, shared: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        extending(own, shared)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("{package: not_installed}", "pipeline.yaml:1: 'extends': the package 'not_installed' is not installed"),
        ("{package: __main__}", "pipeline.yaml:1: 'extends': the package '__main__' is not installed"),
        (
            "{package: company_settings, file: other.yaml}",
            "pipeline.yaml:1: 'extends': the package 'company_settings' has no file 'other.yaml'",
        ),
        (
            "{package: company_settings, file: ../../project/pipeline.yaml}",
            "pipeline.yaml:1: 'extends': the package 'company_settings' has no file",
        ),
        ("{packag: x}", "pipeline.yaml:1: "),
        ("other.yaml", "pipeline.yaml:1: 'extends': expected"),
    ],
)
def test_what_is_not_there_is_said(extending: Callable[..., Config], extends: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        extending("", extends=extends)
    assert caught.value.message.startswith(message)
