"""Whether anything that speaks the database's protocol answers on a port: asked without a login, so it may be asked often."""

from __future__ import annotations

import asyncio

from pipeline.databases.engine import Address, Answer, Phase


async def knock(address: Address, words: bytes) -> Answer:
    """Connect, send `words`, wait for whatever comes back. Ready means no more than that something did.

    It waits for as long as the other side is silent: the caller ends that. A failure is an answer, not an exception.
    """
    try:
        reader, writer = await asyncio.open_connection(address.host, address.port)
    except OSError as error:
        return Answer(False, f"the connection to {address.host_and_port} failed: {error.strerror or error}", phase=Phase.PORT)
    try:
        writer.write(words)
        said = await reader.read(1)
    except OSError:  # it was reset
        said = b""
    finally:
        writer.transport.abort()
    return Answer(True) if said else Answer(False, "the connection was accepted and closed at once", phase=Phase.LISTENER)
