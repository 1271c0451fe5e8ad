"""Credentials come from Docker's own configuration and its helpers."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.adapters.credentials import Credentials, read_credentials
from pipeline.errors import EngineError, RegistryRefusedError

AUTH = base64.b64encode(b"me:sec:ret").decode()
HOST = "registry.example.com:5000"
Configure = Callable[[object], Path]


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    def write(config: object) -> Path:
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        return tmp_path

    return write


def helper(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, name: str = "test") -> None:
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder) + os.pathsep + os.environ["PATH"])


@pytest.mark.parametrize(
    ("auths", "expected"),
    [
        ({HOST: {"auth": AUTH}}, Credentials("me", "sec:ret")),
        ({f"https://{HOST}": {"auth": AUTH}}, Credentials("me", "sec:ret")),
        ({f"https://{HOST}/v2/": {"auth": AUTH}}, Credentials("me", "sec:ret")),
        ({HOST: {"username": "me", "password": "secret"}}, Credentials("me", "secret")),
        ({HOST: {"auth": AUTH, "identitytoken": "T"}}, Credentials("me", "sec:ret", "T")),
        ({HOST: {"identitytoken": "T"}}, Credentials("", "", "T")),
        ({HOST: {"auth": base64.b64encode(b"me:secret\0\0").decode()}}, Credentials("me", "secret")),
        ({HOST: {"auth": "!"}}, None),
        ({HOST: {"auth": base64.b64encode(b"\xff").decode()}}, None),
        ({HOST: {}}, None),
        ({"other.example": {"auth": AUTH}}, None),
        ({}, None),
    ],
)
def test_what_docker_login_left(configure: Configure, auths: object, expected: Credentials | None) -> None:
    configure({"auths": auths})
    assert read_credentials(HOST) == expected


def test_docker_hub_goes_by_its_old_address(configure: Configure) -> None:
    configure({"auths": {"https://index.docker.io/v1/": {"auth": AUTH}}})
    assert read_credentials("docker.io") == Credentials("me", "sec:ret")


def test_no_configuration_no_credentials() -> None:
    assert read_credentials(HOST) is None


@pytest.mark.parametrize("text", ["{", '"x"'])
def test_a_spoilt_configuration(configure: Configure, text: str) -> None:
    folder = configure(text)
    if text == "{":
        with pytest.raises(EngineError, match=str(folder)):
            read_credentials(HOST)
    else:
        assert read_credentials(HOST) is None


@pytest.mark.parametrize("config", [{"credsStore": "test"}, {"credHelpers": {HOST: "test"}, "credsStore": "other"}])
def test_a_helper_is_asked_on_standard_input(configure: Configure, monkeypatch: pytest.MonkeyPatch, config: object) -> None:
    folder = configure(config)
    script = (
        f'[ "$1" = get ] && [ "$#" = 1 ] && [ "$(cat)" = {HOST} ] && echo \'{{"ServerURL": "x", "Username": "me", "Secret": "secret"}}\''
    )
    helper(folder, monkeypatch, script)
    assert read_credentials(HOST) == Credentials("me", "secret")


def test_a_helper_is_asked_once(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = configure({"credsStore": "test"})
    helper(folder, monkeypatch, f'echo asked >> {folder}/asked; echo \'{{"Username": "me", "Secret": "secret"}}\'')
    assert [read_credentials(HOST), read_credentials(HOST)] == [Credentials("me", "secret")] * 2
    assert (folder / "asked").read_text() == "asked\n"


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "docker.io"])
def test_a_helper_of_docker_hub(configure: Configure, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    folder = configure({"credHelpers": {key: "test"}})
    script = '[ "$(cat)" = https://index.docker.io/v1/ ] && echo \'{"Username": "me", "Secret": "secret"}\''
    helper(folder, monkeypatch, script)
    assert read_credentials("docker.io") == Credentials("me", "secret")


def test_a_helper_may_answer_an_identity_token(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(configure({"credsStore": "test"}), monkeypatch, 'echo \'{"Username": "<token>", "Secret": "T"}\'')
    assert read_credentials(HOST) == Credentials("", "", "T")


def test_a_helper_that_knows_none(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(configure({"credsStore": "test"}), monkeypatch, "echo credentials not found in native keychain; exit 1")
    assert read_credentials(HOST) is None


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo the keychain is locked; exit 1", "the keychain is locked"),
        ("echo nonsense", "no credential"),
        ("echo []", "no credential"),
        ("echo {}", "no credential"),
    ],
)
def test_a_helper_that_fails(configure: Configure, monkeypatch: pytest.MonkeyPatch, script: str, message: str) -> None:
    helper(configure({"credsStore": "test"}), monkeypatch, script)
    with pytest.raises(RegistryRefusedError, match=message):
        read_credentials(HOST)


def test_a_helper_that_is_not_installed(configure: Configure) -> None:
    configure({"credsStore": "nowhere-to-be-found"})
    with pytest.raises(RegistryRefusedError, match="docker-credential-nowhere-to-be-found cannot be used") as caught:
        read_credentials(HOST)
    assert "config.json" in caught.value.hint


def test_secrets_do_not_show() -> None:
    shown = repr(Credentials("me", "secret", "token"))
    assert "me" in shown
    assert "secret" not in shown
    assert "token=" not in shown
    assert "'token'" not in shown


def test_headers() -> None:
    credentials = Credentials("me", "sé:cret", "T")
    assert base64.b64decode(credentials.basic().removeprefix("Basic ")).decode() == "me:sé:cret"
    assert json.loads(base64.urlsafe_b64decode(credentials.for_engine(HOST))) == {
        "username": "me",
        "password": "sé:cret",
        "identitytoken": "T",
        "serveraddress": HOST,
    }
