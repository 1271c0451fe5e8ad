"""A second Docker Engine for tests that break one: it may be killed, filled up and thrown away.

It runs in network, process and mount namespaces of its own. In the first engine's network namespace it would delete that
one's docker0, whatever its options. Its processes end with it, and its mounts with them, however it ends. It reaches no
network but the ports of 127.0.0.1 that `reach` names, which a relay hands on to the first namespace.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_CI = any(os.environ.get(name) for name in ("CI", "JENKINS_URL", "BUILD_TAG", "bamboo_buildKey"))  # read before a test forgets them

# Everything that is mounted here is private to the mount namespace. In a new /run are neither the first engine's files, nor
# the process ids that this one left when it was killed.
_START = """
set -eu
folder=$1 size=$2 python=$3 relay=$4 ports=$5 mark=$6
mount -t tmpfs tmpfs /run
[ -z "$size" ] || mount -t tmpfs -o "size=$size" tmpfs "$folder/data"
ip link set lo up
for port in $ports; do
  "$python" "$relay" "$port" "$folder/port-$port.sock" &
done
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

    def __init__(self, folder: Path, size: str, settings: Mapping[str, Any], reach: Sequence[int]) -> None:
        self.folder = folder
        self.host = f"unix://{folder}/socket"
        self.log = folder / "log"
        self._mark = f"pipeline-test-{folder.name}"
        self._size = size
        self._ports = " ".join(map(str, reach))
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "data").mkdir()
        (folder / "daemon.json").write_text(json.dumps(settings))
        self._gates = [_Gate(folder / f"port-{port}.sock", port) for port in reach]

    def start(self) -> None:
        """Start it and wait until it answers."""
        from tests.engine.conftest import wait_for

        # setpriv: it ends with the test run, even where that is killed. --kill-child: all of it ends with this process.
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        command += ["sh", "-c", _START, "sh", str(self.folder), self._size, sys.executable, __file__, self._ports, self._mark]
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
        """Copy an image from the first engine: it cannot be pulled, since their networks do not meet."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as save:
            self.docker("load", stdin=save.stdout)
        assert save.returncode == 0

    def close(self) -> None:
        """End it and remove all that is left of it."""
        self.kill()
        for gate in self._gates:
            gate.close()
        for top in Path("/sys/fs/cgroup").glob(f"**/{self._mark}"):
            for folder in sorted((path for path in [top, *top.rglob("*")] if path.is_dir()), reverse=True):
                with contextlib.suppress(OSError):  # a group of processes that are just ending
                    folder.rmdir()
        shutil.rmtree(self.folder)

    def _end_of_log(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


@contextlib.contextmanager
def second_engine(
    *images: str, size: str = "", settings: Mapping[str, Any] | None = None, reach: Sequence[int] = ()
) -> Iterator[SecondEngine]:
    """A second engine that has `images` of the first one.

    `size`: of a file system in memory for its data, such as 64m; without it the data lie on the disk and outlive a kill.
    `settings`: its daemon.json. `reach`: ports of 127.0.0.1 that it reaches. Skips the test where none can run, but fails in CI.
    """
    import pytest

    if hindrance := second_engine_hindrance():
        (pytest.fail if _CI else pytest.skip)(hindrance)
    # A short path: a Unix socket's may have 107 bytes only.
    engine = SecondEngine(Path(tempfile.mkdtemp(prefix="pipeline-engine-")), size, settings or {}, reach)
    try:
        engine.start()
        for image in images:
            engine.load(image)
        yield engine
    finally:
        engine.close()


class _Gate:
    """Hands connections to a Unix socket on to a port of this network namespace."""

    def __init__(self, path: Path, port: int) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        threading.Thread(target=_hand_on, args=(self._server, ("127.0.0.1", port)), daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


def _hand_on(server: socket.socket, target: tuple[str, int] | str) -> None:
    with contextlib.suppress(OSError):  # closed
        while True:
            client, _ = server.accept()
            threading.Thread(target=_relay_both, args=(client, target), daemon=True).start()


def _relay_both(client: socket.socket, target: tuple[str, int] | str) -> None:
    with client, socket.socket(socket.AF_UNIX if isinstance(target, str) else socket.AF_INET) as other:
        try:
            other.connect(target)
        except OSError:
            return  # the client sees the connection close: nobody listens there
        back = threading.Thread(target=_relay, args=(other, client), daemon=True)
        back.start()
        _relay(client, other)
        back.join()


def _relay(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":  # inside the second engine's namespaces: its 127.0.0.1:PORT leads to a Unix socket
    _hand_on(socket.create_server(("127.0.0.1", int(sys.argv[1])), reuse_port=False), sys.argv[2])
