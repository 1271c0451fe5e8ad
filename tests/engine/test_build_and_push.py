"""build and push on the real engine and a real registry."""

from __future__ import annotations

import json

import docker
import pytest

from tests.engine.conftest import Project, RegistryContainer
from tests.engine.engine_proxy import engine_proxy


def test_builds_pushes_and_then_has_nothing_to_do(hierarchy: Project, registry: RegistryContainer) -> None:
    assert hierarchy.actions("build") == {"base": "build", "middle": "build", "leaf": "build"}
    pushed = hierarchy.json("push")
    for image in pushed["images"]:
        for reference in image["references"]:
            assert registry.digest(reference.partition("/")[2]) == image["digest"]
    assert hierarchy.actions("build") == {"base": "none", "middle": "none", "leaf": "none"}
    before = len(registry.log())
    assert hierarchy.actions("push") == {"base": "none", "middle": "none", "leaf": "none"}
    writes = [line for line in registry.log()[before:] if any(f'"{method} ' in line for method in ("PUT", "POST", "PATCH"))]
    assert writes == []


def test_a_change_rebuilds_the_image_and_its_descendants_only(hierarchy: Project) -> None:
    hierarchy.invoke("build")
    hierarchy.write("dockerfiles/middle/middle.txt", "changed\n")
    hierarchy.commit()
    document = hierarchy.json("plan")
    assert {image["name"]: image["action"] for image in document["images"]} == {"base": "tag", "middle": "build", "leaf": "build"}
    reasons = {image["name"]: image["reasons"] for image in document["images"]}
    assert reasons["middle"] == [{"kind": "file", "what": "middle.txt changed"}]
    assert reasons["leaf"] == [{"kind": "parent", "what": "middle changed"}]


def test_what_is_published_is_what_the_same_command_built(hierarchy: Project) -> None:
    """Whatever has been written or committed between the two tasks: it belongs to another revision."""
    hierarchy.write(
        "tasks.py",
        """
import pathlib, subprocess
from invoke import task
from pipeline.tasks import namespace

@task
def edit(context):
    pathlib.Path("dockerfiles/base/base.txt").write_text("later")
    subprocess.run(["git", "commit", "-qam", "later"], check=True)

namespace.add_task(edit)
""",
    )
    built_from = hierarchy.commit()
    planned = hierarchy.json("plan")["images"]
    hierarchy.invoke("build", "edit", "push")
    release = json.loads((hierarchy.root / ".pipeline/release.json").read_text())
    assert release["revision"]["commit"] == built_from
    assert {name: image["fingerprint"] for name, image in release["images"].items()} == {
        item["name"]: item["fingerprint"] for item in planned
    }
    assert set(hierarchy.actions().values()) == {"build"}


def test_the_registrys_image_wins_over_another_local_build(hierarchy: Project, registry: RegistryContainer) -> None:
    hierarchy.image("stamped", "parent: base\n", "RUN head -c 16 /dev/urandom | od > /stamp\n")
    hierarchy.commit()
    hierarchy.invoke("build", "push")
    before = {image["name"]: image["image_id"] for image in hierarchy.json("build")["images"]}
    rebuilt = {image["name"]: image for image in hierarchy.json("build", "--only", "stamped", "--no-cache")["images"]}
    assert rebuilt["stamped"]["action"] == "build"
    assert rebuilt["stamped"]["image_id"] != before["stamped"]
    pushed = hierarchy.run("push", "--json")
    assert "stamped: the registry's image of this content wins" in pushed.stderr
    assert {image["name"]: image["image_id"] for image in json.loads(pushed.stdout)["images"]}["stamped"] is None
    after = {image["name"]: image for image in hierarchy.json("build")["images"]}
    assert after["stamped"]["action"] == "pull"
    assert after["stamped"]["image_id"] == before["stamped"]


def test_an_immutable_tag_that_names_another_image_is_refused(hierarchy: Project, registry: RegistryContainer) -> None:
    hierarchy.write(".gitignore", ".pipeline/\n__pycache__/\nproduct.jar\n")
    hierarchy.write("dockerfiles/leaf/product.jar", "one")
    hierarchy.image("leaf", "parent: middle\n", "COPY . /leaf/\n")
    commit = hierarchy.commit()
    hierarchy.invoke("build", "push")
    digest = registry.digest(f"{hierarchy.namespace}/leaf:main-{commit[:12]}")
    hierarchy.write("dockerfiles/leaf/product.jar", "two")  # git-ignored: another image, but not dirty
    assert hierarchy.json("plan")["revision"]["dirty"] is False
    hierarchy.invoke("build")
    refused = hierarchy.run("push")
    assert refused.returncode == 31
    assert "never moves" in refused.stderr
    assert registry.digest(f"{hierarchy.namespace}/leaf:main-{commit[:12]}") == digest


def test_uncommitted_changes_are_marked_and_pushed_only_when_asked(hierarchy: Project, registry: RegistryContainer) -> None:
    hierarchy.write("dockerfiles/leaf/leaf.txt", "not committed\n")
    document = hierarchy.json("plan")
    assert document["revision"]["dirty"] is True
    references = {image["name"]: image["references"] for image in document["images"]}
    assert [reference.endswith("-dirty") for reference in references["leaf"]] == [False, True, True]
    assert [reference.endswith("-dirty") for reference in references["base"]] == [False, False, False]
    hierarchy.invoke("build")
    refused = hierarchy.run("push")
    assert refused.returncode == 12
    assert "leaf" in refused.stderr
    hierarchy.invoke("push", "--allow-dirty")
    assert registry.digest(f"{hierarchy.namespace}/leaf:main-dirty")


def test_release_lists_each_image_by_digest(hierarchy: Project, registry: RegistryContainer) -> None:
    hierarchy.invoke("build", "push")
    release = json.loads((hierarchy.root / ".pipeline/release.json").read_text())
    assert release["revision"]["branch"] == "main"
    for name, image in release["images"].items():
        assert image["digest"] == registry.digest(f"{hierarchy.namespace}/{name}:main")
        assert image["size"] > 0


def test_a_failed_push_leaves_no_release_behind(hierarchy: Project) -> None:
    hierarchy.invoke("build", "push")
    assert hierarchy.run("push", PIPELINE_REGISTRY="127.0.0.1:1").returncode == 30
    assert not (hierarchy.root / ".pipeline/release.json").exists()


def test_a_new_description_reaches_the_image(hierarchy: Project, engine: docker.DockerClient) -> None:
    hierarchy.invoke("build")
    hierarchy.write("images/leaf.yaml", "parent: middle\ndescription: A leaf\n")
    leaf = hierarchy.json("build")["images"][-1]
    assert leaf["action"] == "build"
    assert engine.images.get(leaf["references"][0]).labels["org.opencontainers.image.description"] == "A leaf"


def test_an_image_says_what_it_is_made_of(hierarchy: Project, engine: docker.DockerClient) -> None:
    leaf = hierarchy.json("build")["images"][-1]
    labels = engine.images.get(leaf["references"][0]).labels
    assert labels["org.opencontainers.image.title"] == "leaf"
    assert labels["pipeline.fingerprint"] == leaf["fingerprint"]
    assert "/middle:content-" in labels["org.opencontainers.image.base.name"]
    assert "known to the local engine only" in labels["pipeline.base"]


def test_files_are_sent_with_the_modes_git_keeps(hierarchy: Project, engine: docker.DockerClient) -> None:
    hierarchy.write("dockerfiles/leaf/run.sh", "#!/bin/sh\necho ran\n", mode=0o700)
    hierarchy.image("leaf", "parent: middle\n", "COPY run.sh leaf.txt /\n")
    hierarchy.commit()
    leaf = hierarchy.json("build")["images"][-1]
    output = engine.containers.run(leaf["references"][0], ["sh", "-c", "/run.sh; stat -c %a:%u /run.sh /leaf.txt"], remove=True)
    assert output.decode().split() == ["ran", "755:0", "644:0"]


def test_a_failing_dockerfile_names_its_line_and_its_output(hierarchy: Project) -> None:
    hierarchy.image("middle", "parent: base\n", "RUN echo the-reason >&2 && exit 7\n")
    hierarchy.commit()
    failed = hierarchy.run("build")
    assert failed.returncode == 21
    assert "Dockerfile:3" in failed.stderr
    assert "the-reason" in failed.stderr
    assert hierarchy.run("push").returncode == 22


def test_keep_going_builds_what_can_be_built(hierarchy: Project) -> None:
    hierarchy.image("middle", "parent: base\n", "RUN exit 7\n")
    hierarchy.image("other", "parent: base\n", "COPY Dockerfile /other\n")
    hierarchy.commit()
    failed = hierarchy.run("build", "--keep-going")
    assert failed.returncode == 21
    assert "not built because of it:\n    leaf\n" in failed.stderr
    assert hierarchy.actions()["other"] == "none"


@pytest.mark.parametrize("arguments", [["build", "--only"], ["push", "--only", "--allow-dirty"]])
def test_only_without_a_name_does_not_mean_everything(hierarchy: Project, arguments: list[str]) -> None:
    refused = hierarchy.run(*arguments)
    assert refused.returncode == 10
    assert "--only names no image" in refused.stderr


def test_a_dry_run_changes_nothing(hierarchy: Project, engine: docker.DockerClient) -> None:
    hierarchy.invoke("build", "--dry-run")
    assert not engine.images.list(filters={"reference": f"{hierarchy.registry}/{hierarchy.namespace}/*"})
    assert not (hierarchy.root / ".pipeline").exists()


def test_a_registry_that_is_not_there(hierarchy: Project) -> None:
    nowhere = "127.0.0.1:1"
    hierarchy.invoke("build", PIPELINE_REGISTRY=nowhere)
    failed = hierarchy.run("push", PIPELINE_REGISTRY=nowhere)
    assert failed.returncode == 30
    assert nowhere in failed.stderr


def test_a_used_image_comes_from_the_hierarchy(hierarchy: Project, engine: docker.DockerClient) -> None:
    hierarchy.image("taker", "parent: base\nuses: [leaf]\n", "COPY --from=leaf /leaf.txt /taken.txt\n")
    hierarchy.commit()
    taker = next(image for image in hierarchy.json("build")["images"] if image["name"] == "taker")
    assert engine.containers.run(taker["references"][0], ["cat", "/taken.txt"], remove=True) == b"leaf\n"
    hierarchy.write("dockerfiles/leaf/leaf.txt", "new\n")
    hierarchy.commit()
    assert hierarchy.actions()["taker"] == "build"


def test_an_optional_image_whose_base_cannot_be_had_is_skipped(hierarchy: Project) -> None:
    hierarchy.image("vendor", "from: 127.0.0.1:1/vendor/database:1\noptional: true\n", "")
    hierarchy.image("tuned", "parent: vendor\n", "")
    hierarchy.commit()
    assert hierarchy.actions("build")["vendor"] == "skip"
    assert hierarchy.actions("push")["tuned"] == "skip"
    release = json.loads((hierarchy.root / ".pipeline/release.json").read_text())
    assert "absent" in release["images"]["vendor"]


def test_a_base_that_cannot_be_had_is_an_error(hierarchy: Project) -> None:
    hierarchy.image("vendor", "from: 127.0.0.1:1/vendor/database:1\n", "")
    hierarchy.commit()
    failed = hierarchy.run("build")
    assert failed.returncode == 22
    assert "images/vendor.yaml" in failed.stderr


def test_a_base_only_the_engine_has_is_looked_at_each_time(hierarchy: Project, engine: docker.DockerClient, other_image: str) -> None:
    name = f"{hierarchy.namespace}-own:1"
    try:
        engine.images.get(other_image).tag(name)
        hierarchy.image("own", f"from: {name}\n", "")
        hierarchy.commit()
        assert hierarchy.actions("build")["own"] == "build"
        assert hierarchy.actions()["own"] == "none"
        leaf = hierarchy.json("plan")["images"]
        engine.images.get(next(image["references"][0] for image in leaf if image["name"] == "base")).tag(name)
        assert hierarchy.actions()["own"] == "build"
    finally:
        engine.images.remove(name, force=True)


@pytest.mark.parametrize("secret", ["a-secret-that-must-not-show"])
def test_a_build_secret_stays_out_of_image_and_log(hierarchy: Project, engine: docker.DockerClient, secret: str) -> None:
    hierarchy.write("pipeline.yaml", (hierarchy.root / "pipeline.yaml").read_text() + "secrets:\n  token: {env: TEST_TOKEN}\n")
    hierarchy.image(
        "secretive",
        "parent: base\nsecrets: [token]\n",
        "RUN --mount=type=secret,id=token test -s /run/secrets/token && wc -c < /run/secrets/token > /length\n",
    )
    hierarchy.commit()
    missing = hierarchy.run("build")
    assert missing.returncode == 10
    assert "TEST_TOKEN" in missing.stderr
    built = json.loads(hierarchy.invoke("build", "--json", TEST_TOKEN=secret))
    reference = next(image["references"][0] for image in built["images"] if image["name"] == "secretive")
    assert engine.containers.run(reference, ["cat", "/length"], remove=True).strip() == str(len(secret)).encode()
    assert secret not in json.dumps(engine.api.inspect_image(reference)) + json.dumps(engine.api.history(reference))
    assert secret not in (hierarchy.root / ".pipeline/logs/secretive.log").read_text()


def test_an_engine_over_tcp_builds_and_pushes(hierarchy: Project) -> None:
    with engine_proxy() as proxy:
        hierarchy.environment["DOCKER_HOST"] = proxy.address
        hierarchy.invoke("build", "push")
        assert set(hierarchy.actions().values()) == {"none"}
        assert proxy.connections > 0


def test_a_used_image_from_elsewhere_is_part_of_the_fingerprint(hierarchy: Project, engine: docker.DockerClient, tiny_image: str) -> None:
    name = f"{hierarchy.namespace}-tool:1"
    try:
        engine.images.get(tiny_image).tag(name)
        hierarchy.image("taker", f"parent: base\nuses: ['{name}']\n", f"COPY --from={name} /bin/sh /taken\n")
        hierarchy.commit()
        assert hierarchy.actions("build")["taker"] == "build"
        assert hierarchy.actions()["taker"] == "none"
        engine.images.get(hierarchy.json("plan")["images"][0]["references"][0]).tag(name)  # its owner built it anew
        assert hierarchy.actions()["taker"] == "build"
        hierarchy.invoke("build")
    finally:
        engine.images.remove(name, force=True)


def test_an_application_in_the_root_of_its_repository(project: Project, engine: docker.DockerClient, tiny_image: str) -> None:
    project.write("pipeline.yaml", (project.root / "pipeline.yaml").read_text() + "images: [image.yaml]\n")
    project.write("image.yaml", f"name: shop\nfrom: {tiny_image}\n")
    project.write("Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY . /shop/\n")
    project.write(".dockerignore", "__pycache__\n")
    project.commit()
    built = project.json("build")["images"]
    assert [image["name"] for image in built] == ["shop"]
    project.commit("another commit over the same content")
    assert project.actions() == {"shop": "tag"}
    output = engine.containers.run(built[0]["references"][0], ["sh", "-c", "cd /shop && echo .* *"], remove=True).decode().split()
    assert {".git", ".pipeline"}.isdisjoint(output)
    assert {".gitignore", "tasks.py"} <= set(output)
