"""A guard before vLLM's HTTP server, which asks for a key on a few of its routes only: `--middleware
fastsvs.vllm_guard.Guard`.

Behind the others are routes that write files as the server's user, change its weights and end it. The guard stands
before all middleware of vLLM's own, and lets nothing past but health checks and requests with the key. It needs the
standard library alone.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from hashlib import sha256
from hmac import compare_digest
from typing import Any

KEY_VARIABLE = "VLLM_API_KEY"
"""Name of the environment variable of the key, which is vLLM's own too: command lines are public."""
NAME = f"{__name__}.Guard"
OPEN = "/health"
"""The one path that needs no key."""
JSON = b"application/json"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class Guard:
    """ASGI middleware that answers 401 to a request without the key, 421 to one for a name that is not this machine's,
    and 415 to one with a body that is not declared as JSON.

    The last two keep web pages out that a user of this machine opens: a page may send text to any address, and may
    have its own name lead here.
    """

    def __init__(self, application: Application) -> None:
        """Wrap `application`. Raises ValueError when KEY_VARIABLE holds no key."""
        self._application = application
        self._key = _digest(required_key().encode())
        self._names = {b"localhost", *(name.lower().encode() for name in (socket.gethostname(), socket.getfqdn()))}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (refusal := self._refusal(scope)) is None:
            await self._application(scope, receive, send)
        elif scope["type"] == "http":
            await _refuse(send, *refusal)
        else:  # a socket that is closed before it was accepted becomes a 403
            await send({"type": "websocket.close", "code": 1008})

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        """Return the status and the message of a request that is not let in, or None for one that is."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        if not self._is_ours(headers.get(b"host", [])):
            return 421, "the Host header must be an address, or this machine's name"
        if scope["path"] != OPEN and not self._has_key(headers.get(b"authorization", [])):
            return 401, "the key is missing or wrong"
        if _has_body(headers) and not _is_json(headers.get(b"content-type", [])):
            return 415, "the body must be application/json"
        return None

    def _is_ours(self, hosts: list[bytes]) -> bool:
        """Return True for the header of one host that no page can have made to lead here: an address, or our name."""
        host = hosts[0].lower() if len(hosts) == 1 else b""
        name = host[1:].partition(b"]")[0] if host.startswith(b"[") else host.partition(b":")[0]
        return name in self._names or _is_address(name)

    def _has_key(self, given: list[bytes]) -> bool:
        scheme, _, key = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        return scheme.lower() == b"bearer" and compare_digest(_digest(key), self._key)


def required_key() -> str:
    """Return the key. Raises ValueError when KEY_VARIABLE holds none."""
    if key := os.environ.get(KEY_VARIABLE):
        return key
    raise ValueError(f"{KEY_VARIABLE} must hold the key that requests are to be let in with")


def _digest(key: bytes) -> bytes:
    """Return a digest, so that comparing takes as long for every length of a key."""
    return sha256(key).digest()


def _is_address(name: bytes) -> bool:
    try:
        ipaddress.ip_address(name.decode("ascii"))
    except ValueError:
        return False
    return True


def _has_body(headers: dict[bytes, list[bytes]]) -> bool:
    return b"transfer-encoding" in headers or headers.get(b"content-length", [b"0"]) != [b"0"]


def _is_json(types: list[bytes]) -> bool:
    return len(types) == 1 and types[0].partition(b";")[0].strip().lower() == JSON


async def _refuse(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": {"message": message, "code": status}}).encode()
    headers = [(b"content-type", JSON), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
