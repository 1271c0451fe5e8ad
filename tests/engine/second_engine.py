"""A second Docker Engine for tests that break one: it may be killed, filled up and thrown away.

It runs in network, process and mount namespaces of its own. In the first engine's network namespace it would delete that
one's docker0, whatever its options. Its processes end with it, and its mounts with them, however it ends. It reaches no
network, but the ports of this machine's 127.0.0.1, whoever listens there and since when: its own 127.0.0.1 leads to a relay,
which hands each connection on through a Unix socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

CONTAINERD_STORE = {"features": {"containerd-snapshotter": True}}  # daemon.json; engines from 29 on do it unasked
_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h: where a connection was going before it was redirected

_CI = any(os.environ.get(name) for name in ("CI", "JENKINS_URL", "BUILD_TAG", "bamboo_buildKey"))  # read before a test forgets them

# Everything that is mounted here is private to the mount namespace. In a new /run are neither the first engine's files, nor
# the process ids that this one left when it was killed.
_START = """
set -eu
folder=$1 size=$2 python=$3 relay=$4 mark=$5
mount -t tmpfs tmpfs /run
[ -z "$size" ] || mount -t tmpfs -o "size=$size" tmpfs "$folder/data"
ip link set lo up
iptables --table nat --append OUTPUT --out-interface lo --protocol tcp --destination 127.0.0.1 --jump REDIRECT --to-ports 1
"$python" "$relay" 1 "$folder/gate" &
exec dockerd --host "unix://$folder/socket" --data-root "$folder/data" --exec-root /run/docker --pidfile /run/docker.pid \
  --config-file "$folder/daemon.json" --cgroup-parent "/$mark"
"""


def second_engine_hindrance() -> str:
    """Why no second engine can run here; empty where one can."""
    if os.geteuid() != 0:
        return "a second Docker Engine needs root (namespaces and mounts)"
    missing = [program for program in ("dockerd", "unshare", "setpriv", "ip", "iptables") if not shutil.which(program)]
    return f"a second Docker Engine needs {', '.join(missing)}" if missing else ""


class SecondEngine:
    """One engine in a folder of its own; `host` is its DOCKER_HOST."""

    default_settings: ClassVar[Mapping[str, Any]] = {}  # of the store that this run of the tests is about

    def __init__(self, folder: Path, size: str, settings: Mapping[str, Any], reach: Collection[int] | None) -> None:
        self.folder = folder
        self.host = f"unix://{folder}/socket"
        self.log = folder / "log"
        self._mark = f"pipeline-test-{folder.name}"
        self._size = size
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "data").mkdir()
        (folder / "daemon.json").write_text(json.dumps(settings))
        self._gate = _Gate(folder / "gate", reach)

    def start(self) -> None:
        """Start it and wait until it answers."""
        from tests.engine.conftest import wait_for

        # setpriv: it ends with the test run, even where that is killed. --kill-child: all of it ends with this process.
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        command += ["sh", "-c", _START, "sh", str(self.folder), self._size, sys.executable, __file__, self._mark]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        process = self._process

        def answers() -> bool:
            assert process.poll() is None, f"the second engine ended again:\n{self._end_of_log()}"
            return self.docker("version", "--format", "{{.Server.Version}}", check=False).returncode == 0

        wait_for(answers, "the second engine answers", deadline=60)

    def kill(self) -> None:
        """SIGKILL: no farewell to anybody. Its data stay unless they were in memory (`size`)."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    def stop(self) -> None:
        """TERM, as a service manager sends it: it stops its containers first."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        self._process.wait(60)
        self._process = None

    def docker(self, *arguments: str, check: bool = True, stdin: Any = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
        """The docker command against this engine."""
        return subprocess.run(
            ["docker", *arguments],
            env={**os.environ, "DOCKER_HOST": self.host},
            stdin=stdin,
            capture_output=True,
            text=True,
            check=check,
        )

    def load(self, image: str) -> None:
        """Copy an image from the engine under test."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as save:
            self.docker("load", stdin=save.stdout)
        assert save.returncode == 0

    def close(self) -> None:
        """End it and remove all that is left of it."""
        self.kill()
        self._gate.close()
        for top in Path("/sys/fs/cgroup").glob(f"**/{self._mark}"):
            for folder in sorted((path for path in [top, *top.rglob("*")] if path.is_dir()), reverse=True):
                with contextlib.suppress(OSError):  # a group of processes that are just ending
                    folder.rmdir()
        shutil.rmtree(self.folder)

    def _end_of_log(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


@contextlib.contextmanager
def second_engine(
    *images: str, size: str = "", settings: Mapping[str, Any] | None = None, reach: Collection[int] | None = None
) -> Iterator[SecondEngine]:
    """A second engine that has `images` of the engine under test.

    `size`: of a file system in memory for its data, such as 64m; without it the data lie on the disk and outlive a kill.
    `settings`: its daemon.json; by default it keeps images as the engine under test does. `reach`: the only ports of 127.0.0.1
    that it reaches; None for all. Skips the test where none can run, but fails in CI.
    """
    import pytest

    if hindrance := second_engine_hindrance():
        (pytest.fail if _CI else pytest.skip)(hindrance)
    # A short path: a Unix socket's may have 107 bytes only.
    folder = Path(tempfile.mkdtemp(prefix="pipeline-engine-"))
    engine = SecondEngine(folder, size, SecondEngine.default_settings if settings is None else settings, reach)
    try:
        engine.start()
        for image in images:
            engine.load(image)
        yield engine
    finally:
        engine.close()


class _Gate:
    """Hands connections to a Unix socket on to the port of 127.0.0.1 that each names first, in two bytes.

    The answer is one byte once that port is connected, and the end of the connection where nobody listens there.
    """

    def __init__(self, path: Path, reach: Collection[int] | None) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(128)
        threading.Thread(target=_serve, args=(self._server, lambda client: _from_gate(client, reach)), daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


def _from_gate(client: socket.socket, reach: Collection[int] | None) -> None:
    with client, contextlib.suppress(OSError):
        port = int.from_bytes(client.recv(2, socket.MSG_WAITALL), "big")
        if reach is not None and port not in reach:
            return
        with socket.create_connection(("127.0.0.1", port)) as target:
            client.sendall(b"\1")
            _relay_both(client, target)


def _to_gate(client: socket.socket, gate: str) -> None:
    with client, socket.socket(socket.AF_UNIX) as other, contextlib.suppress(OSError):
        address = client.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
        other.connect(gate)
        other.sendall(address[2:4])
        if other.recv(1):
            _relay_both(client, other)
        else:  # a reset is as near as it gets to a connection that is refused
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _serve(server: socket.socket, handle: Callable[[socket.socket], None]) -> None:
    with contextlib.suppress(OSError):  # closed
        while True:
            client, _ = server.accept()
            threading.Thread(target=handle, args=(client,), daemon=True).start()


def _relay_both(one: socket.socket, other: socket.socket) -> None:
    back = threading.Thread(target=_relay, args=(other, one), daemon=True)
    back.start()
    _relay(one, other)
    back.join()


def _relay(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":  # inside the second engine's namespaces, where every connection to 127.0.0.1 is redirected to this port
    _serve(socket.create_server(("127.0.0.1", int(sys.argv[1]))), lambda client: _to_gate(client, sys.argv[2]))
