"""The engine is the one that the docker command itself would talk to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pipeline.adapters.docker_context import DEFAULT_HOST, Endpoint, engine_endpoint
from pipeline.errors import EngineError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Docker's configuration with a context `remote` in use and one named `other`."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name, host in (("remote", "tcp://engine.example:2376"), ("other", "ssh://me@engine.example")):
        meta = tmp_path / "contexts/meta" / hashlib.sha256(name.encode()).hexdigest()
        meta.mkdir(parents=True)
        (meta / "meta.json").write_text(
            json.dumps({"Name": name, "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": name == "other"}}})
        )
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "remote"}))
    return tmp_path


def test_the_default_is_the_local_socket() -> None:
    assert engine_endpoint() == Endpoint(DEFAULT_HOST)
    assert engine_endpoint().is_unix


def test_the_context_in_use(folder: Path) -> None:
    assert engine_endpoint() == Endpoint("tcp://engine.example:2376", "remote")
    tls = folder / "contexts/tls" / hashlib.sha256(b"remote").hexdigest() / "docker"
    tls.mkdir(parents=True)
    assert engine_endpoint().tls_folder == tls


def test_variables_win_over_the_context_in_use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "other")
    assert engine_endpoint() == Endpoint("ssh://me@engine.example", "other", None, tls_verify=False)
    monkeypatch.setenv("DOCKER_CONTEXT", "default")
    assert engine_endpoint() == Endpoint(DEFAULT_HOST)
    monkeypatch.setenv("DOCKER_CONTEXT", "other")
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/mine.sock")
    assert engine_endpoint() == Endpoint("unix:///run/mine.sock")


def test_empty_variables_count_as_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "")
    monkeypatch.setenv("DOCKER_CONTEXT", "")
    assert engine_endpoint().context == "remote"


@pytest.mark.parametrize(
    ("verify", "certificates", "expected"),
    [("1", "/certs", "/certs"), ("", "/certs", None), ("0", "/certs", None), ("1", "", "configuration")],
)
def test_tls_of_docker_host(monkeypatch: pytest.MonkeyPatch, folder: Path, verify: str, certificates: str, expected: str | None) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://engine.example:2376")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", verify)
    monkeypatch.setenv("DOCKER_CERT_PATH", certificates)
    wanted = folder if expected == "configuration" else Path(expected) if expected else None
    assert engine_endpoint().tls_folder == wanted


@pytest.mark.parametrize("meta", [None, "{", "[]", "{}", '{"Endpoints": {"docker": {}}}'])
def test_a_context_that_does_not_exist_or_is_spoilt(folder: Path, monkeypatch: pytest.MonkeyPatch, meta: str | None) -> None:
    path = folder / "contexts/meta" / hashlib.sha256(b"remote").hexdigest() / "meta.json"
    if meta is None:
        path.unlink()
    else:
        path.write_text(meta)
    with pytest.raises(EngineError, match="Docker's context 'remote' does not exist or cannot be read") as caught:
        engine_endpoint()
    assert "docker context ls" in caught.value.hint


def test_a_spoilt_configuration(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(EngineError, match="cannot be read"):
        engine_endpoint()
