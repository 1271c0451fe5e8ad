"""Pushing and pulling by the engine, against an engine on a Unix socket that says what real ones say."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from pipeline.adapters import docker_images as module
from pipeline.adapters.connections import Connections
from pipeline.adapters.docker_context import Endpoint
from pipeline.adapters.docker_images import DockerImages
from pipeline.adapters.patience import Patience
from pipeline.adapters.refusals import Verdict
from pipeline.errors import EngineError, ImageUnavailableError, RegistryRefusedError, RegistryUnreachableError, TagImmutableError
from pipeline.reference import Reference

REFERENCE = Reference("127.0.0.1:9", "team/app", "main")
DIGEST = "sha256:" + "1" * 64
PUSHED: list[dict[str, Any]] = [{"status": "Pushed"}, {"aux": {"Tag": "main", "Digest": DIGEST}}]


def fails(message: str, *before: dict[str, Any]) -> list[dict[str, Any]]:
    return [*before, {"errorDetail": {"message": message}, "error": message}]


class Engine:
    """Answers each push or pull with the next of `script`: events, an HTTP status, or None, which breaks off in the middle."""

    def __init__(self, path: str) -> None:
        self.host = f"unix://{path}"
        self.script: list[list[dict[str, Any]] | int | None] = []
        self.asked: list[str] = []
        self.hold: threading.Event | None = None
        self.held = threading.Event()
        self.tick = 0.0  # seconds between two events
        self.broken = threading.Event()  # a client hung up
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def address_string(self) -> str:
                return ""

            def log_message(self, *_arguments: object) -> None:
                pass

            def do_POST(self) -> None:
                outer.asked.append(self.path)
                answer = outer.script.pop(0)
                if isinstance(answer, int):
                    body = b'{"message": "no such image"}'
                    self.send_response(answer)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                    return
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for event in answer or [{"status": "Preparing"}]:
                    time.sleep(outer.tick)
                    line = json.dumps(event).encode() + b"\r\n"
                    self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                if outer.hold:
                    outer.held.set()
                    outer.hold.wait(10)
                if answer is None:
                    self.close_connection = True
                else:
                    self.wfile.write(b"0\r\n\r\n")

            def finish(self) -> None:
                with contextlib.suppress(OSError, ValueError):
                    super().finish()

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                outer.broken.set()

        self._server = Server(path, Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(Connections, "wait", lambda connections, seconds: waited.append(seconds))
    return waited


@pytest.fixture
def engine() -> Iterator[Engine]:
    with TemporaryDirectory(prefix="engine-") as folder:  # pytest's own path may be too long for a socket
        made = Engine(str(Path(folder) / "socket"))
        yield made
        made.close()


@pytest.fixture
def images(engine: Engine) -> Iterator[DockerImages]:
    with contextlib.closing(DockerImages(Endpoint(engine.host))) as made:
        yield made


def test_a_push_says_its_digest(engine: Engine, images: DockerImages) -> None:
    engine.script = [PUSHED, PUSHED]
    assert images.push_image(REFERENCE) == images.push_image(REFERENCE) == DIGEST
    assert engine.asked == ["/v1.41/images/127.0.0.1:9/team/app/push?tag=main"] * 2


def test_a_registry_that_falters_is_tried_again_with_longer_pauses(engine: Engine, images: DockerImages, pauses: list[float]) -> None:
    texts = ["received unexpected HTTP status: 503 Service Unavailable", "toomanyrequests", "EOF", "read: connection reset by peer"]
    engine.script = [*(fails(text) for text in texts * 3), PUSHED]
    assert images.push_image(REFERENCE) == DIGEST
    assert len(pauses) == 12
    assert max(pauses[:2]) < 0.5 < min(pauses[4:]) <= max(pauses) <= module.PUSHING.longest


def test_patience_with_a_push_ends(engine: Engine, images: DockerImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PUSHING", Patience(total=0.1, first=0.02, longest=0.02))
    engine.script = [fails("EOF")] * 100
    with pytest.raises(RegistryUnreachableError, match="127.0.0.1:9/team/app:main cannot be pushed: EOF"):
        images.push_image(REFERENCE)
    assert 1 < len(engine.asked) < 20


def test_patience_begins_anew_with_each_layer_that_is_done(engine: Engine, images: DockerImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PUSHING", Patience(total=0.1, first=0.06, longest=0.06))  # two pauses at most
    layer = {"status": "Pushed"}
    engine.script = [*(fails("EOF", *[layer] * number) for number in range(6)), PUSHED]
    assert images.push_image(REFERENCE) == DIGEST
    engine.script = [fails("EOF", layer)] * 6
    with pytest.raises(RegistryUnreachableError):
        images.push_image(REFERENCE)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("denied: requested access to the resource is denied", RegistryRefusedError),
        ("unknown: Failed to process request due to 'app:main' configured as immutable.", TagImmutableError),
        ("dial tcp 127.0.0.1:9: connect: connection refused", RegistryUnreachableError),
        ("An image does not exist locally with the tag: 127.0.0.1:9/team/app", ImageUnavailableError),
    ],
)
def test_a_no_is_told_at_once(
    engine: Engine, images: DockerImages, pauses: list[float], text: str, error: type[RegistryRefusedError]
) -> None:
    engine.script = [fails(text)]
    with pytest.raises(error):
        images.push_image(REFERENCE)
    assert not pauses


def test_a_word_nobody_knows_is_believed_when_it_is_said_again_and_again(engine: Engine, images: DockerImages, pauses: list[float]) -> None:
    engine.script = [fails("odd"), fails("EOF"), fails("odd"), fails("odd"), PUSHED]
    assert images.push_image(REFERENCE) == DIGEST
    engine.script = [fails("odd")] * 3
    with pytest.raises(RegistryRefusedError, match="odd"):
        images.push_image(REFERENCE)
    assert not engine.script


@pytest.mark.parametrize("is_let_in", [True, False])
def test_an_engine_that_is_not_let_in_is_believed_where_we_are_not_either(
    engine: Engine, images: DockerImages, pauses: list[float], monkeypatch: pytest.MonkeyPatch, is_let_in: bool
) -> None:
    checked = []

    def check(reference: Reference, verdict: Verdict, write: bool) -> None:
        checked.append((reference, write))
        if not is_let_in:
            raise RegistryRefusedError("no", "docker login")

    monkeypatch.setattr(module, "_ask_registry", check)
    engine.script = [fails("unauthorized: authentication required"), fails("unauthorized"), PUSHED]
    if is_let_in:
        assert images.push_image(REFERENCE) == DIGEST
    else:
        with pytest.raises(RegistryRefusedError, match="^no$"):
            images.push_image(REFERENCE)
    assert checked == [(REFERENCE, True)] * (2 if is_let_in else 1)
    assert len(pauses) == (2 if is_let_in else 0)


def test_an_engine_that_breaks_off_has_not_pushed(engine: Engine, images: DockerImages, pauses: list[float]) -> None:
    engine.script = [None, PUSHED]
    with pytest.raises(EngineError, match="does not answer"):
        images.push_image(REFERENCE)
    assert images.push_image(REFERENCE) == DIGEST  # over a new connection
    assert not pauses


@pytest.mark.parametrize(("current", "bound"), [(5, "STALLED_SENDING"), (9, "STALLED")], ids=["sending", "sent"])
def test_an_engine_that_says_the_same_for_ever_is_asked_anew(
    engine: Engine, images: DockerImages, pauses: list[float], monkeypatch: pytest.MonkeyPatch, current: int, bound: str
) -> None:
    """As the containerd image store does where it waits for itself."""
    monkeypatch.setattr(module, bound, 0.2)
    monkeypatch.setattr(module, "_LOOK", 0.01)
    same = {"status": "Pushing", "id": "1", "progressDetail": {"current": current, "total": 9}}
    engine.tick = 0.002
    engine.script = [[same, {"status": "Waiting", "id": "2"}] * 10_000, PUSHED]
    assert images.push_image(REFERENCE) == DIGEST
    assert len(pauses) == 1
    assert engine.broken.wait(10)  # it is told that nobody waits for the first one any more
    moving = [{**same, "progressDetail": {"current": number, "total": 999}} for number in range(300)]
    engine.script = [[*moving, *PUSHED]]
    assert images.push_image(REFERENCE) == DIGEST
    assert len(pauses) == 1


def test_a_manifest_that_is_not_taken_is_pushed_anew(
    engine: Engine, images: DockerImages, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last layer the engine says nothing until the manifest is there; that takes no time, or for ever."""
    monkeypatch.setattr(module, "STALLED_SENDING", 0.2)
    monkeypatch.setattr(module, "_LOOK", 0.01)
    engine.hold = threading.Event()
    engine.script = [[{"status": "Waiting", "id": "1"}, {"status": "Pushed", "id": "1"}], PUSHED]
    pushing = threading.Thread(target=lambda: done.append(images.push_image(REFERENCE)))
    done: list[str] = []
    pushing.start()
    while len(pauses) < 1 and pushing.is_alive():
        time.sleep(0.01)
    engine.hold.set()
    pushing.join(10)
    assert done == [DIGEST]
    assert len(pauses) == 1


def test_a_layer_that_waits_for_its_turn_is_left_in_peace(
    engine: Engine, images: DockerImages, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classic store says nothing meanwhile, and other images may take long."""
    looks: list[bool] = []

    def look(transfer: Any) -> bool:
        looks.append(is_stalled(transfer))
        return looks[-1]

    is_stalled = module._Transfer.is_stalled
    monkeypatch.setattr(module._Transfer, "is_stalled", look)
    for name, value in {"STALLED_SENDING": 0.01, "STALLED": 0.01, "_LOOK": 0.002, "_SILENCE": 0.005}.items():
        monkeypatch.setattr(module, name, value)
    engine.hold = threading.Event()
    engine.script = [[{"status": "Waiting", "id": "1"}, {"aux": {"Digest": DIGEST}}]]
    done: list[str] = []
    pushing = threading.Thread(target=lambda: done.append(images.push_image(REFERENCE)))
    pushing.start()
    while len(looks) < 50 and pushing.is_alive():
        time.sleep(0.01)
    engine.hold.set()
    pushing.join(10)
    assert done == [DIGEST]
    assert not any(looks)
    assert not pauses


def test_an_abort_ends_a_push_that_is_under_way(engine: Engine, images: DockerImages) -> None:
    engine.script, engine.hold = [PUSHED[:1]], threading.Event()
    caught: list[BaseException] = []

    def push() -> None:
        try:
            images.push_image(REFERENCE)
        except EngineError as error:
            caught.append(error)

    pushing = threading.Thread(target=push)
    pushing.start()
    assert engine.held.wait(10)
    images.abort()
    pushing.join(10)
    engine.hold.set()
    assert len(caught) == 1
    with pytest.raises(EngineError, match="interrupted"):
        images.push_image(REFERENCE)


def test_a_pull_is_tried_again_and_says_what_cannot_be_had(engine: Engine, images: DockerImages, pauses: list[float]) -> None:
    engine.script = [fails("toomanyrequests"), fails("EOF"), [{"status": "Pull complete"}]]
    images.pull_image(REFERENCE)
    assert len(pauses) == 2
    for answer in (404, fails("manifest unknown: manifest unknown"), fails("denied")):
        engine.script = [answer]
        with pytest.raises(ImageUnavailableError, match=r"127.0.0.1:9/team/app:main cannot be pulled"):
            images.pull_image(REFERENCE)
    assert len(pauses) == 2
