"""How a registry is reached: over TLS with the authorities that Docker trusts for it, in clear on this very machine only.

Docker's own rules ("Verify repository client with certificates", "Test an insecure registry"): the files in
/etc/docker/certs.d/HOST:PORT hold for this one registry. Of a registry on the loopback addresses no certificate is checked,
and it may do without TLS; Docker tries TLS first there, here it is last, so that the usual case need not import ssl.
"""

from __future__ import annotations

import http.client
import re
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import RegistryUnreachableError

if TYPE_CHECKING:
    import ssl

CERTIFICATES = Path("/etc/docker/certs.d")
TIMEOUT = 15.0  # seconds for one answer
_PROBE_TIMEOUT = 5.0  # seconds for a TLS handshake on this machine


class RegistryTransport:
    """Makes the connections to the registry at HOST[:PORT], and to its token service."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._is_local = is_loopback(host)
        self._tls = not self._is_local
        self._context: ssl.SSLContext | None = None
        self._lock = threading.Lock()

    def connect(self) -> http.client.HTTPConnection:
        """A connection to the registry, not open yet."""
        return _Connection(self._host, self)

    def connect_elsewhere(self, address: str, plain: bool) -> http.client.HTTPConnection:
        """A connection to the token service that the registry names: Docker trusts it as it trusts the registry."""
        if plain:
            return http.client.HTTPConnection(address, timeout=TIMEOUT)
        return http.client.HTTPSConnection(address, timeout=TIMEOUT, context=self._tls_context())

    def secure(self, connected: socket.socket, name: str) -> socket.socket:
        """TLS on top of a socket, where the registry speaks it."""
        return self._tls_context().wrap_socket(connected, server_hostname=name) if self._tls else connected

    def turn_to_tls(self) -> bool:
        """Try TLS with a registry on this machine that made no sense in clear; whether the next connections will use it."""
        if not self._is_local or self._tls:
            return self._is_local
        connection = http.client.HTTPConnection(self._host, timeout=_PROBE_TIMEOUT)
        try:
            connection.connect()
            self._tls_context().wrap_socket(connection.sock, server_hostname=connection.host).close()
        except OSError:
            return False
        finally:
            connection.close()
        self._tls = True
        return True

    def _tls_context(self) -> ssl.SSLContext:
        with self._lock:
            if self._context is None:
                self._context = _make_context(self._host, verify=not self._is_local)
            return self._context


class _Connection(http.client.HTTPConnection):
    """In clear or over TLS: known only when it is opened."""

    def __init__(self, host: str, transport: RegistryTransport) -> None:
        self.default_port = 80 if is_loopback(host) else 443
        super().__init__(host, timeout=TIMEOUT)
        self._transport = transport

    def connect(self) -> None:
        super().connect()
        self.sock = self._transport.secure(self.sock, self.host)


def is_loopback(host: str) -> bool:
    """Whether Docker, too, would speak plain HTTP to this registry: it lies on this very machine."""
    name = host.rpartition(":")[0] or host if re.search(r":\d+$", host) else host
    return name in ("localhost", "[::1]") or bool(re.fullmatch(r"127(\.\d{1,3}){3}", name))


def tls_hint(host: str) -> str:
    """What to do where a registry's certificate is not trusted."""
    return (
        f"Put its authority's certificate where Docker, too, looks for it: {CERTIFICATES}/{host}/ca.crt\n"
        "(on the engine's own machine as well, where that is another one; nothing has to be restarted)."
    )


def plain_hint(host: str) -> str:
    """What to do where a registry on another machine speaks plain HTTP."""
    return (
        "Passwords and images go to another machine over TLS only. Give it a certificate\n"
        f"(a company's own authority: {CERTIFICATES}/{host}/ca.crt), or name a registry that has one."
    )


def _make_context(host: str, verify: bool) -> ssl.SSLContext:
    import ssl

    context = ssl.create_default_context()  # the machine's authorities, or those in SSL_CERT_FILE
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    folder = CERTIFICATES / host
    for path in (*sorted(folder.glob("*.crt")), *sorted(folder.glob("*.cert"))):
        try:
            if path.suffix == ".crt":
                context.load_verify_locations(path)
            else:  # one that we show
                context.load_cert_chain(path, path.with_suffix(".key"))
        except OSError as error:
            raise RegistryUnreachableError(f"{path} is no certificate to reach {host} with: {error}", "Correct or remove it.") from error
    return context
