"""A revision published as a whole: the release in the registry, the branch's tags, and what is said of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from pipeline.adapters.registry import Registry
from pipeline.reference import Reference
from tests.engine.conftest import Project, RegistryContainer

FIRST, SECOND, THIRD = (f"2026-01-0{day}T12:00:00+00:00" for day in (1, 2, 3))


def commit_change(project: Project, text: str, when: str, path: str = "dockerfiles/middle/middle.txt") -> str:
    """Change a file and commit it at a certain time; the commit."""
    project.write(path, text)
    dates = {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
    for arguments in (["add", "--all"], ["commit", "--quiet", "--message", text]):
        subprocess.run(["git", *arguments], cwd=project.root, check=True, env={"PATH": "/usr/bin:/bin", **dates})
    return str(subprocess.run(["git", "rev-parse", "HEAD"], cwd=project.root, check=True, capture_output=True, text=True).stdout.strip())


def clone(project: Project, folder: Path, *options: str) -> Project:
    """Another machine's checkout of the same repository."""
    subprocess.run(["git", "clone", "--quiet", *options, f"file://{project.root}", folder], check=True)
    return replace(project, root=folder)


def branch_digests(project: Project, registry: RegistryContainer, tag: str = "main") -> dict[str, str]:
    return {name: registry.digest(f"{project.namespace}/{name}:{tag}") for name in ("base", "middle", "leaf")}


def release_digests(project: Project, name: str) -> dict[str, str]:
    return {image: found["digest"] for image, found in project.json("release.show", "--release", name)["images"].items()}


def test_a_release_is_one_artifact_that_names_every_image_by_digest(hierarchy: Project, registry: RegistryContainer) -> None:
    hierarchy.invoke("build", "push")
    local = json.loads((hierarchy.root / ".pipeline/release.json").read_text())
    assert hierarchy.json("release.show") == local
    assert release_digests(hierarchy, "main") == branch_digests(hierarchy, registry)
    commit = local["revision"]["commit"]
    assert registry.digest(f"{hierarchy.namespace}/releases:main") == registry.digest(f"{hierarchy.namespace}/releases:main-{commit[:12]}")
    assert hierarchy.json("release.show", "--release", commit[:7]) == local


def test_images_go_up_before_the_release_and_the_branch_follows(hierarchy: Project, registry: RegistryContainer) -> None:
    begun = len(registry.log())
    hierarchy.invoke("build", "push")
    puts = re.findall(r'"PUT /v2/\S+/(base|middle|leaf|releases)/manifests/(\S+) HTTP/1.1" 201', "\n".join(registry.log()[begun:]))
    kinds = [("release " if name == "releases" else "") + ("commit" if re.search("-[0-9a-f]{12}$", tag) else tag[:7]) for name, tag in puts]
    assert sorted(kinds[:6]) == ["commit"] * 3 + ["content"] * 3
    assert kinds[6:] == ["release commit", "release main", "main", "main", "main"]


def test_what_a_child_shares_with_its_parent_is_mounted_not_uploaded(hierarchy: Project, registry: RegistryContainer) -> None:
    for name in ("base", "middle", "leaf"):  # what no repository of the registry has
        hierarchy.write(f"dockerfiles/{name}/{name}.txt", f"{name} {hierarchy.namespace}\n")
    hierarchy.commit()
    begun = len(registry.log())
    hierarchy.invoke("build", "push")
    log = "\n".join(registry.log()[begun:])
    uploads = re.findall(rf'"PUT /v2/{hierarchy.namespace}/(base|middle|leaf)/blobs/uploads/\S+ HTTP/1.1" 201', log)
    mounts = re.findall(rf'"POST /v2/{hierarchy.namespace}/(base|middle|leaf)/blobs/uploads/\?from=\S+ HTTP/1.1" 201', log)
    own = {name: uploads.count(name) for name in ("middle", "leaf")}
    assert own == {"middle": 2, "leaf": 2}  # its one layer, and its config
    assert mounts.count("middle") == mounts.count("leaf") - 1
    assert mounts.count("middle") >= 2  # what base consists of


def test_another_commit_over_the_same_content_writes_manifests_only(hierarchy: Project, registry: RegistryContainer) -> None:
    hierarchy.invoke("build", "push")
    commit = hierarchy.commit("nothing changed")
    begun = len(registry.log())
    hierarchy.invoke("build", "push")
    log = registry.log()[begun:]
    for name in ("base", "middle", "leaf"):
        assert not [line for line in log if f"/{name}/blobs/" in line]
    written = re.findall(r'"PUT /v2/(\S+)/manifests/(\S+) HTTP/1.1" 201', "\n".join(log))
    with closing(Registry(registry.host)) as client:
        sizes = [len(client.manifest(Reference(registry.host, path, tag)).content) for path, tag in written]
        document = client.manifest(Reference(registry.host, f"{hierarchy.namespace}/releases", f"main-{commit[:12]}"))
    assert len(written) == 3 + 2  # each image's commit tag, the release and the branch's release; branch tags stay where they are
    assert sum(sizes) + json.loads(document.content)["config"]["size"] < 3 * 10_000


def test_a_machine_that_has_nothing_builds_and_pulls_nothing(
    hierarchy: Project, registry: RegistryContainer, engine: docker.DockerClient, tmp_path: Path
) -> None:
    hierarchy.invoke("build", "push")
    forget_images(hierarchy, engine)
    fresh = clone(hierarchy, tmp_path / "fresh")
    begun = len(registry.log())
    assert set(fresh.actions("build").values()) == {"none"}
    fresh.invoke("push")
    assert not [line for line in registry.log()[begun:] if "/blobs/" in line and "/releases/" not in line]
    assert not engine.images.list(filters={"reference": f"*/{hierarchy.namespace}/*"})


def test_only_what_is_built_upon_is_pulled(hierarchy: Project, engine: docker.DockerClient) -> None:
    hierarchy.invoke("build", "push")
    forget_images(hierarchy, engine)
    hierarchy.write("dockerfiles/leaf/leaf.txt", "changed\n")
    hierarchy.commit()
    assert hierarchy.actions("build") == {"base": "none", "middle": "pull", "leaf": "build"}
    hierarchy.invoke("push")
    assert hierarchy.actions("build", "--pull") == {"base": "pull", "middle": "none", "leaf": "none"}


def test_the_branch_waits_for_promotion(hierarchy: Project, registry: RegistryContainer) -> None:
    hierarchy.invoke("build", "push")
    before = branch_digests(hierarchy, registry)
    commit_change(hierarchy, "second\n", SECOND)
    hierarchy.invoke("build", "push", "--commit-only")
    assert branch_digests(hierarchy, registry) == before == release_digests(hierarchy, "main")
    listed = hierarchy.json("release.list")
    assert {release["promoted"] for release in listed} == {True, False}
    hierarchy.invoke("release.promote")
    after = branch_digests(hierarchy, registry)
    assert after == release_digests(hierarchy, "main")
    assert {name for name in after if after[name] != before[name]} == {"middle", "leaf"}


def test_an_older_commit_that_is_ready_later_leaves_the_branch_alone(
    hierarchy: Project, registry: RegistryContainer, tmp_path: Path
) -> None:
    first = commit_change(hierarchy, "first\n", FIRST)
    older = clone(hierarchy, tmp_path / "older")
    commit_change(hierarchy, "second\n", SECOND)
    hierarchy.invoke("build", "push")
    newest = branch_digests(hierarchy, registry)
    older.invoke("build")
    pushed = older.run("push")
    assert pushed.returncode == 0
    assert "branch tag main: stays at" in pushed.stderr
    assert branch_digests(hierarchy, registry) == newest == release_digests(hierarchy, "main")
    assert release_digests(hierarchy, first)["middle"] != newest["middle"]


@pytest.mark.parametrize(("when", "moves"), [(THIRD, True), (FIRST, False)], ids=["newer", "older"])
def test_a_shallow_clone_goes_by_commit_time_and_says_so(
    hierarchy: Project, registry: RegistryContainer, tmp_path: Path, when: str, moves: bool
) -> None:
    commit_change(hierarchy, "second\n", SECOND)
    hierarchy.invoke("build", "push")
    commit = commit_change(hierarchy, "another\n", when)
    shallow = clone(hierarchy, tmp_path / "shallow", "--depth=1")
    shallow.invoke("build")
    pushed = shallow.run("push")
    assert "their ancestry is not in this clone; by commit time" in pushed.stderr
    released = shallow.json("release.show")["revision"]["commit"]
    assert (released == commit) is moves
    assert branch_digests(hierarchy, registry) == release_digests(hierarchy, "main")


def test_what_differs_between_two_releases(hierarchy: Project) -> None:
    hierarchy.invoke("build", "push")
    commit_change(hierarchy, "second\n", SECOND)
    hierarchy.image("new", "parent: base\n", "")
    hierarchy.commit("new")
    hierarchy.invoke("build", "push")
    found = {image["name"]: image for image in hierarchy.json("release.show", "--against", "HEAD~2")["images"]}
    assert {name: image["change"] for name, image in found.items()} == {"middle": "changed", "leaf": "changed", "new": "added"}
    assert found["middle"]["causes"] == ["file middle.txt changed"]
    assert found["leaf"]["causes"] == ["parent middle changed"]


def test_a_release_is_pulled_by_digest_under_its_tags(hierarchy: Project, engine: docker.DockerClient) -> None:
    hierarchy.invoke("build", "push")
    forget_images(hierarchy, engine)
    hierarchy.invoke("release.pull")
    release = hierarchy.json("release.show")
    for image in release["images"].values():
        digests = engine.images.get(f"{image['repository']}:main").attrs["RepoDigests"]
        assert f"{image['repository']}@{image['digest']}" in digests
        for tag in image["tags"]:
            assert engine.images.get(f"{image['repository']}:{tag}")
    assert set(hierarchy.actions("build").values()) == {"none"}


def test_a_release_that_is_not_there(hierarchy: Project) -> None:
    hierarchy.invoke("build", "push")
    for arguments in (["release.show", "--release", "nowhere"], ["plan", "--against", "nowhere"], ["release.show", "--against", "nowhere"]):
        missing = hierarchy.run(*arguments)
        assert missing.returncode == 22
        assert "there is no release of 'nowhere'" in missing.stderr
        assert "Released branches: main" in missing.stderr


def test_a_plan_is_explained_against_the_last_release_of_the_branch(
    hierarchy: Project, registry: RegistryContainer, tmp_path: Path
) -> None:
    hierarchy.invoke("build", "push")
    fresh = clone(hierarchy, tmp_path / "fresh")  # knows nothing of earlier builds
    fresh.write("dockerfiles/middle/added.txt", "")
    fresh.write("dockerfiles/middle/Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY *.txt /\n")
    (fresh.root / "dockerfiles/leaf/leaf.txt").chmod(0o755)
    fresh.image("new", "parent: base\n", "")
    before = snapshot(fresh.root)
    explained = fresh.json("plan", "--explain")
    assert snapshot(fresh.root) == before
    causes = {image["name"]: [(cause["kind"], cause["what"]) for cause in image["causes"]] for image in explained["images"]}
    assert explained["against"].startswith("main-")
    actions = {image["name"]: image["action"] for image in explained["images"]}
    assert actions == {"base": "none", "middle": "build", "leaf": "build", "new": "build"}
    assert causes["middle"] == [("dockerfile", "Dockerfile changed"), ("file", "added.txt added")]
    assert causes["leaf"] == [("file", "leaf.txt changed mode: executable"), ("parent", "middle changed")]
    assert causes["new"][0][0] == "new"


def test_what_somebody_removed_from_the_registry_is_explained(hierarchy: Project, registry: RegistryContainer) -> None:
    hierarchy.invoke("build", "push")
    registry.container.exec_run(["rm", "-r", f"/var/lib/registry/docker/registry/v2/repositories/{hierarchy.namespace}/leaf"])
    causes = {image["name"]: image["causes"] for image in hierarchy.json("plan", "--explain")["images"]}
    assert causes["leaf"] == [{"kind": "missing", "what": "unchanged, but missing in the registry"}]
    hierarchy.invoke("build", "push")
    assert registry.digest(f"{hierarchy.namespace}/leaf:main") == release_digests(hierarchy, "main")["leaf"]


def test_the_repository_of_the_releases_is_no_images(hierarchy: Project) -> None:
    hierarchy.image("releases", "parent: base\n", "")
    refused = hierarchy.run("plan")
    assert refused.returncode == 10
    assert "'releases' is where the releases of the project are kept" in refused.stderr


def test_some_images_alone_are_published_under_content_and_commit_only(hierarchy: Project, registry: RegistryContainer) -> None:
    hierarchy.invoke("build", "push", "--only", "middle")
    assert registry.digest(f"{hierarchy.namespace}/middle:main") == ""
    assert registry.digest(f"{hierarchy.namespace}/releases:main") == ""
    assert hierarchy.json("plan")["images"][1]["published"] is True


def forget_images(project: Project, engine: docker.DockerClient) -> None:
    """Remove all of a project's images from the engine, and what the checkout remembers."""
    for image in reversed(project.json("plan")["images"]):
        for tag in [tag for found in engine.images.list(f"{image['references'][0].rpartition(':')[0]}") for tag in found.tags]:
            engine.images.remove(tag, force=True)
    shutil.rmtree(project.root / ".pipeline")


def snapshot(folder: Path) -> dict[str, int]:
    return {
        str(path): path.lstat().st_mtime_ns for path in folder.rglob("*") if ".git/" not in str(path) and "__pycache__" not in str(path)
    }
