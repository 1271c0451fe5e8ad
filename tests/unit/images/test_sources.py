"""What a Dockerfile reads of its build context: never less than BuildKit does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.images.dockerfile import parse_dockerfile, takes_context
from pipeline.images.sources import Sources

BEGIN = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n"
WHOLE = Sources(whole=True)


def sources_of(text: str, **arguments: str) -> Sources:
    return parse_dockerfile(BEGIN + text, arguments).sources


@pytest.mark.parametrize(
    ("text", "patterns"),
    [
        ("RUN true", []),
        ("COPY a /x", ["a"]),
        ("copy a b/c /x/", ["a", "b/c"]),
        ("ADD ./a //b//c/ /x/", ["a", "b/c"]),
        ("COPY --chown=1:1 --chmod=755 --link a /x", ["a"]),
        ('COPY ["a", "b c", "/x/"]', ["a", "b c"]),
        ("COPY a\u00a0b.txt /x", ["a\u00a0b.txt"]),
        ("COPY a\tb /x", ["a", "b"]),
        ("COPY --parents --exclude=*.md a/./b /x", ["a/b"]),
        ("COPY *.txt src/?.c src/*/pom.xml /x/", ["*.txt", "src/*/pom.xml", "src/?.c"]),
        ("COPY src/[ab].txt /x", ["src/**"]),
        ("COPY --parents src/**/pom.xml /x", ["src/**"]),
        ("COPY target/${JAR}.jar /x", ["target/**"]),
        ("COPY target/$JAR /x", ["target/**"]),
        ("COPY a \\\n  b \\\n# said between\n\n  /x/", ["a", "b"]),
        ("COPY a\\\nb /x", ["ab"]),
        ("COPY --from=jdk a /x", []),
        ("COPY --from=0 a /x", []),
        ("COPY --from= a /x", ["a"]),
        ("COPY <<EOF /x\nCOPY a /y\nEOF", []),
        ("COPY <<EOF a /x/\nCOPY b /y\nEOF\nCOPY c /x", ["a", "c"]),
        ("RUN <<EOF\nCOPY a /y\n EOF\nCOPY b /y\nEOF\nCOPY c /x", ["c"]),
        ("RUN <<-'EOF' cat\nCOPY a /y\n\tEOF\nCOPY c /x", ["c"]),
        ('RUN echo "a <<EOF b"\nCOPY c /x\nRUN EOF\n', ["c"]),
        ('RUN ["cat", "<<EOF"]\nCOPY c /x', ["c"]),
        ("ADD https://example.com/x.tar git@example.com:x.git https://example.com/x.git#v1 a /x/", ["a"]),
        ("RUN --mount=type=bind,source=src,target=/s true", ["src"]),
        ("RUN --mount=target=/s,src=src/main --network=none true", ["src/main"]),
        ("RUN --mount=type=bind,from=jdk,source=src,target=/s true", []),
        ("RUN --mount=type=cache,target=/s --mount=type=secret,id=ca --mount=type=tmpfs,target=/t true", []),
        ("RUN echo --mount=type=bind,source=src", []),
        ("ONBUILD COPY a /x", ["a"]),
        ("ONBUILD COPY <<EOF a /x/\nCOPY b /y\nEOF", ["a"]),
        ("# COPY a /x", []),
    ],
)
def test_sources(text: str, patterns: list[str]) -> None:
    assert sources_of(text) == Sources(tuple(patterns))


@pytest.mark.parametrize(
    "text",
    [
        "COPY . /x",
        "COPY / /x",
        "COPY ./ /x",
        "COPY a . /x",
        "COPY ../a /x",
        "COPY a/../b /x",
        "COPY $A /x",
        "COPY ${A}/b /x",
        "COPY **/pom.xml /x",
        "COPY [ab].txt /x",
        'COPY "a" /x',
        "COPY a\\ b /x",
        'COPY ["a\\\\b", "/x"]',
        'COPY ["a", "/x"] rest',
        "COPY --from=$A a /x",
        'COPY --chown="a b" c /x',
        "RUN --mount=type=bind,target=/s true",
        "RUN --mount=target=/s true",
        "RUN --mount=type=$A,target=/s true",
        "RUN --mount=type=bind,from=$A,target=/s true",
        'RUN --mount=type=bind,"source=a b",target=/s true',
        'RUN --security="a b" --mount=type=bind,source=a,target=/s true',
        "ONBUILD COPY . /x",
        "ENV A=../b\nCOPY a/$A /x",
        "ARG A=../b\nCOPY a/$A /x",
        "RUN <<EOF\nnever ends",
        "RUN echo \\\\\nCOPY a /x",
    ],
)
def test_whatever_is_not_plain_takes_the_whole_context(text: str) -> None:
    assert sources_of(text) == WHOLE


def test_a_given_argument_that_leads_out_of_its_folder() -> None:
    assert sources_of("ARG A\nCOPY a/$A /x", A="b") == Sources(("a/**",))
    assert sources_of("ARG A\nCOPY a/$A /x", A="../b") == WHOLE


@pytest.mark.parametrize("first", ["# syntax=docker/dockerfile:1", "#syntax = docker.io/docker/dockerfile:1.7-labs", "# check=skip=all"])
def test_buildkits_own_frontend_is_known(first: str) -> None:
    assert parse_dockerfile(f"{first}\n{BEGIN}COPY a /x\n", {}).sources == Sources(("a",))


@pytest.mark.parametrize("first", ["# syntax=example.com/frontend", "// syntax=x", "#!/x\n# syntax=x", "# a=b\n# syntax=x", "\n# syntax=x"])
def test_another_frontend_may_read_anything(first: str) -> None:
    found = parse_dockerfile(f"{first}\n{BEGIN}COPY a /x\n# more\n", {})
    assert found.sources == WHOLE
    assert "# more" in found.recipe


def test_the_escape_directive_is_followed() -> None:
    assert parse_dockerfile(f"# escape=`\n{BEGIN}COPY a `\n b /x\nCOPY c\\d /x\n", {}).sources == WHOLE
    assert parse_dockerfile(f"# escape=`\n{BEGIN}COPY a `\n b /x\n", {}).sources == Sources(("a", "b"))


@pytest.mark.parametrize(
    ("pattern", "taken", "leading", "not_taken"),
    [
        ("a", ["a", "a/b", "a/b/c"], [], ["ab", "b/a", "a.txt"]),
        ("a/b", ["a/b", "a/b/c"], ["a"], ["a/bc", "b"]),
        ("*.txt", ["x.txt", ".txt", "d.txt/x"], [], ["x.md", "d/x.txt"]),
        ("s/?/f", ["s/a/f", "s/b/f/x"], ["s", "s/a"], ["s/aa/f", "t"]),
        ("s/**", ["s", "s/a", "s/a/b"], ["s"], ["t", "sa"]),
        ("a+(b)", ["a+(b)"], [], ["aab"]),
        ("a\nb", ["a\nb"], [], ["a"]),
    ],
)
def test_paths(pattern: str, taken: list[str], leading: list[str], not_taken: list[str]) -> None:
    sources = Sources((pattern,))
    assert [path for path in taken if not sources.takes(path)] == []
    assert [path for path in not_taken if sources.takes(path) or sources.leads(path)] == []
    assert [path for path in leading if not sources.leads(path)] == []
    assert not Sources().takes("a")
    assert Sources(whole=True).takes("a")


def test_what_could_be_followed() -> None:
    sources = Sources(("a/b", "s/**", "*.txt"))
    assert [path for path in ("a/b", "s", "s/x/y", "x.txt") if not sources.is_source(path)] == []
    assert [path for path in ("a", "a/b/c", "x.txt/y") if sources.is_source(path)] == []


@pytest.mark.parametrize(
    ("onbuild", "takes"),
    [
        ([], False),
        (["RUN true", "ENV A=1", "COPY --from=jdk /a /b", "RUN --mount=type=cache,target=/x true", "ADD https://example.com/x /x"], False),
        (["COPY a /x"], True),
        (["RUN true", "ADD . /app"], True),
        (["RUN --mount=type=bind,target=/x true"], True),
    ],
)
def test_triggers_of_a_base_that_read_the_context(onbuild: list[str], takes: bool) -> None:
    assert takes_context(onbuild) is takes
    assert parse_dockerfile(BEGIN + "".join(f"ONBUILD {line}\n" for line in onbuild), {}).triggers == tuple(onbuild)


@pytest.mark.parametrize(
    ("text", "recipe"),
    [
        ("# syntax=docker/dockerfile:1\n# escape=\\\n# said\nFROM x\n", "# syntax=docker/dockerfile:1\n# escape=\\\nFROM x"),
        ("# said\n\nFROM x\n  # said\n\t\nRUN y\n", "FROM x\nRUN y"),
        ("FROM x\nRUN a \\\n# said\n\n  && b # c\n", "FROM x\nRUN a \\\n  && b # c"),
        ("FROM x\nRUN <<A\n# kept\n\n  # kept\r\nA\n# said\n", "FROM x\nRUN <<A\n# kept\n\n  # kept\r\nA"),
        ("FROM x\r\n# said\r\nRUN y\r\n", "FROM x\nRUN y"),
        ("FROM x\nCOPY <<A <<-B /\n# a\nA\n# b\n\tB\n# said\n", "FROM x\nCOPY <<A <<-B /\n# a\nA\n# b\n\tB"),
        ("FROM x\nRUN echo '\\\n# said\n'\n", "FROM x\nRUN echo '\\\n'"),
    ],
)
def test_the_recipe_is_without_comments(text: str, recipe: str) -> None:
    assert parse_dockerfile(text, {}).recipe == recipe


LINES = st.lists(
    st.sampled_from(
        [
            "FROM x",
            "RUN a \\",
            "  b",
            "# said",
            "",
            "  ",
            "RUN <<A cat",
            "A",
            "\tA",
            "COPY <<-A b /",
            " # x \\",
            "RUN c \\ ",
            "# escape=`",
            "\\",
        ]
    ),
    max_size=12,
)


@given(LINES)
def test_a_recipe_means_what_the_dockerfile_means(lines: list[str]) -> None:
    found = parse_dockerfile("\n".join(lines), {})
    again = parse_dockerfile(found.recipe, {})
    assert again.recipe == found.recipe
    assert again.sources == found.sources
