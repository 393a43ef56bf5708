"""The guard before vLLM's routes, as plain ASGI: who gets in, and what else is turned away."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.vllm_guard import KEY_VARIABLE, Guard

KEY = "secret-of-this-run"
BEARER = (b"authorization", f"Bearer {KEY}".encode())
HOST = (b"host", b"127.0.0.1:8000")
Headers = list[tuple[bytes, bytes]]


@pytest.fixture(scope="module", autouse=True)
def key() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, KEY)
        yield


def ask(path: str, headers: Headers, kind: str = "http", method: str = "GET") -> list[dict[str, Any]]:
    """Return the messages that a client gets; an application that was reached answers 200."""
    sent: list[dict[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict[str, Any]:
        raise AssertionError("nobody may wait for the body of a request that is refused")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind, "path": path, "headers": headers, "method": method}
    asyncio.run(Guard(application)(scope, receive, send))  # type: ignore[arg-type]
    return sent


def status(path: str, headers: Headers, method: str = "GET") -> int:
    return ask(path, headers, method=method)[0]["status"]


PATHS = ["/", "/v1/models", "/collective_rpc", "/invocations", "/metrics", "/docs", "/health/", "//health", "/Health"]


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD", "DELETE"])
@pytest.mark.parametrize("path", PATHS)
def test_every_path_but_health_asks_for_the_key_whatever_the_method(path: str, method: str) -> None:
    assert status(path, [HOST], method) == 401
    assert status(path, [HOST, BEARER], method) == 200


def test_health_needs_no_key() -> None:
    assert status("/health", [HOST]) == 200


@given(st.binary(max_size=40))
def test_no_other_key_gets_in(value: bytes) -> None:
    right = value.partition(b" ")[0].lower() == b"bearer" and value.partition(b" ")[2] == KEY.encode()
    assert (status("/sleep", [HOST, (b"authorization", value)]) == 200) == right


@pytest.mark.parametrize(
    "given_headers",
    [
        [BEARER, BEARER],
        [(b"authorization", b"Bearer wrong"), BEARER],
        [(b"authorization", f"Basic {KEY}".encode())],
        [(b"authorization", KEY.encode())],
        [(b"authorization", b"Bearer ")],
        [(b"x-api-key", KEY.encode())],
        [(b"authorization", f"Bearer {KEY} ".encode())],
    ],
)
def test_keys_that_are_not_where_they_belong(given_headers: Headers) -> None:
    assert status("/sleep", [HOST, *given_headers]) == 401


@pytest.mark.parametrize("host", ["10.0.0.5:8000", "127.0.0.1", "localhost:1", "[::1]:8000", socket.gethostname()])
def test_addresses_and_this_machines_name_are_hosts(host: str) -> None:
    assert status("/sleep", [(b"host", host.encode()), BEARER]) == 200


@pytest.mark.parametrize("host", ["evil.example:8000", "", "127.0.0.1.evil.example", "127.0.0.1@evil", "[evil]", "0"])
@pytest.mark.parametrize("path", ["/sleep", "/health"])
def test_a_page_whose_name_leads_here_is_turned_away(path: str, host: str) -> None:
    assert status(path, [(b"host", host.encode()), BEARER]) == 421


@pytest.mark.parametrize("headers", [[], [HOST, HOST]])
def test_a_request_has_one_host(headers: Headers) -> None:
    assert status("/sleep", [*headers, BEARER]) == 421


@pytest.mark.parametrize("body", [(b"content-length", b"2"), (b"transfer-encoding", b"chunked")])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (b"application/json", 200),
        (b"Application/JSON; charset=utf-8", 200),
        (b"text/plain", 415),
        (b"application/x-www-form-urlencoded", 415),
        (b"multipart/form-data; boundary=application/json", 415),
        (b"", 415),
    ],
)
def test_bodies_are_json_and_say_so(body: tuple[bytes, bytes], kind: bytes, expected: int) -> None:
    headers = [HOST, BEARER, body]
    assert status("/sleep", [*headers, (b"content-type", kind)], "POST") == expected
    assert status("/sleep", headers, "POST") == 415


def test_an_empty_body_needs_no_type() -> None:
    assert status("/sleep", [HOST, BEARER, (b"content-length", b"0")], "POST") == 200


def test_a_socket_is_closed_before_it_is_open() -> None:
    assert [message["type"] for message in ask("/v1/realtime", [HOST], kind="websocket")] == ["websocket.close"]
    assert ask("/v1/realtime", [HOST, BEARER], kind="websocket")[0]["status"] == 200


def test_without_a_key_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "")
    with pytest.raises(ValueError, match=KEY_VARIABLE):
        Guard(lambda scope, receive, send: asyncio.sleep(0))
    done = subprocess.run(
        [sys.executable, "-m", "fastsvs.vllm_server"],
        env={name: value for name, value in os.environ.items() if name != KEY_VARIABLE},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"{KEY_VARIABLE} must hold the key")
