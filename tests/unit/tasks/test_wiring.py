"""Facts read, planned upon and carried out: with an engine of a few lines on a real socket, and no registry at all."""

from __future__ import annotations

import json
import shutil
import socketserver
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from git import Actor, Repo

from pipeline.config import Config, read_config
from pipeline.errors import ConfigurationError, ImageUnavailableError, RegistryUnreachableError, RevisionError
from pipeline.images.release import Releases
from pipeline.reference import parse_reference
from pipeline.tasks.service_images import provide_image
from pipeline.tasks.shelf import pull_reference
from pipeline.tasks.wiring import ImageProject

MakeProject = Callable[[Mapping[str, str]], Path]
DIGEST = "sha256:" + "1" * 64
NOBODY = "127.0.0.1:9"  # the discard port: nobody listens there


class Engine:
    """What this engine has: name → (image id, digests). It answers only what planning asks."""

    def __init__(self, path: str) -> None:
        self.images: dict[str, tuple[str, list[str]]] = {}
        self.posts: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def address_string(self) -> str:
                return "unix"

            def do_GET(self) -> None:
                path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).partition("/v1.41")[2]
                name = path.removeprefix("/images/").removesuffix("/json")
                found: object = {"message": f"no such image: {name}"}
                status = 404
                if path == "/images/json":
                    status, found = 200, [outer.describe(name) for name in outer.images]
                elif path.startswith("/distribution/"):
                    status, found = 200, {"Descriptor": {"digest": DIGEST}}
                elif name in outer.images:
                    status, found = 200, outer.describe(name)
                self.reply(status, json.dumps(found).encode())

            def do_POST(self) -> None:
                outer.posts.append(self.path.partition("/v1.41")[2])
                self.reply(200, b"")

            def reply(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                pass

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True
            block_on_close = False

        self._server = Server(path, Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def describe(self, name: str) -> dict[str, object]:
        image_id, digests = self.images[name]
        return {"Id": image_id, "RepoTags": [name], "RepoDigests": digests, "Size": 1, "Created": 1, "Os": "linux", "Architecture": "amd64"}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    with tempfile.TemporaryDirectory() as folder:  # short: a socket's path has little room
        made = Engine(f"{folder}/engine")
        monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/engine")
        yield made
        made.close()


@pytest.fixture
def config(images: MakeProject) -> Config:
    root = images({"root": "from: ubuntu:24.04", "child": "parent: root"})
    (root / "pipeline.yaml").write_text(f"registry: {NOBODY}\nnamespace: team\n")
    (root / ".gitignore").write_text(".pipeline/\n*.war\n")
    repository = Repo.init(root, initial_branch="main")
    repository.git.add("--all")
    repository.index.commit("all", author=Actor("x", "x@example.com"), committer=Actor("x", "x@example.com"))
    repository.create_remote("origin", "https://me:secret@example.com/team/x.git")
    return read_config(root)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def wired(engine: Engine, config: Config, said: list[str]) -> Iterator[ImageProject]:
    with ImageProject(config, said.append) as made:
        yield made


def test_without_a_registry_a_plan_goes_by_the_engine_and_says_so(wired: ImageProject, said: list[str]) -> None:
    plan = wired.read_plan()
    assert [(step.name, step.action) for step in plan.steps] == [("root", "build"), ("child", "build")]
    assert str(plan.revision).startswith("main at ")
    assert not plan.revision.dirty
    assert f"base ubuntu:24.04: ubuntu:24.04 {DIGEST} (not pinned: invoke pins.update)" in said
    assert any(line.startswith(f"warning: the registry {NOBODY} does not answer") for line in said)


def test_publishing_needs_the_registry(wired: ImageProject) -> None:
    with pytest.raises(RegistryUnreachableError):
        wired.read_plan(need_registry=True)


def test_what_the_engine_has_needs_nothing(wired: ImageProject, engine: Engine) -> None:
    for step in wired.read_plan().steps:
        engine.images.update({str(reference): (f"sha256:{step.name}", []) for reference in step.references})
    assert {step.action for step in wired.read_plan().steps} == {"none"}


def test_a_change_is_dirty_and_a_build_product_is_only_an_input(wired: ImageProject, config: Config) -> None:
    clean = wired.read_plan()
    (config.root / "dockerfiles/child/x.war").write_text("built")
    plan = wired.read_plan()
    assert not plan.revision.dirty
    assert plan["child"].content != clean["child"].content
    (config.root / "dockerfiles/child/new").write_text("1")
    plan = wired.read_plan()
    assert plan.revision.dirty
    assert plan["child"].dirty
    assert not plan["root"].dirty
    assert plan["child"].branch.tag == "main-dirty"
    assert plan["root"].branch.tag == "main"


def test_a_base_is_remembered_unless_told_otherwise(wired: ImageProject, config: Config) -> None:
    wired.read_plan()
    assert not config.state.exists()
    wired.read_plan(remember=True)
    assert DIGEST in (config.state / "bases.json").read_text()


@pytest.mark.parametrize(
    ("digests", "kind"), [([], "local"), ([f"ubuntu@{DIGEST}"], "digest"), ([f"mirror.example/ubuntu@{DIGEST}"], "local")]
)
def test_a_base_of_the_engine_alone_is_local(wired: ImageProject, engine: Engine, digests: list[str], kind: str) -> None:
    engine.images["ubuntu:24.04"] = ("sha256:local", digests)
    assert wired.bases(wired.hierarchy, remember=False)["ubuntu:24.04"].kind == kind


@pytest.mark.parametrize(
    ("registry", "pull_from", "source"),
    [
        ("push.example", "pull.example:5000/virtual", "pull.example:5000/virtual/team/app:t"),
        ("push.example/local", "pull.example/virtual", "pull.example/virtual/team/app:t"),
        ("push.example/local", "pull.example", "pull.example/team/app:t"),
        ("push.example/local", "", "push.example/local/team/app:t"),
    ],
)
def test_pull_and_push_addresses_may_differ(images: MakeProject, registry: str, pull_from: str, source: str) -> None:
    root = images({"app": "from: x"})
    (root / "pipeline.yaml").write_text(f"registry: {registry}\nnamespace: team\npull_from: '{pull_from}'\n")
    content = parse_reference(f"{registry}/team/app:t")
    assert str(pull_reference(read_config(root), content)) == source


def test_a_pulled_image_gets_the_name_it_is_pushed_under(engine: Engine, config: Config, said: list[str]) -> None:
    (config.root / "pipeline.yaml").write_text(f"registry: {NOBODY}\nnamespace: team\npull_from: mirror.example/all\n")
    with ImageProject(read_config(config.root), said.append) as project:
        plan = project.read_plan()
        content = plan["root"].content
        engine.images[str(content)] = ("sha256:pulled", [])
        assert project.workshop(plan).pull(content) == "sha256:pulled"
    pull, tag = map(urllib.parse.unquote, engine.posts)
    assert pull.startswith("/images/create?fromImage=mirror.example/all/team/root&tag=content-")
    assert tag.startswith("/images/mirror.example/all/team/root:content-")
    assert f"repo={NOBODY}/team/root" in tag


def test_labels_say_where_an_image_comes_from_without_credentials(wired: ImageProject) -> None:
    plan = wired.read_plan()
    workshop = wired.workshop(plan)
    root, child = workshop._labels(plan["root"]), workshop._labels(plan["child"])
    assert root["org.opencontainers.image.title"] == "root"
    assert root["org.opencontainers.image.source"] == "https://example.com/team/x.git"
    assert child["org.opencontainers.image.base.name"] == str(plan["root"].content)
    assert child["pipeline.fingerprint"] == plan["child"].fingerprint.value
    assert root["pipeline.base"] == f"ubuntu:24.04 {DIGEST}"
    assert "pipeline.base" not in child
    assert plan.revision.commit not in str(root | child)
    assert "secret" not in str(root | child)


def test_build_secrets_are_named_and_never_read(
    engine: Engine, config: Config, said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = "secrets:\n  file: {file: token}\n  env: {env: TOKEN}\n  spare: {env: NOT_SET, required: false}\n  lost: {file: nowhere}\n"
    (config.root / "pipeline.yaml").write_text(f"registry: {NOBODY}\nnamespace: team\n{text}")
    (config.root / "token").write_text("very secret")
    (tmp_path / "ca.pem").write_text("")
    monkeypatch.setenv("TOKEN", "very secret")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with ImageProject(read_config(config.root), said.append) as project:
        (config.root / "images/child.yaml").write_text("parent: root\nsecrets: [file, env, spare, ca]\n")
        found = project.workshop(project.read_plan())._secrets
    assert found == {"file": f"src={config.root / 'token'}", "env": "env=TOKEN", "ca": f"src={tmp_path / 'ca.pem'}"}
    (config.root / "images/child.yaml").write_text("parent: root\nsecrets: [lost]\n")
    with (
        ImageProject(read_config(config.root), said.append) as project,
        pytest.raises(ConfigurationError, match=r"pipeline.yaml:7: the build secret 'lost' is missing: there is no file nowhere"),
    ):
        project.workshop(project.read_plan())


def test_the_image_of_a_service(engine: Engine, config: Config, said: list[str]) -> None:
    assert provide_image(config, "docker.io/gvenzl/oracle-free:23", said.append) == "docker.io/gvenzl/oracle-free:23"
    with pytest.raises(ConfigurationError, match="there is no image definition 'rot'") as caught:
        provide_image(config, "rot", said.append)
    assert "'root'" in caught.value.hint
    with ImageProject(config, said.append) as project:
        step = project.read_plan()["root"]
    engine.images.update({str(reference): ("sha256:root", []) for reference in step.references})
    assert provide_image(config, "root", said.append) == str(step.content)


def test_a_plan_of_some_images_forgets_no_base_of_the_others(engine: Engine, config: Config, said: list[str]) -> None:
    (config.root / "images/other.yaml").write_text("from: debian:13\n")
    shutil.copytree(config.root / "dockerfiles/root", config.root / "dockerfiles/other")
    for only in ([], ["root"], []):
        with ImageProject(read_config(config.root), said.append) as project:
            project.read_plan(only, remember=True)
    assert [line.partition(":")[0] for line in said if line.startswith("base ")] in (
        ["base ubuntu", "base debian"],
        ["base debian", "base ubuntu"],
    )


def test_a_submodule_that_an_image_takes_and_is_not_checked_out(wired: ImageProject, config: Config) -> None:
    (config.root / ".gitmodules").write_text('[submodule "lib"]\n\tpath = dockerfiles/child/lib\n\turl = https://example.com/lib\n')
    (config.root / "dockerfiles/child/lib").mkdir()
    with pytest.raises(RevisionError) as caught:
        wired.read_plan()
    assert caught.value.message == "the image child takes dockerfiles/child/lib, a submodule that is not checked out"
    assert caught.value.hint == "Check the submodules out: git submodule update --init --recursive dockerfiles/child/lib"
    assert wired.read_plan(["root"]).steps  # takes nothing of it
    (config.root / "dockerfiles/child/.dockerignore").write_text("lib\n")
    assert wired.read_plan().steps


def test_a_build_context_in_a_submodule_that_is_not_checked_out(wired: ImageProject, config: Config) -> None:
    (config.root / ".gitmodules").write_text('[submodule "x"]\n\tpath = dockerfiles/child\n\turl = https://example.com/x\n')
    shutil.rmtree(config.root / "dockerfiles/child")
    (config.root / "dockerfiles/child").mkdir()
    with pytest.raises(ConfigurationError, match="has no Dockerfile") as caught:
        wired.read_plan()
    assert "git submodule update --init --recursive dockerfiles/child" in caught.value.hint


def test_a_release_by_a_name_that_a_shallow_clone_does_not_know(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config.root / "more").touch()
    repository = Repo(config.root)
    repository.git.add("--all")
    repository.index.commit("more", author=Actor("x", "x@example.com"), committer=Actor("x", "x@example.com"))
    repository.git.execute(["git", "clone", "--quiet", "--depth", "1", f"file://{config.root}", str(tmp_path / "clone")])

    def nothing(_self: Releases, wanted: str) -> None:
        raise ImageUnavailableError(f"there is no release of '{wanted}'", "See: invoke release.list")

    monkeypatch.setattr(Releases, "find", nothing)
    for root, shallow in ((config.root, False), (tmp_path / "clone", True)):
        with ImageProject(read_config(root), print) as project, pytest.raises(ImageUnavailableError) as caught:
            project.find_release("HEAD~5")
        assert ("git fetch --unshallow" in caught.value.hint) is shallow
