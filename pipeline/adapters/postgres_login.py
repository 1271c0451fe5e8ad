"""One login and one query in PostgreSQL's own protocol (version 3.0), for the codes with which a server refuses them.

libpq, and psycopg with it, hands on only the text of a refused login, in whatever language the server speaks. Whether a server
is starting (57P03) or does not know the password (28P01) is worth more than that. RFC 5802 and 7677 describe the SCRAM login.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

_VERSION = 196608  # 3.0
_OK, _CLEAR_TEXT, _MD5, _SASL, _SASL_CONTINUE, _SASL_FINAL = 0, 3, 5, 10, 11, 12
_SCRAM = "SCRAM-SHA-256"
_MOST_ROUNDS = 1_000_000  # of hashing, at a server's demand (4,096 by default); they take half a second
_FAILED = b"E"  # the message ErrorResponse


class RefusedError(Exception):
    """The server said no; `code` is the SQLSTATE."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code


class UnspokenError(Exception):
    """What answers does not speak this protocol, or wants what is not spoken here."""


@dataclass
class Login:
    """An attempt, and how far it got."""

    connected: bool = False
    answered: bool = False  # in PostgreSQL's protocol
    logged_in: bool = False
    _reader: asyncio.StreamReader = field(default_factory=asyncio.StreamReader)
    _writer: asyncio.StreamWriter | None = None

    async def run(self, host: str, port: int, user: str, password: str, database: str, query: str) -> None:
        """Log in, run `query`, log out. Raises RefusedError, UnspokenError, OSError, EOFError."""
        self._reader, self._writer = await asyncio.open_connection(host, port)
        self.connected = True
        try:
            await self._converse(user, password, database, query)
        except (struct.error, ValueError) as error:  # a message that is not what it should be
            raise UnspokenError(f"what answers does not speak PostgreSQL's protocol: {error}") from error
        finally:
            self._writer.close()

    async def _converse(self, user: str, password: str, database: str, query: str) -> None:
        parameters = b"".join(part.encode() + b"\0" for part in ("user", user, "database", database, ""))
        self._write(struct.pack(">II", len(parameters) + 8, _VERSION) + parameters)
        await self._authenticate(user, password)
        await self._until(b"Z")
        self.logged_in = True
        self._send(b"Q", query.encode() + b"\0")
        await self._until(b"D")
        self._send(b"X", b"")

    async def _authenticate(self, user: str, password: str) -> None:
        scram = _Scram(password)
        while True:
            payload = await self._until(b"R")
            (kind,) = struct.unpack(">I", payload[:4])
            if kind == _OK:
                return
            if kind == _CLEAR_TEXT:
                self._send(b"p", password.encode() + b"\0")
            elif kind == _MD5:
                inner = hashlib.md5(password.encode() + user.encode(), usedforsecurity=False).hexdigest()
                self._send(b"p", b"md5" + hashlib.md5(inner.encode() + payload[4:8], usedforsecurity=False).hexdigest().encode() + b"\0")
            elif kind == _SASL and _SCRAM.encode() in payload[4:].split(b"\0"):
                first = scram.first()
                self._send(b"p", _SCRAM.encode() + b"\0" + struct.pack(">I", len(first)) + first)
            elif kind == _SASL_CONTINUE:
                self._send(b"p", scram.answer(payload[4:]))
            elif kind == _SASL_FINAL:
                scram.check(payload[4:])
            else:
                raise UnspokenError(f"the server wants a login of kind {kind}, which is not spoken here")

    async def _until(self, wanted: bytes) -> bytes:
        """The next message of that kind; those before it do not matter, but for a refusal."""
        while True:
            head = await self._reader.readexactly(5)
            kind, length = head[:1], struct.unpack(">I", head[1:])[0]
            if not kind.isalpha() or not 4 <= length < 1 << 20:
                raise UnspokenError("what answers does not speak PostgreSQL's protocol")
            payload = await self._reader.readexactly(length - 4)
            self.answered = True
            if kind == _FAILED:
                fields = {part[:1].decode(): part[1:].decode(errors="replace") for part in payload.split(b"\0") if part}
                raise RefusedError(fields.get("C", ""), fields.get("M", ""))
            if kind == wanted:
                return payload

    def _send(self, kind: bytes, payload: bytes) -> None:
        self._write(kind + struct.pack(">I", len(payload) + 4) + payload)

    def _write(self, message: bytes) -> None:
        if self._writer is not None:
            self._writer.write(message)


class _Scram:
    """The client's side of SCRAM-SHA-256 without channel binding. The password is taken as it is, which is right for ASCII."""

    def __init__(self, password: str) -> None:
        self._password = password.encode()
        self._nonce = secrets.token_urlsafe(18)
        self._server_signature = b""

    def first(self) -> bytes:
        return f"n,,{self._first_bare}".encode()

    def answer(self, challenge: bytes) -> bytes:
        said = _attributes(challenge)
        rounds = int(said["i"]) if said.get("i", "").isdecimal() else 0
        if not said.get("r", "").startswith(self._nonce) or "s" not in said or not 0 < rounds <= _MOST_ROUNDS:
            raise UnspokenError("the server's part of the login does not belong to ours")
        salted = hashlib.pbkdf2_hmac("sha256", self._password, base64.b64decode(said["s"]), rounds)
        final = f"c=biws,r={said['r']}"
        signed = f"{self._first_bare},{challenge.decode()},{final}".encode()
        key = _hmac(salted, b"Client Key")
        proof = bytes(a ^ b for a, b in zip(key, _hmac(hashlib.sha256(key).digest(), signed), strict=True))
        self._server_signature = _hmac(_hmac(salted, b"Server Key"), signed)
        return f"{final},p={base64.b64encode(proof).decode()}".encode()

    def check(self, final: bytes) -> None:
        """That the server knows the password, too."""
        if base64.b64decode(_attributes(final).get("v", "")) != self._server_signature:
            raise UnspokenError("the server does not know the password")

    @property
    def _first_bare(self) -> str:
        return f"n=,r={self._nonce}"


def _attributes(message: bytes) -> Mapping[str, str]:
    return {part[:1]: part[2:] for part in message.decode(errors="replace").split(",")}


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()
