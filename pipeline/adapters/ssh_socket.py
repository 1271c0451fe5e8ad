"""An engine behind ssh as a Unix socket of this machine, the way Docker's own client reaches it.

Every connection is one `ssh HOST docker system dial-stdio`, run by the user's own ssh with its keys, agent and known hosts.
docker-py would need paramiko for `ssh://`, which knows none of these.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import EngineError, MissingRequirementError

CONNECT_TIMEOUT = 30  # seconds; what Docker's own client gives ssh


def open_ssh_socket(host: str) -> str:
    """Listen on a socket that only this user can open, until the process ends; its `unix://` address.

    `host` is ssh://[USER@]HOST[:PORT]. Whether HOST answers is known at the first connection; what ssh has to say about it
    goes to stderr.
    """
    if shutil.which("ssh") is None:
        raise MissingRequirementError(
            f"the engine is {host}, but ssh is not installed", "On Debian or Ubuntu: apt-get install openssh-client"
        )
    command = ssh_command(host)
    folder = tempfile.mkdtemp(prefix="pipeline-ssh-")  # mode 0700
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(Path(folder) / "docker.sock"))
    server.listen()
    threading.Thread(target=_serve, args=(server, command), daemon=True).start()
    return f"unix://{folder}/docker.sock"


def ssh_command(host: str) -> list[str]:
    """What reaches the engine at ssh://[USER@]HOST[:PORT] through standard input and output."""
    return ["ssh", "-o", f"ConnectTimeout={CONNECT_TIMEOUT}", "-T", *_destination(host), "docker", "system", "dial-stdio"]


@functools.cache
def ssh_hostname(host: str) -> str:
    """The machine that ssh://HOST leads to: HOST may be an alias that only ~/.ssh/config knows. HOST itself where ssh cannot say."""
    destination = _destination(host)
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        said = subprocess.run(["ssh", "-G", *destination], capture_output=True, text=True, check=False, timeout=CONNECT_TIMEOUT).stdout
        for line in said.splitlines():
            word, _, value = line.partition(" ")
            if word == "hostname":
                return value
    return destination[-1]


def _destination(host: str) -> list[str]:
    url = urlsplit(host)
    if not url.hostname or url.path.strip("/"):
        raise EngineError(f"'{host}' is not an address of an engine", "Write ssh://USER@HOST or ssh://USER@HOST:PORT, without a path.")
    user = ["-l", url.username] if url.username else []
    port = ["-p", str(url.port)] if url.port else []
    return [*user, *port, "--", url.hostname]


def _serve(server: socket.socket, command: list[str]) -> None:
    running: list[subprocess.Popen[bytes]] = []
    with contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            with connection:  # ssh holds it from here on, and ends when the other side closes
                # In a session of its own: Ctrl-C must not cut the line over which we then clean up.
                running.append(subprocess.Popen(command, stdin=connection.fileno(), stdout=connection.fileno(), start_new_session=True))
            running = [process for process in running if process.poll() is None]
