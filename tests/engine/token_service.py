"""A token service as registries have one beside them (distribution specification, "Token authentication", and its OAuth2 form).

A real HTTP server on 127.0.0.1 with tokens that a real registry checks: signed with ES256, by a certificate that the registry
trusts. Refresh ("identity") tokens are handed out to whom asks for one, as `docker login` does.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.certificates import Identity, issue, make_authority

SERVICE = "registry.test"
ISSUER = "tokens.test"


@dataclass(frozen=True)
class Asked:
    """One request for a token: by which program, who (empty: nobody), how, for what, and what was granted. No secret is kept."""

    agent: str
    user: str
    kind: str  # basic, anonymous, refresh_token
    scopes: tuple[str, ...]
    granted: tuple[str, ...]


@dataclass
class TokenService:
    """Users and what they may do: user → actions; `""` is who does not log in. `lifetime`: seconds; 60 is the least that Docker believes in."""

    passwords: dict[str, str]
    rights: dict[str, frozenset[str]]
    lifetime: int = 60
    hands_out_identity_tokens: bool = False
    asked: list[Asked] = field(default_factory=list)
    refused: int = 0

    def __post_init__(self) -> None:
        self.authority = make_authority(ISSUER)
        self._identity: Identity = issue(self.authority, ISSUER)
        self._refresh_tokens: dict[str, str] = {}  # token → user
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                kind, _, encoded = self.headers.get("Authorization", "").partition(" ")
                user, _, password = base64.b64decode(encoded).decode().partition(":") if kind == "Basic" else ("", "", "")
                if user and not secrets.compare_digest(outer.passwords.get(user, secrets.token_hex()), password):
                    outer.refused += 1
                    self._answer(401, {"details": "incorrect username or password"})
                    return
                scopes = [scope for value in query.get("scope", []) for scope in value.split()]
                answer = outer._grant(self.headers.get("User-Agent", ""), user, "basic" if user else "anonymous", scopes)
                if user and outer.hands_out_identity_tokens and query.get("offline_token") == ["true"]:
                    answer["refresh_token"] = outer._new_refresh_token(user)
                self._answer(200, answer)

            def do_POST(self) -> None:
                body = urllib.parse.parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
                user = outer._refresh_tokens.get(body.get("refresh_token", [""])[0], "")
                if body.get("grant_type") != ["refresh_token"] or not user:
                    outer.refused += 1
                    self._answer(401, {"details": "no such refresh token"})
                    return
                scopes = [scope for value in body.get("scope", []) for scope in value.split()]
                answer = outer._grant(self.headers.get("User-Agent", ""), user, "refresh_token", scopes)
                self._answer(200, {**answer, "access_token": answer["token"]})

            def _answer(self, status: int, document: dict[str, Any]) -> None:
                content = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.realm = f"http://127.0.0.1:{self._server.server_address[1]}/token"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def settings(self, bundle: str) -> dict[str, str]:
        """The registry's configuration; `bundle`: the path in its container where it finds the authority's certificate."""
        return {
            "REGISTRY_AUTH": "token",
            "REGISTRY_AUTH_TOKEN_REALM": self.realm,
            "REGISTRY_AUTH_TOKEN_SERVICE": SERVICE,
            "REGISTRY_AUTH_TOKEN_ISSUER": ISSUER,
            "REGISTRY_AUTH_TOKEN_ROOTCERTBUNDLE": bundle,
        }

    def revoke(self) -> None:
        """No refresh token is good any more."""
        self._refresh_tokens.clear()

    def _new_refresh_token(self, user: str) -> str:
        token = f"refresh-{secrets.token_hex()}"
        self._refresh_tokens[token] = user
        return token

    def _grant(self, agent: str, user: str, kind: str, scopes: list[str]) -> dict[str, Any]:
        """A token with those of the actions asked for that the user has a right to: fewer than asked for is no error."""
        access = []
        for scope in scopes:
            what, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            granted = sorted(set(actions.split(",")) & self.rights.get(user, frozenset()))
            if what == "repository" and granted:
                access.append({"type": what, "name": name, "actions": granted})
        granted_scopes = tuple(f"{item['name']}:{','.join(item['actions'])}" for item in access)
        self.asked.append(Asked(agent, user, kind, tuple(scopes), granted_scopes))
        now = int(time.time())
        claims = {
            "iss": ISSUER, "sub": user, "aud": SERVICE, "iat": now, "nbf": now - 10, "exp": now + self.lifetime,
            "jti": secrets.token_hex(8), "access": access,
        }  # fmt: skip
        return {"token": self._sign(claims), "expires_in": self.lifetime}

    def _sign(self, claims: dict[str, Any]) -> str:
        """A JSON web token (RFC 7515, 7518: ES256 is r and s, 32 bytes each, not DER); `x5c` is the chain as standard base64."""
        der = self._identity.certificate.public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        signed = ".".join(_encode(json.dumps(part).encode()) for part in (header, claims))
        r, s = decode_dss_signature(self._identity.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_encode(r.to_bytes(32) + s.to_bytes(32))}"


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
