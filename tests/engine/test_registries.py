"""Registries as companies have them: a CA of one's own, logins and tokens, a path prefix, a virtual address, a mirror."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import pytest

from pipeline.adapters.credentials import Credentials
from pipeline.adapters.registry import Registry
from pipeline.reference import Reference
from tests.certificates import Identity, issue, make_authority
from tests.engine.conftest import Project, RegistryContainer, remove_images, run_registry, wait_for
from tests.engine.hostile_registry import HostileRegistry, Refusal, hostile_registry, says
from tests.engine.second_engine import SecondEngine, second_engine
from tests.engine.test_failures import watched_command_lines
from tests.engine.token_service import TokenService

CERTIFICATES = Path("/etc/docker/certs.d")
PASSWORD = "kept-out-of-everything-0815"
EVERYTHING = frozenset({"pull", "push"})
Start = Callable[..., RegistryContainer]


@pytest.fixture
def start(machine: docker.DockerClient) -> Iterator[Start]:
    """Start a registry that is removed afterwards; `files`: path in its container → content, readable by its user."""
    with contextlib.ExitStack() as stack:

        def run(folder: Path | None = None, files: dict[str, bytes] | None = None, **environment: str) -> RegistryContainer:
            volumes = {}
            for path, content in (files or {}).items():
                assert folder
                file = folder / path.replace("/", "_")
                file.write_bytes(content)
                file.chmod(0o644)  # in a folder that nobody else may enter
                volumes[str(file)] = {"bind": path, "mode": "ro"}
            server = run_registry(machine, environment=environment, volumes=volumes)
            stack.callback(server.container.remove, force=True, v=True)
            return server

        yield run


@pytest.fixture
def small(project: Project, tiny_image: str, engine: docker.DockerClient) -> Iterator[Project]:
    """Two small linked images, lower → upper, published wherever PIPELINE_REGISTRY says; whose login is known is in `docker/`."""
    project.image("lower", f"from: {tiny_image}\n", "COPY lower.txt /lower.txt\n")
    project.write("dockerfiles/lower/lower.txt", f"{project.namespace}\n")
    project.image("upper", "parent: lower\n", "COPY upper.txt /upper.txt\n")
    project.write("dockerfiles/upper/upper.txt", "upper\n")
    project.environment["DOCKER_CONFIG"] = str(project.root.parent / "docker")
    project.commit("begin")
    yield project
    remove_images(engine, f"{project.environment.get('PIPELINE_REGISTRY', project.registry)}/{project.namespace}/*")


def at(project: Project, registry: str) -> Project:
    """The project with another registry."""
    project.environment["PIPELINE_REGISTRY"] = registry
    return project


def prove_published(project: Project, engine: docker.DockerClient) -> None:
    """Publish, find nothing more to do, and get the same images back on an engine that lost them."""
    project.invoke("build", "push")
    built = {image["name"]: image["image_id"] for image in project.json("build")["images"]}
    assert project.actions("plan") == project.actions("push") == {"lower": "none", "upper": "none"}
    remove_images(engine, f"{project.environment.get('PIPELINE_REGISTRY', project.registry)}/{project.namespace}/*")
    again = project.json("build", "--pull")["images"]
    assert {image["name"]: image["action"] for image in again} == {"lower": "pull", "upper": "pull"}
    assert {image["name"]: image["image_id"] for image in again} == built


def docker_login(project: Project, registry: str, user: str, password: str) -> int:
    command = ["docker", "login", "--username", user, "--password-stdin", registry]
    environment = {**os.environ, **project.environment}
    return subprocess.run(command, input=password.encode(), env=environment, capture_output=True, check=False).returncode


def configure_docker(project: Project, document: dict[str, Any]) -> None:
    folder = Path(project.environment["DOCKER_CONFIG"])
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(document))


def written_by(project: Project, engine: docker.DockerClient, server: RegistryContainer) -> str:
    """Whatever a run leaves: the files of `.pipeline`, the images' metadata, the registry's log and its container's."""
    files = [path.read_text(errors="replace") for path in (project.root / ".pipeline").rglob("*") if path.is_file()]
    images = engine.images.list(filters={"reference": f"{server.host}/{project.namespace}/*"})
    assert files
    assert images
    return "".join([*files, *(json.dumps([image.attrs, image.history()]) for image in images), *server.log(), str(server.container.attrs)])


# TLS


@pytest.fixture(scope="module")
def authority() -> Identity:
    """The company's."""
    return make_authority("Company CA")


@pytest.fixture(scope="module")
def tls_registry(
    machine: docker.DockerClient, authority: Identity, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RegistryContainer]:
    """A registry with a certificate of the company's, on a port of this machine and on its container's own address."""
    folder = tmp_path_factory.mktemp("tls")
    network: Any = machine.networks.get("bridge")
    subnet = ipaddress.ip_network(network.attrs["IPAM"]["Config"][0]["Subnet"])
    addresses = [str(address) for address in itertools.islice(subnet.hosts(), 250)]  # which one it gets shows only later
    server = issue(authority, "registry", addresses)
    for name, content in (("certificate", server.certificate_pem), ("key", server.key_pem)):
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o644)
    container = run_registry(
        machine,
        environment={"REGISTRY_HTTP_TLS_CERTIFICATE": "/tls/certificate", "REGISTRY_HTTP_TLS_KEY": "/tls/key"},
        volumes={str(folder / name): {"bind": f"/tls/{name}", "mode": "ro"} for name in ("certificate", "key")},
    )
    yield container
    container.container.remove(force=True, v=True)


def off_loopback(server: RegistryContainer) -> str:
    """HOST:PORT by which this machine reaches a registry's container without a published port: no loopback address."""
    server.container.reload()
    return f"{server.container.attrs['NetworkSettings']['Networks']['bridge']['IPAddress']}:5000"


@contextlib.contextmanager
def trusted(host: str, authority: Identity) -> Iterator[None]:
    """The authority's certificate is where Docker looks for it."""
    if os.geteuid() != 0:
        pytest.skip(f"only root may write to {CERTIFICATES}")
    folder = CERTIFICATES / host
    is_new = not CERTIFICATES.exists()
    folder.mkdir(parents=True)
    try:
        (folder / "ca.crt").write_bytes(authority.certificate_pem)
        yield
    finally:
        shutil.rmtree(folder)
        if is_new:
            with contextlib.suppress(OSError):
                CERTIFICATES.rmdir()


@pytest.mark.both_stores
def test_tls_on_this_machine_needs_nobodys_trust(small: Project, engine: docker.DockerClient, tls_registry: RegistryContainer) -> None:
    prove_published(at(small, tls_registry.host), engine)


def test_a_company_authority_where_docker_looks_for_it(
    small: Project, engine: docker.DockerClient, tls_registry: RegistryContainer, authority: Identity
) -> None:
    host = off_loopback(tls_registry)
    with trusted(host, authority):
        prove_published(at(small, host), engine)


def test_an_authority_that_nobody_trusts(small: Project, tls_registry: RegistryContainer) -> None:
    host = off_loopback(tls_registry)
    built = at(small, host).run("build")
    assert built.returncode == 0  # for this, nobody needs the registry
    refused = small.run("push")
    assert refused.returncode == 30, refused.stderr
    for said in (built.stderr, refused.stderr):
        assert f"the registry {host} shows a certificate that is not trusted" in said
    assert f"{CERTIFICATES}/{host}/ca.crt" in refused.stderr
    refused = small.run("push", SSL_CERT_FILE="/dev/null")
    assert refused.returncode == 30, refused.stderr


def test_an_authority_in_ssl_cert_file(small: Project, tls_registry: RegistryContainer, authority: Identity, tmp_path: Path) -> None:
    bundle = tmp_path / "company.crt"
    bundle.write_bytes(authority.certificate_pem)
    host = off_loopback(tls_registry)
    at(small, host).environment["SSL_CERT_FILE"] = str(bundle)
    planned = small.run("plan")
    assert planned.returncode == 0
    assert "warning" not in planned.stderr
    small.invoke("build")
    refused = small.run("push")  # we trust it; the engine, which does the uploading, has not heard of that variable
    assert refused.returncode == 30, refused.stderr
    assert f"{CERTIFICATES}/{host}/ca.crt" in refused.stderr
    with trusted(host, authority):
        small.invoke("push")


def test_plain_http_on_another_machine_is_refused_clearly(small: Project, registry: RegistryContainer) -> None:
    host = off_loopback(registry)
    at(small, host).invoke("build")
    refused = small.run("push")
    assert refused.returncode == 30, refused.stderr
    assert f"the registry {host} does not speak TLS" in refused.stderr
    assert f"{CERTIFICATES}/{host}/ca.crt" in refused.stderr


# Logins


@pytest.fixture
def basic(start: Start, tmp_path: Path) -> RegistryContainer:
    """A registry that lets `builder` in, with a password."""
    return start(
        tmp_path,
        {"/run/pipeline/password": f"{PASSWORD}\n".encode()},
        HTPASSWD_USER="builder",
        HTPASSWD_PASSWORD_FILE="/run/pipeline/password",
    )


def credential_helper(project: Project, folder: Path, secret: str, user: str = "builder") -> None:
    """A helper on PATH that keeps one login, and only answers to who asks for it on standard input."""
    (folder / "secret").write_text(secret)
    helper = folder / "docker-credential-company"
    answer = f'{{"ServerURL":"%s","Username":"{user}","Secret":"%s"}}'
    helper.write_text(f'#!/bin/sh\n[ "$*" = get ] || exit 1\nread -r host\nprintf \'{answer}\' "$host" "$(cat {folder}/secret)"\n')
    helper.chmod(0o755)
    project.environment["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.both_stores
def test_a_credential_helper(small: Project, engine: docker.DockerClient, basic: RegistryContainer, tmp_path: Path) -> None:
    credential_helper(small, tmp_path, PASSWORD)
    configure_docker(small, {"credHelpers": {basic.host: "company"}})
    with watched_command_lines(PASSWORD) as seen:
        prove_published(at(small, basic.host), engine)
    assert not seen
    assert PASSWORD not in written_by(small, engine, basic)


def test_a_wrong_password_is_refused_at_once(small: Project, basic: RegistryContainer, tmp_path: Path) -> None:
    credential_helper(small, tmp_path, "wrong-" + PASSWORD)
    configure_docker(small, {"credsStore": "company"})
    at(small, basic.host)
    for command in ("plan", "build", "push"):
        before = len(basic.log())
        refused = small.run(command)
        assert refused.returncode == 31, refused.stderr
        assert f"docker login {basic.host}" in refused.stderr
        assert PASSWORD not in refused.stdout + refused.stderr
        # A challenge and an answer for each of the two images, which are asked for at the same time; nothing is asked again.
        assert 1 <= len([line for line in basic.log()[before:] if small.namespace in line]) <= 4


@pytest.fixture
def tokens() -> Iterator[TokenService]:
    """`builder` may do everything, `reader` may pull, and who does not log in may do nothing."""
    service = TokenService({"builder": PASSWORD, "reader": "reads"}, {"builder": EVERYTHING, "reader": frozenset({"pull"})})
    yield service
    service.close()


@pytest.fixture
def guarded(start: Start, tokens: TokenService, tmp_path: Path) -> RegistryContainer:
    """A registry that sends everybody to the token service."""
    bundle = "/run/pipeline/tokens.crt"
    return start(tmp_path, {bundle: tokens.authority.certificate_pem}, **tokens.settings(bundle))


@pytest.mark.both_stores
def test_tokens_of_a_user(small: Project, engine: docker.DockerClient, guarded: RegistryContainer, tokens: TokenService) -> None:
    assert docker_login(at(small, guarded.host), guarded.host, "builder", PASSWORD) == 0
    tokens.asked.clear()
    with watched_command_lines(PASSWORD) as seen:
        prove_published(small, engine)
    assert not seen
    assert PASSWORD not in written_by(small, engine, guarded)
    assert {asked.user for asked in tokens.asked} == {"builder"}
    scopes = {scope for asked in tokens.asked if asked.agent == "pipeline" for scope in asked.scopes}  # an engine mounts layers, too
    assert {scope.split(":")[1].partition("/")[0] for scope in scopes} == {small.namespace}  # for nobody else's repositories
    tokens.asked.clear()
    small.invoke("plan")
    assert {scope.rpartition(":")[2] for asked in tokens.asked for scope in asked.scopes} == {"pull"}  # and for no more than is done


@pytest.mark.both_stores
def test_an_identity_token(small: Project, engine: docker.DockerClient, guarded: RegistryContainer, tokens: TokenService) -> None:
    tokens.hands_out_identity_tokens = True
    assert docker_login(at(small, guarded.host), guarded.host, "builder", PASSWORD) == 0
    login = json.loads((Path(small.environment["DOCKER_CONFIG"]) / "config.json").read_text())["auths"][guarded.host]
    assert login["identitytoken"]
    assert PASSWORD not in base64.b64decode(login["auth"]).decode()
    tokens.asked.clear()
    with watched_command_lines(login["identitytoken"]) as seen:
        prove_published(small, engine)
    assert not seen
    assert login["identitytoken"] not in written_by(small, engine, guarded)
    assert {(asked.user, asked.kind) for asked in tokens.asked} == {("builder", "refresh_token")}
    tokens.revoke()
    refused = small.run("push")
    assert refused.returncode == 31, refused.stderr
    assert f"docker login {guarded.host}" in refused.stderr


def test_everybody_may_pull_and_only_users_push(
    small: Project, engine: docker.DockerClient, guarded: RegistryContainer, tokens: TokenService
) -> None:
    refused = at(small, guarded.host).run("plan")
    assert refused.returncode == 31, refused.stderr  # nobody may do anything yet
    assert f"docker login {guarded.host}" in refused.stderr
    tokens.rights[""] = frozenset({"pull"})
    small.invoke("build")
    refused = small.run("push")
    assert refused.returncode == 31, refused.stderr
    assert f"docker login {guarded.host}" in refused.stderr
    assert {asked.kind for asked in tokens.asked} == {"anonymous"}
    assert docker_login(small, guarded.host, "builder", PASSWORD) == 0
    small.invoke("push")
    shutil.rmtree(small.environment["DOCKER_CONFIG"])
    remove_images(engine, f"{guarded.host}/{small.namespace}/*")
    assert small.actions("build", "--pull") == {"lower": "pull", "upper": "pull"}


def test_a_user_who_may_not_push_is_told_so(small: Project, guarded: RegistryContainer) -> None:
    assert docker_login(at(small, guarded.host), guarded.host, "reader", "reads") == 0
    small.invoke("build")
    refused = small.run("push")
    assert refused.returncode == 31, refused.stderr
    assert "may not do this" in refused.stderr  # another login of the same user would not help


def test_a_token_service_that_refuses_the_password(small: Project, guarded: RegistryContainer, tokens: TokenService) -> None:
    auth = base64.b64encode(b"builder:wrong-" + PASSWORD.encode()).decode()
    configure_docker(small, {"auths": {guarded.host: {"auth": auth}}})
    refused = at(small, guarded.host).run("push")
    assert refused.returncode == 31, refused.stderr
    assert f"docker login {guarded.host}" in refused.stderr
    assert PASSWORD not in refused.stderr
    assert tokens.refused <= 2  # once for each image, which are asked for at the same time


def test_a_token_that_ran_out_is_replaced(guarded: RegistryContainer, tokens: TokenService) -> None:
    tokens.lifetime = -58  # this registry takes a token for 60 s longer than it says
    with closing(Registry(guarded.host, lambda _host: Credentials("builder", PASSWORD))) as client:
        reference = Reference(guarded.host, "team/app", "main")
        tokens.asked.clear()
        assert [client.digest(reference) for _ in range(3)] == [""] * 3
        assert len(tokens.asked) == 1
        wait_for(lambda: client.digest(reference) or len(tokens.asked) > 1, "the token has run out", interval=0.2)


# Addresses


def test_a_path_prefix(small: Project, engine: docker.DockerClient, registry: RegistryContainer) -> None:
    at(small, f"{registry.host}/team/docker-local")
    prove_published(small, engine)
    assert registry.digest(f"team/docker-local/{small.namespace}/upper:main")


def push_base(engine: docker.DockerClient, image: str, target: str) -> None:
    """Let a registry have an image under the reference `target`; the engine forgets that name again."""
    engine.images.get(image).tag(target)
    subprocess.run(["docker", "push", "--quiet", target], check=True, capture_output=True)
    engine.images.remove(target)


@pytest.mark.both_stores
def test_pulling_from_a_virtual_address(
    small: Project, engine: docker.DockerClient, registry: RegistryContainer, start: Start, tiny_image: str
) -> None:
    virtual = start(REGISTRY_PROXY_REMOTEURL=f"http://{off_loopback(registry)}")
    base = f"{registry.host}/{small.namespace}-base:1"
    push_base(engine, tiny_image, base)
    small.write("images/lower.yaml", f"from: {base}\n")
    small.write("pipeline.yaml", f"registry: {registry.host}/team\nnamespace: {small.namespace}\npull_from: {virtual.host}/team\n")
    at(small, f"{registry.host}/team").invoke("pins.update")
    small.commit()
    small.invoke("build", "push")
    assert not [line for line in virtual.log() if small.namespace in line]  # nothing had to be pulled
    small.write("dockerfiles/upper/upper.txt", "changed\n")
    small.commit("a change")
    with second_engine(reach=[int(virtual.host.rpartition(":")[2])]) as cold:  # which reaches the virtual address only
        small.environment["DOCKER_HOST"] = cold.host
        built = small.json("build")["images"]
        assert {image["name"]: image["action"] for image in built} == {"lower": "pull", "upper": "build"}
        tags = cold.docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
        assert {reference for image in built for reference in image["references"]} <= set(tags)
    assert [line for line in virtual.log() if f"/v2/team/{small.namespace}/lower/manifests/" in line]


@pytest.mark.both_stores
def test_a_mirror_of_public_images(small: Project, engine: docker.DockerClient, start: Start, tiny_image: str) -> None:
    mirror = start()
    name = f"{small.namespace}:1"  # Docker Hub's, as a Dockerfile's author would write it; it has no such image, reachable or not
    push_base(engine, tiny_image, f"{mirror.host}/library/{name}")
    digest = mirror.digest(f"library/{name}")
    small.write("images/lower.yaml", f"from: {name}\n")
    small.commit()
    ports = [int(host.rpartition(":")[2]) for host in (mirror.host, small.registry)]
    with second_engine(settings={**SecondEngine.default_settings, "registry-mirrors": [f"http://{mirror.host}"]}, reach=ports) as cold:
        small.environment["DOCKER_HOST"] = cold.host
        assert digest in small.invoke("pins.update")
        assert digest in (small.root / "pipeline.lock").read_text()
        small.commit("pinned")
        small.invoke("build", "push")
        assert small.actions("plan") == {"lower": "none", "upper": "none"}


# Overwriting


IMMUTABLE = says("PRECONDITION", "Failed to process request due to 'main' configured as immutable.")


def never_again(proxy: HostileRegistry, method: str, path: str, _content: bytes) -> Refusal | None:
    """No tag is written twice, not even with the manifest that it names already."""
    if method != "PUT" or "/manifests/" not in path:
        return None
    repository, _, tag = path.removeprefix("/v2/").partition("/manifests/")
    with closing(Registry(proxy.target)) as registry:
        return Refusal(412, IMMUTABLE) if registry.digest(Reference(proxy.target, repository, tag)) else None


@pytest.mark.both_stores
def test_overwriting_denied_stops_the_branchs_tags_only(small: Project, registry: RegistryContainer) -> None:
    with hostile_registry(registry.host, refuse=never_again) as strict:
        at(small, strict.host).invoke("build", "push")
        assert small.actions("push") == {"lower": "none", "upper": "none"}  # what is published is not written again
        first = {name: registry.digest(f"{small.namespace}/{name}:main") for name in ("lower", "upper", "releases")}
        assert all(first.values())

        small.write("dockerfiles/upper/upper.txt", "changed\n")
        commit = small.commit("a change")
        small.invoke("build")
        refused = small.run("push")
        assert refused.returncode == 31, refused.stderr
        assert "tag main cannot be moved" in refused.stderr
        assert "push --commit-only" in refused.stderr
        images = {image["name"]: image for image in small.json("plan")["images"]}
        for name in ("lower", "upper"):
            content, *_ = images[name]["references"]
            digest = registry.digest(content.partition("/")[2])
            assert digest == registry.digest(f"{small.namespace}/{name}:main-{commit[:12]}") != ""
        assert registry.digest(f"{small.namespace}/releases:main-{commit[:12]}")
        assert {name: registry.digest(f"{small.namespace}/{name}:main") for name in first} == first

        writes_before = len(strict.asked("PUT"))
        small.invoke("push", "--commit-only")
        assert len(strict.asked("PUT")) == writes_before
        small.write("dockerfiles/upper/upper.txt", "changed again\n")
        small.commit("another change")
        small.invoke("build")
        small.invoke("push", "--commit-only")


# Platforms


@pytest.fixture
def foreign_image(engine: docker.DockerClient, tiny_image: str, small: Project) -> Iterator[str]:
    """`tiny_image` as one for linux/arm64."""
    name = f"{small.namespace}-foreign:1"
    container = engine.containers.create(tiny_image, ["sh"])
    with subprocess.Popen(["docker", "export", str(container.id)], stdout=subprocess.PIPE) as export:
        subprocess.run(["docker", "import", "--platform", "linux/arm64", "-", name], stdin=export.stdout, check=True, capture_output=True)
    container.remove()
    yield name
    engine.images.remove(name, force=True)


def writes(log: list[str]) -> list[str]:
    return [line for line in log if not re.search(r'"(GET|HEAD) ', line)]


@pytest.mark.both_stores
def test_a_base_for_another_platform_is_not_built_upon(
    small: Project, engine: docker.DockerClient, registry: RegistryContainer, foreign_image: str
) -> None:
    base = f"{registry.host}/{small.namespace}-base:1"
    push_base(engine, foreign_image, base)
    before = len(registry.log())
    for name in (base, foreign_image):  # in a registry, and in the engine only
        small.write("images/lower.yaml", f"from: {name}\n")
        small.commit()
        for command in ("build", "push", "pins.update"):
            refused = small.run(command)
            assert refused.returncode == 21, refused.stderr
            assert f"images/lower.yaml: the image '{name}' is for linux/arm64, and linux/amd64 is wanted" in refused.stderr
    assert not writes(registry.log()[before:])


@pytest.mark.both_stores
def test_an_image_of_another_platform_is_not_published(
    small: Project, engine: docker.DockerClient, registry: RegistryContainer, foreign_image: str
) -> None:
    upper = small.json("build")["images"][1]
    engine.images.get(foreign_image).tag(upper["references"][0])  # as somebody's `docker build --platform` might
    before = len(registry.log())
    refused = small.run("push")
    assert refused.returncode == 21, refused.stderr
    assert "upper was built for linux/arm64" in refused.stderr
    assert "images/upper.yaml" in refused.stderr
    assert not writes(registry.log()[before:])  # of the image that is right neither
