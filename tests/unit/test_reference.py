"""References are read as Docker reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigurationError
from pipeline.reference import Reference, parse_reference

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("ubuntu:24.04", "docker.io/library/ubuntu:24.04"),
        ("gvenzl/oracle-xe:21-slim", "docker.io/gvenzl/oracle-xe:21-slim"),
        ("docker.io/ubuntu", "docker.io/library/ubuntu:latest"),
        ("index.docker.io/ubuntu", "docker.io/library/ubuntu:latest"),
        ("docker.io/a/b", "docker.io/a/b:latest"),
        ("localhost/a", "localhost/a:latest"),
        ("localhost:5000/a/b:t", "localhost:5000/a/b:t"),
        ("registry.example.com/a", "registry.example.com/a:latest"),
        ("Host/a", "Host/a:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        (f"ubuntu@{DIGEST}", f"docker.io/library/ubuntu@{DIGEST}"),
        (f"r.example/a:t@{DIGEST}", f"r.example/a:t@{DIGEST}"),
        ("a/b__c/d-e--f.g_h", "docker.io/a/b__c/d-e--f.g_h:latest"),
        ("a:_T.-", "docker.io/library/a:_T.-"),
        ("r.example/" + "a" * 245, "r.example/" + "a" * 245 + ":latest"),
    ],
)
def test_what_a_reference_means(text: str, expected: str) -> None:
    assert str(parse_reference(text)) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not a repository"),
        (":tag", "is not a repository"),
        ("a:", "is not a tag"),
        ("a:-b", "is not a tag"),
        ("a:.b", "is not a tag"),
        ("a:b c", "is not a tag"),
        ("a:" + "b" * 129, "is not a tag"),
        ("a:b\n", "is not a tag"),
        ("a\n", "is not a repository"),
        ("a@", "nothing follows the @"),
        ("a@sha256:abc", "is not a digest"),
        ("a@sha256:" + "G" * 64, "is not a digest"),
        ("A", "is not a repository"),
        ("a/B", "is not a repository"),
        ("a//b", "is not a repository"),
        ("/a", "is not a repository"),
        ("a/", "is not a repository"),
        ("a___b", "is not a repository"),
        ("a..b", "is not a repository"),
        ("-a", "is not a repository"),
        ("http://r.example/a", "is not a re"),
        ("r example.com/a", "is not a registry"),
        ("-r.example/a", "is not a registry"),
        ("r.example:port/a", "is not a registry"),
        ("$(id).x/a", "is not a registry"),
        ("0a" * 32, "are an image id"),
        ("r.example/" + "a" * 246, "longer than 255"),
    ],
)
def test_what_is_no_reference(text: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_reference(text)
    assert why in caught.value.message
    assert caught.value.hint


COMPONENT = st.from_regex(r"[a-z0-9]{1,9}((\.|_|__|-{1,3})[a-z0-9]{1,9}){0,2}", fullmatch=True)
REPOSITORY = st.lists(COMPONENT, min_size=1, max_size=4).map("/".join)
REGISTRY = st.from_regex(r"[a-z0-9]{1,9}(\.[a-z]{1,9}){1,2}(:[1-9][0-9]{1,3})?|localhost(:[1-9][0-9]{1,3})?|\[::1\]:5000", fullmatch=True)
TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True)
HASH = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)


@given(REGISTRY, REPOSITORY, TAG, st.just("") | HASH)
def test_writing_and_reading_are_inverse(registry: str, repository: str, tag: str, digest: str) -> None:
    reference = Reference(registry, repository, tag, digest)
    assert parse_reference(str(reference)) == reference


@given(st.text(max_size=80) | st.from_regex(r"[a-z./:@-]{1,40}", fullmatch=True))
def test_any_text_is_a_stable_reference_or_a_configuration_error(text: str) -> None:
    try:
        reference = parse_reference(text)
    except ConfigurationError:
        return
    assert parse_reference(str(reference)) == reference
    assert str(reference).isascii()
    assert not any(character.isspace() for character in str(reference))


def test_a_digest_takes_the_place_of_a_tag() -> None:
    reference = parse_reference("r.example/a:1")
    assert str(reference.with_digest(DIGEST)) == f"r.example/a@{DIGEST}"
    assert str(reference.with_digest(DIGEST).with_tag("2")) == "r.example/a:2"
