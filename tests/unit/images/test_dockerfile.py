"""What a Dockerfile takes from elsewhere."""

from __future__ import annotations

import pytest

from pipeline.images.dockerfile import parse_dockerfile

BEGIN = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n"


@pytest.mark.parametrize(
    ("text", "images"),
    [
        (BEGIN, []),
        ("ARG BASE_IMAGE\nFROM $BASE_IMAGE AS a\nFROM a\n", []),
        (BEGIN + "FROM jdk AS war\n", ["jdk"]),
        (BEGIN + "FROM --platform=linux/amd64 jdk AS war\nFROM war\nFROM WAR\n", ["jdk"]),
        (BEGIN + "FROM scratch\n", []),
        (BEGIN + "COPY --from=jdk /a /b\n", ["jdk"]),
        (BEGIN + "COPY --chown=1:1 --from=jdk --link /a /b\n", ["jdk"]),
        (BEGIN + "COPY --from=0 /a /b\n", []),
        ("ARG BASE_IMAGE\nFROM jdk AS build\nFROM ${BASE_IMAGE}\nCOPY --from=build /a /b\nCOPY --from=Build /a /b\n", ["jdk"]),
        (BEGIN + "COPY --from=war /a /b\nFROM x AS war\n", ["war", "x"]),
        (BEGIN + "RUN --mount=type=bind,from=jdk,target=/jdk --mount=type=cache,target=/c,from=cache true\n", ["jdk", "cache"]),
        (BEGIN + "RUN --mount=from=jdk,target=/jdk true\n", ["jdk"]),
        (BEGIN + "RUN --mount=type=secret,id=ca,target=/ca true\n", []),
        (BEGIN + "RUN echo --mount=from=jdk\nCOPY a--from=b /c\n", []),
        ("ARG JDK=eclipse:21\n" + BEGIN + "FROM ${JDK}\n", ["eclipse:21"]),
        ("ARG JDK=eclipse\n" + BEGIN + "FROM $JDK-slim\n", ["eclipse-slim"]),
        ("ARG JDK\n" + BEGIN + "FROM ${JDK:-eclipse:21}\n", ["eclipse:21"]),
        ("ARG JDK=a\n" + BEGIN + "FROM b${JDK:+-c}\n", ["b-c"]),
        ('ARG R="r.example/x" T=1\n' + BEGIN + "FROM ${R}/y:${T}\n", ["r.example/x/y:1"]),
        (BEGIN + "ARG JDK=late\nFROM ${JDK:-early}\n", ["early"]),
        # continuation lines, comments, here-documents
        (BEGIN + "COPY \\\n# said between\n\n  --from=jdk \\ \n  /a /b\n", ["jdk"]),
        ("# escape=`\n" + BEGIN + "COPY `\n  --from=jdk /a\\\n/b\n", ["jdk"]),
        ("# syntax=x\n# escape=`\n" + BEGIN + "COPY `\n  --from=jdk /a /b\n", ["jdk"]),
        ("# not a directive\n# escape=`\n" + BEGIN + "COPY \\\n  --from=jdk /a /b\n", ["jdk"]),
        (BEGIN + "# FROM jdk\n", []),
        (BEGIN + "RUN <<EOF\nFROM jdk\nEOF\nFROM tomcat\n", ["tomcat"]),
        (BEGIN + "RUN <<-'EOF' cat\n\tFROM jdk\n\tEOF\nFROM tomcat\n", ["tomcat"]),
        (BEGIN + "COPY <<A <<B /x/\nFROM jdk\nA\nFROM jre\nB\nFROM tomcat\n", ["tomcat"]),
        (BEGIN + "RUN cat <<<word\nFROM tomcat\n", ["tomcat"]),
        (BEGIN + "RUN echo $((1 << x))\nFROM tomcat\n", ["tomcat"]),
        # as people write
        ("\ufeffarg BASE_IMAGE\nfrom\t${BASE_IMAGE}\r\ncopy  --from=jdk /a /b\r\n", ["jdk"]),
    ],
)
def test_images_taken(text: str, images: list[str]) -> None:
    found = parse_dockerfile(text, {})
    assert [image.name for image in found.images] == images
    assert found.has_base


def test_where_an_image_is_taken_and_that_it_is_named_once() -> None:
    found = parse_dockerfile(BEGIN + "\nRUN a \\\n  b\nCOPY --from=jdk /a /b\nCOPY --from=jdk /c /d\n", {})
    assert [(image.name, image.line) for image in found.images] == [("jdk", 6)]


def test_a_given_argument_wins_over_its_default() -> None:
    text = "ARG JDK=jdk\n" + BEGIN + "FROM ${JDK}\n"
    assert [image.name for image in parse_dockerfile(text, {"JDK": "other"}).images] == ["other"]


@pytest.mark.parametrize(
    "text",
    ["FROM ubuntu\n", "FROM ${BASE_IMAGE}\nARG BASE_IMAGE\n", "FROM ${BASE_IMAGE}\n", "ARG BASE_IMAGE\nFROM $BASE_IMAGE-slim\n",
     "ARG BASE_IMAGE\nFROM ${OTHER}\n", "ARG BASE_IMAGE\n", ""],
)  # fmt: skip
def test_a_base_from_elsewhere_is_no_base(text: str) -> None:
    assert not parse_dockerfile(text, {}).has_base


def test_every_argument_of_every_stage_is_declared() -> None:
    assert parse_dockerfile("ARG A=1 B\n" + BEGIN + 'ARG C="x"\n', {}).arguments == {"A", "B", "BASE_IMAGE", "C"}
