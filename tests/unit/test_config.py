"""pipeline.yaml: what it may say, and what each mistake is answered with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pipeline.config import config_schema, find_root, read_config
from pipeline.errors import ConfigurationError

MakeProject = Callable[[Mapping[str, str]], Path]
VALID = "registry: registry.example.com\nnamespace: team\n"


def test_two_lines_are_enough(project: MakeProject) -> None:
    config = read_config(project({}))
    assert (config.registry, config.namespace, config.pull_from, config.project) == (
        "registry.example.com",
        "team",
        "registry.example.com",
        "team",
    )
    assert config.images == ("images/*.yaml",)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("registry: [a\nnamespace: b\n", "pipeline.yaml:2: not valid YAML", "indentation"),
        ("a: 1\n b: 2\n", "pipeline.yaml:2: not valid YAML", "indentation"),
        ("registry: \0\n", "pipeline.yaml: not valid YAML", "UTF-8"),
        ("registry: 2024-13-45\nnamespace: b\n", "pipeline.yaml: not valid YAML", ""),
        ("- a\n- b\n", "pipeline.yaml:1: expected keys and values, found list", "key: value"),
        ("hello\n", "pipeline.yaml:1: expected keys and values, found str", "key: value"),
        ("", "pipeline.yaml:1: the key 'registry' is missing", "registry:"),
        ("registry: a.example\n", "pipeline.yaml:1: the key 'namespace' is missing", "namespace:"),
        (VALID + "registy: x\n", "pipeline.yaml:3: unknown key 'registy'", "Did you mean 'registry'?"),
        (VALID + "zzz: x\n", "pipeline.yaml:3: unknown key 'zzz'", "Valid here: extends, images, itest, "),
        (VALID + "itest:\n  runn: [a]\n", "pipeline.yaml:4: unknown key 'runn' in 'itest'", "Did you mean 'run'?"),
        (VALID + "itest:\n  prepare:\n    - sqll: a\n", "pipeline.yaml:5: unknown key 'sqll' in 'itest.prepare[0]'", "Did you mean 'sql'?"),
        (VALID + "secrets:\n  good: {env: A}\n  npm:\n    fil: a\n", "pipeline.yaml:6: unknown key 'fil' in 'secrets.npm'", "'file'"),
        (VALID + "secrets:\n  good: {env: A}\n  npm:\n    file: [a]\n", "pipeline.yaml:6: 'secrets.npm.file': expected text", ""),
        (VALID + "namespace: other\n", "pipeline.yaml:3: key 'namespace' stands twice (first on line 2)", "Keep one"),
        (VALID + "itest:\n  run: [a]\n  run: [b]\n", "pipeline.yaml:5: key 'run' stands twice (first on line 4)", "Keep one"),
        ("registry: 5\nnamespace: b\n", "pipeline.yaml:1: 'registry': expected text, got a whole number", "Correct"),
        (VALID + "images: images/*.yaml\n", "pipeline.yaml:3: 'images': expected a list", "Correct"),
        (VALID + "images: []\n", "pipeline.yaml:3: 'images': expected a list of length >= 1", "Correct"),
        (
            VALID + "registry_server: {port: 70000}\n",
            "pipeline.yaml:3: 'registry_server.port': expected a whole number <= 65535",
            "Correct",
        ),
        (VALID + "itest:\n  run:\n  - a\n  - 5\n", "pipeline.yaml:6: 'itest.run[1]': expected text, got a whole number", "Correct"),
        (VALID + "5: x\n", "pipeline.yaml:", ""),
        (VALID + "project: {{ name }}\n", "pipeline.yaml:3: ", ""),
        (VALID + "? [a, b]\n: c\n", "pipeline.yaml:3: ", ""),
        (VALID + "itest: &a\n  run: *a\n", "pipeline.yaml:", ""),
        ("registry: http://registry.example.com\nnamespace: b\n", "pipeline.yaml:1: 'registry': 'http://", "no scheme"),
        ("registry: registry.example.com/\nnamespace: b\n", "pipeline.yaml:1: 'registry': ", "no trailing slash"),
        ("registry: ''\nnamespace: b\n", "pipeline.yaml:1: 'registry': is empty", "127.0.0.1:5000"),
        ("registry: registry\nnamespace: b\n", "pipeline.yaml:1: 'registry': 'registry' ", "Docker Hub"),
        ("registry: registry.example.com:99999\nnamespace: b\n", "pipeline.yaml:1: 'registry': ", "port"),
        ("namespace: Team\nregistry: a.example\n", "pipeline.yaml:1: 'namespace': 'Team' is not a repository path", "lower-case"),
        ("namespace: a//b\nregistry: a.example\n", "pipeline.yaml:1: 'namespace': 'a//b' is not", "lower-case"),
        (VALID + "pull_from: a b\n", "pipeline.yaml:3: 'pull_from': 'a b' is not a registry's address", "no scheme"),
        (VALID + "project: A B\n", "pipeline.yaml:3: 'project': 'A B' is not a project name", "lower-case"),
        (VALID + "secrets:\n  npm: {}\n", "pipeline.yaml:4: 'secrets.npm': needs exactly one of file and env", "Keep one"),
        (VALID + "secrets:\n  npm: {file: a, env: b}\n", "pipeline.yaml:4: 'secrets.npm': needs exactly one", "Keep one"),
        (VALID + "itest:\n  prepare:\n  - {sql: a}\n  - {}\n", "pipeline.yaml:6: 'itest.prepare[1]': needs exactly one", "Keep one"),
        (VALID + "registry_server: {user: me}\n", "pipeline.yaml:3: 'registry_server': user and password_file belong together", "both"),
        (VALID + "platform: amd64\n", "pipeline.yaml:3: 'platform': expected text matching regex", "Correct"),
    ],
)
def test_each_mistake_is_named_with_file_line_and_key(project: MakeProject, text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_config(project({"pipeline.yaml": text}))
    assert caught.value.message.startswith(message)
    assert hint in caught.value.hint


@pytest.mark.parametrize("registry", ["127.0.0.1:5000", "localhost", "a.example", "a.example:443/team/x", "[::1]:5000", "docker.io"])
def test_addresses_of_registries(project: MakeProject, registry: str) -> None:
    assert read_config(project({"pipeline.yaml": f'registry: "{registry}"\nnamespace: b\n'})).registry == registry


def test_the_environment_wins_over_the_file(project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_REGISTRY", "other.example:5000")
    monkeypatch.setenv("PIPELINE_NAMESPACE", "mine/too")
    config = read_config(project({}))
    assert (config.registry, config.namespace, config.project) == ("other.example:5000", "mine/too", "mine-too")


def test_the_environment_alone_is_enough(project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_REGISTRY", "other.example:5000")
    monkeypatch.setenv("PIPELINE_NAMESPACE", "mine")
    assert read_config(project({"pipeline.yaml": "# nothing yet\n"})).registry == "other.example:5000"


def test_an_empty_variable_is_no_override(project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_REGISTRY", "")
    assert read_config(project({})).registry == "registry.example.com"


@pytest.mark.parametrize(("name", "value"), [("PIPELINE_REGISTRY", "https://x"), ("PIPELINE_NAMESPACE", "Team")])
def test_a_bad_variable_is_named_instead_of_the_file(project: MakeProject, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"^{name}: '{value}' is not"):
        read_config(project({}))


def test_the_root_is_found_from_below(project: MakeProject) -> None:
    root = project({"deep/down/file": ""})
    assert find_root(root / "deep" / "down") == root


def test_no_configuration_at_all_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no pipeline.yaml in") as caught:
        find_root(tmp_path)
    assert "registry: HOST" in caught.value.hint


def test_a_file_that_is_not_text(project: MakeProject) -> None:
    root = project({})
    (root / "pipeline.yaml").write_bytes(b"registry: \xff\xfe\n")
    with pytest.raises(ConfigurationError, match=r"^pipeline.yaml: cannot be read"):
        read_config(root)


def test_a_merge_key_may_stand_beside_what_it_brings(project: MakeProject) -> None:
    text = VALID + "secrets:\n  a: &a {env: A}\n  b: {<<: *a, required: false}\n"
    config = read_config(project({"pipeline.yaml": text}))
    assert config.secrets["b"].env == "A"
    assert not config.secrets["b"].required


def test_the_schema_for_editors_knows_every_key() -> None:
    definitions = config_schema()["$defs"]
    assert isinstance(definitions, dict)
    assert {"registry", "namespace", "images", "itest"} <= definitions["_File"]["properties"].keys()
