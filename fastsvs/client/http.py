"""HTTP to the servers: connections that are kept, and the errors that are the server's fault or ours.

A server may answer whatever it likes: what it sends is bounded in size and, once an answer has begun, in time. It leads
us nowhere else (no redirections, which would carry the key along) and has nothing unpacked.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from fastsvs.client.faults import NonsenseError, UnreachableError
from fastsvs.client.files import with_files

KEEP_SECONDS = 2.0
"""Time after which an idle connection is closed, in seconds: well before vLLM closes it, which is after 5."""
LARGEST = 1 << 24
"""Largest answer to anything but a request for samples, in bytes."""
EXCERPT = 500
"""Largest part of a message about a server's answer, in characters: it may repeat the answer."""
BODY_SECONDS = 120.0
"""Longest time from the beginning of an answer to its end, in seconds. Servers begin when all of it is there."""
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}
"""Options of connections that wait for an answer, by their names in `socket`: after 30 s and then every 10 s the other
side's system is asked whether it is there, and after 6 questions the connection counts as broken. It also keeps
firewalls from forgetting the connection."""


def open_session(connections: int) -> aiohttp.ClientSession:
    """Return a session with up to `connections` connections to each server, which are used again; further requests
    wait. A request that is cancelled closes its connection, by which vLLM knows that nobody waits for the answer."""
    connector = aiohttp.TCPConnector(
        limit=0, limit_per_host=connections, keepalive_timeout=KEEP_SECONDS, socket_factory=_socket
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
    )


@asynccontextmanager
async def send(
    session: aiohttp.ClientSession, method: str, url: str, api_key: str | None, **options: Any
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Send a request, with the key if there is one. Yield the response, whose body is to be read inside the context.

    Raises UnreachableError without a connection or when it breaks, TimeoutError after the total time of `options`, and
    EngineFailure when this process cannot open the connection.
    """
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    try:
        response = await with_files(
            lambda: session.request(method, url, headers=headers, allow_redirects=False, **options), f"reach {url}"
        )
        async with response:
            yield response
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ServerTimeoutError):
            raise
        raise UnreachableError(str(error)[:EXCERPT] or type(error).__name__) from error


async def read_whole(response: aiohttp.ClientResponse, largest: int = LARGEST) -> bytes:
    """Return the body of a response. Raises NonsenseError when it has more than `largest` bytes, and UnreachableError
    when it is not there BODY_SECONDS after its beginning."""
    answer = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS) as limit:
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > largest:
                    raise NonsenseError(f"answered with more than {largest} bytes")
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise UnreachableError(f"its answer did not end within {BODY_SECONDS:g} s of its beginning") from error
    return bytes(answer)


def _socket(address: Any) -> socket.socket:
    """Return the socket for a connection to an address, as `getaddrinfo` describes it."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # macOS lacks one of them
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made
