"""Requests to one registry, with patience and with tokens: what falters is asked again, a real no is told at once.

Transient are a broken connection, an answer that is cut or does not come, the statuses in TRANSIENT, and a token that has
expired. Every request here may be repeated: a PUT names what it puts, and an upload that is left is forgotten.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import msgspec

from pipeline.adapters.connections import Connections
from pipeline.adapters.credentials import Credentials
from pipeline.adapters.exchange import Answer, exchange
from pipeline.adapters.patience import TRANSIENT, Patience, retry_after
from pipeline.adapters.refusals import FEW, START_HINT, explanation, judge_status
from pipeline.adapters.registry_transport import RegistryTransport, plain_hint, tls_hint
from pipeline.errors import RegistryRefusedError, RegistryUnreachableError

PATIENCE = Patience(total=120.0, first=0.2, longest=10.0)
ONCE = Patience(0.0, 0.0, 0.0)
_REDIRECTS = 3  # one after another
_TOLD_AFTER = 3  # failures of one request; until then a pause is hardly noticed


class Request(msgspec.Struct, frozen=True):
    """`scope`: what a token must allow; `missing`: whether 404 is an answer like any other; `check`: what is wrong with an answer."""

    method: str
    path: str
    scope: str
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    missing: bool = False
    check: Callable[[Answer], str] = lambda _: ""


class RegistryRequests:
    """Sends requests to the registry at `host`. Safe to use from several threads."""

    def __init__(
        self,
        host: str,
        transport: RegistryTransport,
        credentials: Callable[[str], Credentials | None],
        say: Callable[[str], None],
        patience: Patience,
    ) -> None:
        self._host = host
        self._patience = patience
        self._transport = transport
        self._read_credentials = credentials
        self._say = say
        self._credentials: Credentials | None = None
        self._asked_credentials = False
        self._tokens: dict[str, str] = {}  # scope → Authorization header
        self._proven: set[str] = set()  # Authorization headers that the registry has accepted
        self._lock = threading.Lock()
        self._is_understood = False  # it has answered sensibly, in clear or over TLS
        self._come_back = 0.0  # when, by the monotonic clock, the registry wants to be asked again
        self._gave_up = False  # a request ended without an answer, and none has had one since
        self._connections = Connections(transport.connect)
        self._elsewhere: dict[tuple[str, bool], Connections] = {}  # (address, plain): token services, storage

    def close(self) -> None:
        for connections in (self._connections, *self._elsewhere.values()):
            connections.close()

    def abort(self) -> None:
        """Break off every request, for good."""
        with self._lock:  # no further place is added meanwhile
            for connections in (self._connections, *self._elsewhere.values()):
                connections.abort()

    def send(self, request: Request, patience: Patience | None = None) -> Answer:
        """Raises RegistryUnreachableError when patience ends, RegistryRefusedError at once where the registry says no."""
        patience = patience or self._patience
        end = time.monotonic() + patience.total
        failures = wrong = stale = 0
        while True:
            try:
                self._rest(end)
                answer = self._let_in(request)
                if answer.status < 300 or (answer.status == 404 and request.missing):
                    if not (reason := request.check(answer) if answer.status < 300 else ""):
                        self._gave_up = False
                        return answer
                    if (wrong := wrong + 1) >= FEW:
                        raise RegistryRefusedError(f"the registry {self._host} {reason}", "Its storage may be damaged: push it again.")
                elif answer.status in TRANSIENT:
                    reason = f"answers {answer.status}"
                    self._note_retry_after(answer)
                else:
                    raise self._refusal(request, answer)
            except _StaleTokenError as error:
                reason = "does not accept its own tokens"
                if (stale := stale + 1) >= FEW:
                    raise self._refusal(request, error.answer) from None
            except (OSError, http.client.HTTPException) as error:
                reason = self._broken(error)
            failures += 1
            pause = patience.pause(failures)
            if self._gave_up or max(time.monotonic() + pause, self._come_back) > end:
                self._gave_up = self._gave_up or bool(patience.total)
                self._give_up(reason, failures)
            if failures == _TOLD_AFTER:
                self._say(f"the registry {self._host} {reason}; it is asked again, for up to {patience.total:.0f} s")
            with contextlib.suppress(ConnectionAbortedError):  # the next attempt ends it
                self._connections.wait(pause)

    def _rest(self, end: float) -> None:
        """Wait where the registry told any request when to come back: it means all of them."""
        left = self._come_back - time.monotonic()
        if left <= 0:
            return
        if self._come_back > end:
            self._give_up(f"wants to be asked again in {left:.0f} s only")
        self._connections.wait(left)

    def _note_retry_after(self, answer: Answer) -> None:
        if seconds := retry_after(answer.headers.get("retry-after", "")):
            self._come_back = max(self._come_back, time.monotonic() + seconds)

    def _broken(self, error: Exception) -> str:
        """What broke; raises RegistryUnreachableError where asking again changes nothing."""
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if type(error).__name__ == "SSLCertVerificationError":  # by name: plain HTTP need not import ssl
            message = f"the registry {self._host} shows a certificate that is not trusted ({error})"
            raise RegistryUnreachableError(message, tls_hint(self._host)) from error
        if getattr(error, "reason", "") in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
            message = f"the registry {self._host} does not speak TLS, it seems to be a plain HTTP one"
            raise RegistryUnreachableError(message, plain_hint(self._host)) from error
        unknown = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
        if unknown or isinstance(error, (ConnectionRefusedError, ConnectionAbortedError)):
            self._give_up(reason)  # nobody listens there, no such host, or interrupted
        return reason

    def _give_up(self, reason: str, failures: int = 1) -> NoReturn:
        often = f", {failures} times" if failures > 1 else ""
        hint = START_HINT
        if "429" in reason or self._come_back > time.monotonic():
            hint = f"It limits how often it is asked: run this again later, or log in for a higher limit: docker login {self._host}"
        elif reason.startswith("answers"):
            hint = "Its own log says why. Run this again when it works."
        raise RegistryUnreachableError(f"the registry {self._host} does not answer ({reason}{often})", hint)

    def _let_in(self, request: Request) -> Answer:
        """The answer to a request with the token that it needs."""
        for _ in range(FEW):
            sent = self._tokens.get(request.scope, "")
            answer = self._follow(request, self._send(request, sent))
            if answer.status != 401:
                if sent:
                    self._proven.add(sent)
                return answer
            if not self._renew(request.scope, sent, answer):
                return answer
        raise _StaleTokenError(answer)

    def _send(self, request: Request, authorization: str) -> Answer:
        headers = {"User-Agent": "pipeline", **request.headers}
        if authorization:
            headers["Authorization"] = authorization
        with self._connections.borrow() as connection:
            for again in (True, False):
                fresh = connection.sock is None
                try:
                    answer = exchange(connection, request.method, request.path, headers, request.body)
                    self._is_understood = self._is_understood or answer.status != 400
                    if self._is_understood or not again or not self._transport.turn_to_tls():
                        return answer
                    connection.close()  # it speaks TLS: what came back is a complaint about that
                except (http.client.BadStatusLine, BrokenPipeError, ConnectionResetError):
                    # A kept-alive connection that the registry closed meanwhile: once more on a new one.
                    if (fresh and (self._is_understood or not self._transport.turn_to_tls())) or not again:
                        raise
        raise AssertionError("unreachable")

    def _follow(self, request: Request, answer: Answer) -> Answer:
        """What a redirection leads to: a storage's own address, which must not learn how we are let into the registry."""
        address = ""
        for _ in range(_REDIRECTS):
            if answer.status not in (301, 302, 303, 307, 308) or request.method not in ("GET", "HEAD"):
                break
            place = urllib.parse.urlsplit(urllib.parse.urljoin(address or request.path, answer.headers.get("location", "")))
            if not place.netloc:  # on the registry itself
                path = place.geturl()
                answer = self._send(Request(request.method, path, "", request.headers), self._tokens.get(request.scope, ""))
                continue
            address = place.geturl()
            path = place._replace(scheme="", netloc="", fragment="").geturl() or "/"
            answer = self._ask_elsewhere(place.netloc, place.scheme == "http", request.method, path, request.headers, None)
        return answer

    def _ask_elsewhere(self, address: str, plain: bool, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        with self._lock:
            connections = self._elsewhere.get((address, plain))
            if connections is None:
                connections = Connections(lambda: self._transport.connect_elsewhere(address, plain))
                self._elsewhere[address, plain] = connections
        with connections.borrow() as connection:
            for again in (True, False):
                fresh = connection.sock is None
                try:
                    return exchange(connection, method, path, {"User-Agent": "pipeline", **headers}, body)
                except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                    if fresh or not again:
                        raise
        raise AssertionError("unreachable")

    def _renew(self, scope: str, sent: str, answer: Answer) -> bool:
        """Answer a challenge: keep the Authorization header that this scope needs; whether it is worth trying.

        Raises RegistryRefusedError, and _StaleTokenError where a brand-new token is called invalid.
        """
        if self._tokens.get(scope, "") != sent:
            return True  # another thread has answered it
        with self._lock:
            if not self._asked_credentials:
                self._credentials, self._asked_credentials = self._read_credentials(self._host), True
        challenge = answer.headers.get("www-authenticate", "")
        if bearer := re.search(r"\bbearer\s(.*)", challenge, re.IGNORECASE):
            if sent and sent not in self._proven:
                if "invalid_token" not in challenge:
                    return False
                self._tokens.pop(scope, None)
                raise _StaleTokenError(answer)
            self._tokens[scope] = "Bearer " + self._fetch_token(dict(re.findall(r'(\w+)="([^"]*)"', bearer[1])), scope)
            return True
        if not sent and self._credentials and re.search(r"\bbasic\b", challenge, re.IGNORECASE):
            self._tokens[scope] = self._credentials.basic()
            return True
        return False

    def _fetch_token(self, challenge: Mapping[str, str], scope: str) -> str:
        realm = urllib.parse.urlsplit(challenge.get("realm", ""))
        query = dict(urllib.parse.parse_qsl(realm.query))
        query |= {"service": challenge.get("service", ""), "scope": challenge.get("scope") or scope, "client_id": "pipeline"}
        headers = {}
        method, body, path = "GET", None, f"{realm.path}?{urllib.parse.urlencode(query)}"
        if self._credentials and self._credentials.identity_token:
            method, path = "POST", realm.path
            body = urllib.parse.urlencode(
                {**query, "grant_type": "refresh_token", "refresh_token": self._credentials.identity_token}
            ).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        elif self._credentials:
            headers["Authorization"] = self._credentials.basic()
        answer = self._ask_elsewhere(realm.netloc, realm.scheme == "http", method, path, headers, body)
        if answer.status in TRANSIENT:
            self._note_retry_after(answer)
            raise http.client.HTTPException(f"the token service answers {answer.status}")
        if answer.status != 200:
            raise RegistryRefusedError(
                f"the registry {self._host} refused the credentials ({answer.status})", f"Log in: docker login {self._host}"
            )
        try:
            found: dict[str, Any] = json.loads(answer.body)
            return str(found.get("token") or found.get("access_token") or "")
        except (ValueError, AttributeError) as error:
            raise RegistryRefusedError(
                f"the token service {realm.netloc} of the registry {self._host} answered no token",
                "Is that a registry? Look at it with a browser.",
            ) from error

    def _refusal(self, request: Request, answer: Answer) -> RegistryRefusedError:
        said = explanation(answer.body)
        doing = "read" if request.method in ("GET", "HEAD") else "write to"
        what = f"the registry {self._host} refused to {doing} {request.path.removeprefix('/v2/')}: {answer.status}"
        # A token may hold fewer rights than were asked for: the service knows the user, who lacks the permission.
        is_known = bool(self._credentials) and "insufficient_scope" in answer.headers.get("www-authenticate", "")
        words = answer.body.decode(errors="replace") if doing == "write to" else ""
        return judge_status(self._host, what + (f" {said}" if said else ""), answer.status, words, is_known)


class _StaleTokenError(Exception):
    """The registry calls a token invalid that was fetched a moment ago."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("invalid token")
        self.answer = answer
