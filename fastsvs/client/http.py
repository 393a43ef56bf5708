"""HTTP to the servers: connections that are kept, and the errors that are the server's fault or ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from fastsvs.client.faults import UnreachableError
from fastsvs.client.files import with_files

KEEP_SECONDS = 2.0
"""Time after which an idle connection is closed, in seconds: well before vLLM closes it, which is after 5."""


def open_session(connections: int) -> aiohttp.ClientSession:
    """Return a session with up to `connections` connections to each server, which are used again; further requests
    wait. A request that is cancelled closes its connection, by which vLLM knows that nobody waits for the answer."""
    connector = aiohttp.TCPConnector(limit=0, limit_per_host=connections, keepalive_timeout=KEEP_SECONDS)
    return aiohttp.ClientSession(connector=connector)


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
        response = await with_files(lambda: session.request(method, url, headers=headers, **options), f"reach {url}")
        async with response:
            yield response
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ServerTimeoutError):
            raise
        raise UnreachableError(str(error) or type(error).__name__) from error
