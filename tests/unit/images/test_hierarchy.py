"""Image definitions and the hierarchy they make: what is valid, and what each mistake is answered with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pipeline.config import read_config
from pipeline.errors import ConfigurationError
from pipeline.images.definition import definition_schema
from pipeline.images.graph import draw_dot, draw_mermaid
from pipeline.images.hierarchy import Hierarchy, read_hierarchy

MakeProject = Callable[[Mapping[str, str]], Path]
DOCKERFILE = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n"


def hierarchy_of(root: Path) -> Hierarchy:
    return read_hierarchy(read_config(root))


def mistake(root: Path) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        hierarchy_of(root)
    return caught.value


def test_parents_stand_before_children_and_used_images_before_users(images: MakeProject) -> None:
    root = images({"a": "parent: b\nuses: [c]", "b": "parent: d", "c": "parent: d", "d": "from: ubuntu:24.04"})
    (root / "dockerfiles/a/Dockerfile").write_text(DOCKERFILE + "COPY --from=c /x /x\n")
    hierarchy = hierarchy_of(root)
    order = list(hierarchy.names)
    assert order.index("d") < order.index("b") < order.index("a")
    assert order.index("c") < order.index("a")
    assert hierarchy.needs(hierarchy["a"]) == ("b", "c")
    assert hierarchy.only(["b"]).names == ("d", "b")
    assert set(hierarchy.only(["a"]).names) == {"a", "b", "c", "d"}


def test_a_hierarchy_deeper_than_python_recurses(images: MakeProject) -> None:
    definitions = {f"i{number}": f"parent: i{number + 1}" for number in range(1100)} | {"i1100": "from: x"}
    assert hierarchy_of(images(definitions)).names[0] == "i1100"


def test_defaults_and_where_an_image_is_kept(images: MakeProject) -> None:
    root = images({"tool": "from: ubuntu:24.04\nrepository: tools/tool\nargs: {A: 1}"})
    (root / "dockerfiles/tool/Dockerfile").write_text(DOCKERFILE + "ARG A\n")
    (root / "pipeline.yaml").write_text("registry: r.example:5000/prefix\nnamespace: team/x\n")
    definition = hierarchy_of(root)["tool"]
    assert str(definition.repository) == "r.example:5000/prefix/team/x/tools/tool"
    assert (definition.context, definition.dockerfile) == ("dockerfiles/tool", "dockerfiles/tool/Dockerfile")
    assert (definition.args, definition.platform, definition.optional) == ({"A": "1"}, "linux/amd64", False)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1.10", "1.10"),
        ("10", "10"),
        ("'x y'", "x y"),
        ("true", "true"),
        ("yes", "yes"),
        ("010", "010"),
        ("1e3", "1e3"),
        ("12:30", "12:30"),
    ],
)
def test_an_argument_is_what_was_written(images: MakeProject, written: str, value: str) -> None:
    """Not what YAML makes of it: 1.10 is a version, not the number 1.1."""
    root = images({"a": f"from: x\nargs:\n  VERSION: {written}"})
    (root / "dockerfiles/a/Dockerfile").write_text(DOCKERFILE + "ARG VERSION\n")
    assert hierarchy_of(root)["a"].args == {"VERSION": value}


def test_an_application_lies_beside_its_definition(project: MakeProject) -> None:
    root = project(
        {
            "pipeline.yaml": "registry: r.example\nnamespace: t\nimages: [apps/*/image.yaml, image.yaml]\n",
            "apps/shop/image.yaml": "from: x\n",
            "apps/shop/Dockerfile": DOCKERFILE,
            "apps/bank/image.yaml": "from: x\nname: the-bank\ncontext: docker\n",
            "apps/bank/docker/Dockerfile": DOCKERFILE,
            "image.yaml": "from: x\nname: top\n",
            "Dockerfile": DOCKERFILE,
        }
    )
    found = {definition.name: (definition.context, definition.dockerfile) for definition in hierarchy_of(root)}
    assert found == {
        "shop": ("apps/shop", "apps/shop/Dockerfile"),
        "the-bank": ("apps/bank/docker", "apps/bank/docker/Dockerfile"),
        "top": (".", "Dockerfile"),
    }


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("from: [\n", "images/a.yaml:2: not valid YAML", "indentation"),
        ("parnt: b\n", "images/a.yaml:1: unknown key 'parnt'", "Did you mean 'parent'?"),
        ("from: x\nfrom: y\n", "images/a.yaml:2: key 'from' stands twice (first on line 1)", "Keep one"),
        ("from: 5\n", "images/a.yaml:1: 'from': expected text, got a whole number", "Correct"),
        ("from: x\noptional: maybe\n", "images/a.yaml:2: 'optional': expected true or false, got text", "Correct"),
        ("from: x\nargs: {A: [1]}\n", "images/a.yaml:2: 'args.A': expected true or false or a whole number or a number or text, got a list", "Correct"),
        ("description: x\n", "images/a.yaml:1: needs exactly one of 'from' (a root) and 'parent' (a child)", "from: REFERENCE"),
        ("from: x\nparent: root\n", "images/a.yaml:2: needs exactly one of", "from: REFERENCE"),
        ("from: UPPER\n", "images/a.yaml:1: 'from': 'UPPER' is not an image reference", "lower-case"),
        ("parent: root\nbootstrap: {debian: trixie}\n", "images/a.yaml:2: 'bootstrap' belongs to a root", "from:"),
        ("parent: rot\n", "images/a.yaml:1: unknown parent 'rot'", "Did you mean 'root'?"),
        ("parent: zzzzz\n", "images/a.yaml:1: unknown parent 'zzzzz'", "Valid here: a, root."),
        ("parent: a\n", "images/a.yaml:1: the images are made from each other in a circle: a → a", "Remove one"),
        ("parent: root\nname: Big\n", "images/a.yaml:2: 'Big' is not an image name", "lower-case"),
        ("parent: root\nrepository: a//b\n", "images/a.yaml:2: 'a//b' is not a repository path", "lower-case"),
        ("parent: root\nrepository: " + "a" * 250, "images/a.yaml:1: the name registry.example.com/team/aaa", "Shorten"),
        ("parent: root\ncontext: ../nowhere\n", "images/a.yaml:2: the build context nowhere/ does not exist", "context:"),
        ("parent: root\nname: b\n", "images/a.yaml:1: the build context dockerfiles/b/ does not exist", "dockerfiles/b/Dockerfile"),
        ("parent: root\ncontext: ../images\n", "images/a.yaml:2: images/ has no Dockerfile", "images/Dockerfile"),
        ("parent: root\ncontext: ../..\n", "images/a.yaml:2: the build context", "Move it below"),
        ("parent: root\ncontext: /etc\n", "images/a.yaml:2: the build context /etc lies outside the project", "Move it below"),
        ("parent: root\nsecrets: [npm]\n", "images/a.yaml:2: unknown secret 'npm'", "known are: ca"),
        ("parent: root\nplatform: amd 64\n", "images/a.yaml:2: 'platform': expected text matching", "Correct"),
        ("parent: root\nuses: [root]\n", "images/a.yaml:2: 'uses': the Dockerfile takes no image 'root'", "Remove it"),
        ("parent: root\nname: root\ncontext: ../dockerfiles/a\n", "images/root.yaml:1: the name 'root' is taken by images/a.yaml", "another `name:`"),
        ("parent: root\nrepository: root\n", "images/root.yaml:1: the repository 'registry.example.com/team/root' is taken", "`repository:`"),
        ("parent: root\nargs: {A: 1}\n", "images/a.yaml:2: 'args': the Dockerfile declares no argument 'A'", "Add `ARG A`"),
        ("parent: root\nargs: {BASE_IMAG: x}\n", "images/a.yaml:2: 'args': the Dockerfile declares no argument", "Did you mean 'BASE_IMAGE'?"),
        ("parent: root\nargs: {BASE_IMAGE: x}\n", "images/a.yaml:2: 'args': the Dockerfile declares no argument", "given by the pipeline"),
    ],
)  # fmt: skip
def test_each_mistake_in_a_definition_is_named(images: MakeProject, text: str, message: str, hint: str) -> None:
    error = mistake(images({"root": "from: ubuntu:24.04", "a": text}))
    assert error.message.startswith(message)
    assert hint in error.hint


@pytest.mark.parametrize(
    ("text", "uses", "message"),
    [
        ("FROM ubuntu\n", "", "dockerfiles/a/Dockerfile:1: takes its base from nowhere"),
        ("ARG BASE_IMAGE\nFROM ubuntu\n", "", "dockerfiles/a/Dockerfile:1: takes its base from nowhere"),
        ("FROM ${BASE_IMAGE}\n", "", "dockerfiles/a/Dockerfile:1: takes its base from nowhere"),
        ("", "", "dockerfiles/a/Dockerfile:1: takes its base from nowhere"),
        (DOCKERFILE + "FROM jdk\n", "", "dockerfiles/a/Dockerfile:3: takes the image 'jdk', which images/a.yaml does not list"),
        (DOCKERFILE + "COPY --from=jdk /a /b\n", "jre", "dockerfiles/a/Dockerfile:3: takes the image 'jdk'"),
        (DOCKERFILE + "\nRUN --mount=type=bind,from=jdk,target=/x ls\n", "", "dockerfiles/a/Dockerfile:4: takes the image 'jdk'"),
        (DOCKERFILE + "FROM UPPER\n", "UPPER", "images/a.yaml:2: 'uses': 'UPPER' is not an image reference"),
    ],
)
def test_each_mistake_in_a_dockerfile_is_named(images: MakeProject, text: str, uses: str, message: str) -> None:
    root = images({"root": "from: ubuntu:24.04", "a": f"parent: root\nuses: [{uses}]\n"})
    (root / "dockerfiles/a/Dockerfile").write_text(text)
    error = mistake(root)
    assert error.message.startswith(message)
    assert error.hint


def test_a_stage_with_the_name_of_a_used_image_is_refused(images: MakeProject) -> None:
    """BuildKit would replace the stage by the named context that stands for the used image."""
    root = images({"jdk": "from: ubuntu:24.04", "tool": "parent: jdk\nuses: [jdk]"})
    (root / "dockerfiles/tool/Dockerfile").write_text("ARG BASE_IMAGE\nFROM jdk AS JDK\nFROM ${BASE_IMAGE}\n")
    with pytest.raises(ConfigurationError, match=r"images/tool.yaml:2: 'uses': a build stage is called 'jdk', too"):
        read_hierarchy(read_config(root))


def test_an_undeclared_image_that_looks_like_a_declared_one_is_suggested(images: MakeProject) -> None:
    root = images({"root": "from: x", "a": "parent: root\nuses: [jdk]\n"})
    (root / "dockerfiles/a/Dockerfile").write_text(DOCKERFILE + "FROM jdkk\n")
    assert "Did you mean 'jdk'?" in mistake(root).hint


def test_a_circle_names_all_of_it(images: MakeProject) -> None:
    error = mistake(images({"a": "parent: b", "b": "parent: c", "c": "parent: a"}))
    assert "a → b → c → a" in error.message
    assert error.message.startswith("images/c.yaml:1: ")


def test_a_circle_through_uses_names_that_line(images: MakeProject) -> None:
    root = images({"a": "parent: b", "b": "from: x\nuses: [a]"})
    (root / "dockerfiles/b/Dockerfile").write_text(DOCKERFILE + "FROM a\n")
    assert mistake(root).message.startswith("images/b.yaml:2: the images are made from each other in a circle: a → b → a")


def test_a_missing_dockerfile_and_a_missing_folder(images: MakeProject) -> None:
    root = images({"a": "from: x"})
    (root / "dockerfiles/a/Dockerfile").unlink()
    assert mistake(root).message == "images/a.yaml:1: dockerfiles/a/ has no Dockerfile"
    (root / "dockerfiles/a").rmdir()
    assert mistake(root).message == "images/a.yaml:1: the build context dockerfiles/a/ does not exist"


def test_a_dockerfile_that_is_not_text(images: MakeProject) -> None:
    root = images({"a": "from: x"})
    (root / "dockerfiles/a/Dockerfile").write_bytes(b"\xff")
    assert mistake(root).message.startswith("dockerfiles/a/Dockerfile: cannot be read")


@pytest.mark.parametrize("pattern", ["none/*.yaml", "/etc/*.conf", "", "a**/b", "../*.yaml", "."])
def test_a_glob_that_finds_no_definition(images: MakeProject, pattern: str) -> None:
    root = images({"a": "from: x"})
    (root.parent / "outside.yaml").write_text("from: x\n")
    (root / "pipeline.yaml").write_text(f"registry: r.example\nnamespace: t\nimages:\n- images/*.yaml\n- '{pattern}'\n")
    error = mistake(root)
    assert error.message.startswith("pipeline.yaml:5: 'images': ")
    assert pattern in error.message


def test_two_globs_may_find_the_same_file(images: MakeProject) -> None:
    root = images({"a": "from: x"})
    (root / "pipeline.yaml").write_text("registry: r.example\nnamespace: t\nimages: ['images/*.yaml', 'images/a.*']\n")
    assert hierarchy_of(root).names == ("a",)


def test_an_image_that_is_not_there_is_suggested(images: MakeProject) -> None:
    with pytest.raises(ConfigurationError, match="there is no image definition 'tomct'") as caught:
        hierarchy_of(images({"tomcat": "from: x"})).only(["tomct"])
    assert caught.value.hint == "Did you mean 'tomcat'?"


def test_the_schema_for_editors_calls_keys_as_people_do() -> None:
    definitions = definition_schema()["$defs"]
    assert isinstance(definitions, dict)
    assert {"from", "parent", "uses", "optional"} <= definitions["_File"]["properties"].keys()


def test_pictures_show_parents_and_used_images(images: MakeProject) -> None:
    root = images({"root": "from: ubuntu:24.04\noptional: true", "jdk": "parent: root", "a": "parent: root\nuses: [jdk, node:1, go:2]"})
    (root / "dockerfiles/a/Dockerfile").write_text(DOCKERFILE + "FROM jdk\nFROM node:1\nFROM go:2\n")
    hierarchy = hierarchy_of(root)
    mermaid, dot = draw_mermaid(hierarchy), draw_dot(hierarchy)
    keys = {name: f"i{number}" for number, name in enumerate(hierarchy.names)}
    assert f"{keys['root']} --> {keys['jdk']}" in mermaid
    assert f"{keys['jdk']} -.-> {keys['a']}" in mermaid
    nodes = [line.split("(")[0].strip() for line in mermaid.splitlines() if '(["' in line]
    assert len(set(nodes)) == len(nodes) == 3  # each image from elsewhere is a node of its own
    assert '"root" -> "jdk";' in dot
    assert '"jdk" -> "a" [style=dotted];' in dot
    assert '"root" [style=dashed];' in dot
