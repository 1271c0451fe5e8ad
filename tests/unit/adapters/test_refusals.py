"""What registries and engines say, and what it means. The engine's texts are those of 26.1, with either of its image stores."""

from __future__ import annotations

import json

import pytest

from pipeline.adapters.refusals import FEW, explanation, judge_engine, judge_status
from pipeline.errors import RegistryRefusedError, RegistryUnreachableError, TagImmutableError

PUT = 'Put "http://registry.example/v2/team/app/manifests/main": '
ADDRESS = "http://registry.example/v2/team/app/manifests/main"


def says(code: str, message: str) -> str:
    return json.dumps({"errors": [{"code": code, "message": message}]})


@pytest.mark.parametrize(
    ("status", "said", "hint"),
    [
        (401, says("UNAUTHORIZED", "authentication required"), "docker login registry.example"),
        (403, says("DENIED", "requested access to the resource is denied"), "ask for the permission"),
        (405, says("UNSUPPORTED", "The operation is unsupported."), "read-only"),
        (403, says("DENIED", "The system is in read only mode. Any modification is prohibited."), "read-only"),
        (403, says("DENIED", "Quota exceeded when processing the request of adding 1 GiB of storage resource"), "free space"),
        (412, says("PRECONDITION", "The quota has been exceeded: 10 GiB"), "free space"),
        (413, "<html>413 Request Entity Too Large</html>", "free space"),
        (507, "", "free space"),
        (404, says("NAME_UNKNOWN", "The repository with name 'team/app' does not exist in the registry with id '1'"), "to be made"),
        (404, says("BLOB_UNKNOWN", "blob unknown to registry"), "push it first"),
        (412, "", "immutable tag, or a quota"),
        (418, "", "registry's own log"),
    ],
)
def test_what_a_status_means(status: int, said: str, hint: str) -> None:
    error = judge_status("registry.example", "no", status, said)
    assert hint in error.hint
    assert not isinstance(error, TagImmutableError)


IMMUTABLE = {
    "Harbor": (412, "PRECONDITION", "Failed to process request due to 'app:main' configured as immutable."),
    "ECR": (400, "TAG_INVALID", "The image tag 'main' already exists in the 'app' repository and cannot be overwritten because the tag is immutable."),
    "Nexus": (400, "UNKNOWN", "Repository does not allow updating assets: docker"),
    "Nexus, older": (403, "DENIED", "cannot be updated; redeploy is disabled"),
    "Artifactory": (403, "DENIED", "Not enough permissions to overwrite artifact 'app/main/manifest.json' (User 'ci' needs DELETE permission)."),
}  # fmt: skip


@pytest.mark.parametrize("product", IMMUTABLE)
def test_a_tag_that_may_not_be_overwritten(product: str) -> None:
    status, code, message = IMMUTABLE[product]
    assert isinstance(judge_status("registry.example", "no", status, says(code, message)), TagImmutableError)
    prefix = {"DENIED": "denied", "TAG_INVALID": "tag invalid"}.get(code, "unknown")
    verdict = judge_engine("registry.example", "no", f"{prefix}: {message}")
    assert isinstance(verdict.error, TagImmutableError)
    assert verdict.attempts == 1


@pytest.mark.parametrize(
    "text",
    [
        "received unexpected HTTP status: 500 Internal Server Error",
        "received unexpected HTTP status: 503 Service Unavailable",
        f"unexpected status from PUT request to {ADDRESS}: 502 Bad Gateway",
        f"failed commit on ref \"manifest-sha256:1\": unexpected status from PUT request to {ADDRESS}: 429 Too Many Requests",
        f"failed to do request: {PUT}EOF",
        "toomanyrequests",
        "toomanyrequests: <html>slow down</html>",
        "error parsing HTTP 429 response body: invalid character '<' looking for beginning of value: \"<html>\"",
        "unknown: unknown error",
        f"{PUT}read tcp 127.0.0.1:34386->127.0.0.1:5000: read: connection reset by peer",
        f"{PUT}net/http: HTTP/1.x transport connection broken: unexpected EOF",
        'net/http: HTTP/1.x transport connection broken: malformed MIME header: missing colon: "Docker"',
        f"{PUT}net/http: request canceled (Client.Timeout exceeded while awaiting headers)",
        "net/http: TLS handshake timeout",
        "blob upload unknown",
        "manifest blob unknown: blob unknown to registry",
        "dial tcp: lookup registry.example on 10.0.0.1:53: Temporary failure in name resolution",
    ],
)  # fmt: skip
def test_what_passes_is_tried_as_long_as_there_is_time(text: str) -> None:
    verdict = judge_engine("registry.example", "app cannot be pushed", text)
    assert isinstance(verdict.error, RegistryUnreachableError), verdict
    assert verdict.attempts == 0
    assert verdict.error.message == f"app cannot be pushed: {text}"


@pytest.mark.parametrize(
    ("text", "attempts", "hint"),
    [
        ("denied", 1, "ask for the permission"),
        ("denied: requested access to the resource is denied", 1, "ask for the permission"),
        (f"unexpected status from POST request to {ADDRESS}: 403 Forbidden", 1, "ask for the permission"),
        (f"unexpected status from PUT request to {ADDRESS}: 412 Precondition Failed", 1, "immutable tag, or a quota"),
        (f"unexpected status from HEAD request to {ADDRESS}: 401 Unauthorized", FEW, "docker login"),
        ("unauthorized", FEW, "docker login"),  # a token that has expired in the middle of it is told the same way
        ("unauthorized: authentication required", FEW, "docker login"),
        ("no basic auth credentials", FEW, "docker login"),
        ("pull access denied for app, repository does not exist or may require 'docker login'", FEW, "docker login"),
        (
            "push access denied, repository does not exist or may require authorization: server message: invalid_token: authorization failed",
            FEW,
            "docker login",
        ),
        ("unsupported", 1, "read-only"),
        ("denied: Quota exceeded when processing the request of adding 1 GiB", 1, "free space"),
        ("unknown: <html>413 Request Entity Too Large</html>", 1, "free space"),
        ("received unexpected HTTP status: 507 Insufficient Storage", 1, "free space"),
        ("name unknown: The repository with name 'app' does not exist", 1, "to be made"),
        ("something that nobody has heard of", FEW, "registry's own log"),
    ],
)
def test_a_no_is_a_no(text: str, attempts: int, hint: str) -> None:
    verdict = judge_engine("registry.example", "no", text)
    assert isinstance(verdict.error, RegistryRefusedError)
    assert verdict.attempts == attempts
    assert hint in verdict.error.hint


@pytest.mark.parametrize(
    "text",
    [
        "dial tcp 127.0.0.1:5000: connect: connection refused",
        "dial tcp: lookup registry.example: no such host",
        "tls: failed to verify certificate: x509: certificate signed by unknown authority",
        "http: server gave HTTP response to HTTPS client",
    ],
)
def test_where_nobody_listens_or_can_be_trusted_is_not_asked_again(text: str) -> None:
    verdict = judge_engine("registry.example", "no", text)
    assert isinstance(verdict.error, RegistryUnreachableError)
    assert verdict.attempts == 1


@pytest.mark.parametrize("name", ["timeout", "quota", "immutable", "eof", "denied", "unauthorized"])
def test_the_name_of_an_image_means_nothing(name: str) -> None:
    text = f'Put "http://registry.example/v2/{name}/manifests/{name}": read: connection reset by peer'
    assert isinstance(judge_engine("registry.example", f"{name} cannot be pushed", text).error, RegistryUnreachableError)
    text = f"unexpected status from PUT request to https://registry.example/v2/{name}/manifests/{name}: 403 Forbidden"
    assert "permission" in judge_engine("registry.example", "no", text).error.hint


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (says("DENIED", "not for you").encode(), "not for you"),
        (b'{"errors": [{"code": "DENIED"}, {"code": "B", "message": "c"}]}', "DENIED; c"),
        (b'{"errors": [{"code": "A", "message": "b", "detail": "c"}]}', "b (c)"),
        (b"<html>\n  no\n</html>", "<html> no </html>"),
        (b"[]", "[]"),
        (b'{"errors": [5]}', '{"errors": [5]}'),
        (b"\xff", "�"),
        (b"", ""),
    ],
)
def test_what_a_refusal_says(body: bytes, said: str) -> None:
    assert explanation(body) == said
