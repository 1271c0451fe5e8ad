"""The listener: takes Oracle Net connections, refuses services it does not serve, hands the rest to seerdb.

seerdb's own server accepts any service name. Its public pieces are enough to do better: this module reads a client's
CONNECT packet itself, decides as an Oracle listener does, and replays the packet to seerdb's session. After that
packet it is out of the way: a statement's round trip passes no code of this module.

Relied on, in the pinned seerdb: `PacketStream.read_packet`, `parse_connect`, `connect_data_follows`,
`serve_session`, `PostgresBackend`, and its private table `_PRESENTABLE`, the only place a banner can be put.

The supervisor talks to this process over its standard input: one JSON line with the services and the accounts of a
first start (so that no password is in an argument or an environment), then `open`. It answers each with a word on a
pipe. End of input ends the process.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import socket
import struct
import sys
import threading
from collections.abc import Mapping
from typing import Any

from seerdb.common.exceptions import InterfaceError
from seerdb.common.tns_consts import TNS_CONNECT, TNS_DATA, TNS_REFUSE
from seerdb.server import PacketStream, parse_connect, serve_session
from seerdb.server.backends import postgres
from seerdb.server.handshake import connect_data_follows

from oracle_standin.paths import CONNINFO, ORACLE_PORT

_CONNECT_DEADLINE_SECONDS = 30.0
_BACKLOG = 128
_LOOPBACK = "127.0.0.1"

_PRESENTS = "standin"
_BANNER = "seerdb on PostgreSQL, a stand-in for tests and NOT an Oracle database. Speaks as Release {release}"

UNKNOWN_SERVICE = 12514
UNKNOWN_SID = 12505
NO_SERVICE_GIVEN = 12504
NOT_OPEN_YET = 12528

_SERVICE = re.compile(rb"\(\s*SERVICE_NAME\s*=\s*([^)\s]*)\s*\)", re.IGNORECASE)
_SID = re.compile(rb"\(\s*SID\s*=\s*([^)\s]*)\s*\)", re.IGNORECASE)

_log = logging.getLogger("oracle_standin.listener")


@dataclasses.dataclass(frozen=True)
class Services:
    """What the listener serves. Names are compared without regard to case."""

    names: frozenset[str]
    sids: frozenset[str]

    def refusal(self, descriptor: bytes) -> int | None:
        """The ORA number a listener answers for a connect descriptor, or None to accept it."""
        if found := _SERVICE.search(descriptor):
            return None if found[1].decode("utf-8", "replace").upper() in self.names else UNKNOWN_SERVICE
        if found := _SID.search(descriptor):
            return None if found[1].decode("utf-8", "replace").upper() in self.sids else UNKNOWN_SID
        return NO_SERVICE_GIVEN


class _ReplayedStream(PacketStream):  # type: ignore[misc, unused-ignore]
    """A packet stream whose first packet, the CONNECT, was read before the session began."""

    _first: tuple[int, bytes] | None = None

    def read_packet(self, *, within: float | None = None) -> tuple[int, bytes] | None:
        if (first := self._first) is not None:
            self._first = None
            return first
        return super().read_packet(within=within)  # type: ignore[no-any-return, unused-ignore]

    def read_connect(self) -> bytes | None:
        """The CONNECT packet with its descriptor, kept to be read again; None when the client sent none."""
        packet = super().read_packet()
        if packet is None or packet[0] != TNS_CONNECT:
            return None
        body = packet[1]
        # A descriptor over 230 bytes follows in a packet of its own.
        if connect_data_follows(body):
            rest = super().read_packet()
            if rest is None or rest[0] != TNS_DATA:
                return None
            body += rest[1]
        self._first = (TNS_CONNECT, body)
        return body


class Listener:
    """Accepts connections for ever, each in a thread of its own."""

    def __init__(self, services: Services, accounts: dict[str, str]) -> None:
        self._services = services
        # One mapping for all sessions: a password changed in one must count in the next.
        self._accounts = accounts
        self._open = threading.Event()
        self._socket = socket.create_server(("0.0.0.0", ORACLE_PORT), backlog=_BACKLOG)

    def open(self) -> None:
        """Let clients from outside the container in; until then only its own scripts can log in.

        Otherwise a client that waits for its user to exist would get in before the set-up scripts are done.
        """
        self._open.set()

    def serve_forever(self) -> None:
        while True:
            client, address = self._socket.accept()
            threading.Thread(target=self._serve, args=(client, address[0]), daemon=True).start()

    def _serve(self, client: socket.socket, peer: str) -> None:
        with client:
            try:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.settimeout(_CONNECT_DEADLINE_SECONDS)
                stream = _ReplayedStream(client)
                connect = stream.read_connect()
                if connect is None:
                    return
                refusal = self._services.refusal(parse_connect(connect).descriptor)
                if refusal is None and not self._open.is_set() and peer != _LOOPBACK:
                    refusal = NOT_OPEN_YET
                if refusal is not None:
                    _refuse(client, refusal)
                    return
                client.settimeout(None)
                self._serve_session(stream)
            except InterfaceError as error:
                # A refused login, or a client that stopped half-way: its message names no password.
                _log.warning("connection from %s: %s", peer, error)
            except OSError as error:
                _log.info("connection from %s: %s", peer, error)
            except Exception:
                _log.exception("session error from %s", peer)

    def _serve_session(self, stream: _ReplayedStream) -> None:
        backend = open_backend(self._accounts)
        try:
            serve_session(stream, backend, encryption="requested")
        finally:
            backend.close()


def open_backend(accounts: dict[str, str]) -> Any:
    """A session's connection to PostgreSQL, with the stand-in's banner. Accounts are kept in the database; those
    given are added where the database has none of that name."""
    if _PRESENTS not in postgres._PRESENTABLE:
        field_version, identity = postgres._PRESENTABLE["23ai"]
        release = re.search(rb"Release (\S+)", identity.banner)
        assert release is not None
        banner = _BANNER.format(release=release[1].decode()).encode()
        postgres._PRESENTABLE[_PRESENTS] = (
            field_version,
            dataclasses.replace(identity, banner=banner, banner_full=banner, version_string=b"- stand-in, not Oracle"),
        )
    return postgres.PostgresBackend(CONNINFO, credentials=accounts, auth_conninfo=CONNINFO, presents=_PRESENTS)


def _refuse(client: socket.socket, code: int) -> None:
    """Send a REFUSE packet as a listener does: two reason bytes, a length, a description with the error's number."""
    text = f"(DESCRIPTION=(TMP=)(VSNNUM=0)(ERR={code})(ERROR_STACK=(ERROR=(CODE={code})(EMFI=4))))".encode()
    body = struct.pack(">BBH", 0x22, 0, len(text)) + text
    client.sendall(struct.pack(">HHBBH", 8 + len(body), 0, TNS_REFUSE, 0, 0) + body)


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="LISTENER: %(levelname)s: %(message)s", stream=sys.stdout)
    order: Mapping[str, Any] = json.loads(sys.stdin.readline())
    services = Services(frozenset(order["services"]), frozenset(order["sids"]))
    listener = Listener(services, dict(order["accounts"]))
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    _say("listening")
    for line in sys.stdin:
        if line.strip() == "open":
            listener.open()
            _say("open")
    # The supervisor is gone or wants an end: sessions are cut off, PostgreSQL rolls their transactions back.
    os._exit(0)


def _say(word: str) -> None:
    """Answer on the pipe whose number is this program's only argument."""
    os.write(int(sys.argv[1]), f"{word}\n".encode())


if __name__ == "__main__":
    main()
