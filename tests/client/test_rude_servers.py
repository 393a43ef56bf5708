"""Servers that are slow, rude or hostile, over real sockets: each costs its request, and the client goes on."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from answers import written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastsvs.client import ExpertShape, NonsenseError, UnreachableError, http
from fastsvs.client.http import open_session
from fastsvs.client.messages import Ask, Sample, Setup
from fastsvs.client.process import BYTES_PER_TOKEN, generate
from fastsvs.errors import EngineFailure

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LIMIT, PROMPT = 3, 50_000
SETUP = Setup(stop_token_ids=(9,), vocabulary=20, own_weights=False, connections=4)
LATEST = 30.0
"""Longest time that a rude server may cost here, in seconds."""


def good(**changes: Any) -> dict[str, Any]:
    choice = {
        "index": 0,
        "finish_reason": "length",
        "token_ids": [1, 2, 3],
        "logprobs": {"content": [{"token_id": token, "logprob": -0.5} for token in (1, 2, 3)]},
        "weight_versions": [{"version": "7", "start": 0, "end": 3}],
    }
    return {"choices": [choice | changes]}


GOOD = json.dumps(good()).encode()


def head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


def sized(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return head(f"Content-Length: {len(body)}", *headers, status=status) + body


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return head("Transfer-Encoding: chunked") + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + end


def says(*parts: bytes, pause: float = 0.0) -> Behaviour:
    """Send the parts one by one, and close."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for part in parts:
            await asyncio.sleep(pause)
            writer.write(part)
            await writer.drain()

    return behave


def for_ever(first: bytes, part: bytes, pause: float = 0.0) -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(first)
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)

    return behave


async def half_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say that nothing more will come, and go on listening."""
    await read_request(reader)
    writer.write_eof()
    await reader.read()


async def half_close_amid_the_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(sized(GOOD)[:-5])
    writer.write_eof()
    await reader.read()


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    plug = writer.get_extra_info("socket")
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def answer_unasked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Refuse before the request has been read."""
    writer.write(sized(b"{}", "Connection: close", status="503 Busy"))
    await writer.drain()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    lines = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in lines.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return lines + await reader.readexactly(length)


async def asked(
    behaviour: Behaviour, then: Behaviour | None = None, setup: Setup = SETUP
) -> list[list[Sample] | Exception]:
    """Return what a client gets of a server: one request, then another one, to which the server behaves like `then`."""
    served: list[Behaviour] = [behaviour, *([then] * 10 if then else [])]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await served.pop(0)(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = "http://{}:{}".format(*server.sockets[0].getsockname()[:2])
    found: list[list[Sample] | Exception] = []
    async with open_session(4) as session:
        for _ in range(2 if then else 1):
            ask = Ask("r", url, "key", [1] * PROMPT, {"n": 1, "max_tokens": LIMIT}, version=7, priority=0)
            try:
                async with asyncio.timeout(LATEST):
                    found.append(await generate(session, setup, ask))
            except Exception as error:
                found.append(error)
            await asyncio.sleep(0.05)  # until it is seen that the server closed the connection
    server.close()
    return found


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_SECONDS", 3.0)


BROKEN = {
    "closes without a word": says(),
    "closes its half without a word": half_close,
    "closes its half amid the answer": half_close_amid_the_answer,
    "resets the connection": reset,
    "speaks another protocol": says(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "speaks bytes": says(bytes(range(256)) * 100),
    "is cut off in its head": says(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "has endless headers": for_ever(b"HTTP/1.1 200 OK\r\n", b"X-Header: value\r\n" * 100),
    "has one endless header": for_ever(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536),
    "has two lengths": says(head("Content-Length: 2", "Content-Length: 3") + b"{}"),
    "has a negative length": says(head("Content-Length: -1")),
    "has a length of 5,000 digits": says(head(f"Content-Length: {'9' * 5000}") + b"{}"),
    "ends before its length": says(head("Content-Length: 5000") + GOOD),
    "has chunks of no size": says(head("Transfer-Encoding: chunked") + b"what?\r\n{}\r\n"),
    "ends within a chunk": says(chunked(GOOD, end=b"ffff\r\nx")),
    "ends before the last chunk": says(chunked(GOOD, end=b"")),
    "trickles": for_ever(head("Content-Length: 100000"), b" ", pause=0.05),
    "trickles chunks": for_ever(head("Transfer-Encoding: chunked"), b"1\r\n \r\n", pause=0.05),
    "stops amid the answer": for_ever(head("Content-Length: 100000") + GOOD, b"", pause=0.05),
}
NONSENSE = {
    "says too much": for_ever(head(), b"x" * 65536),
    "says too much in chunks": for_ever(head("Transfer-Encoding: chunked"), b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    "packs a bomb": says(sized(gzip.compress(bytes(100_000_000)), "Content-Encoding: gzip")),
    "packs the answer": says(sized(gzip.compress(GOOD), "Content-Encoding: gzip")),
    "leads elsewhere": says(sized(b"", "Location: http://127.0.0.1:9/", status="307 Temporary Redirect")),
    "leads in a circle": says(sized(b"", "Location: /inference/v1/generate", status="302 Found")),
    "wants to speak something else": says(head("Upgrade: x", "Connection: Upgrade", status="101 Switching Protocols")),
    "has nothing to say": says(head(status="204 No Content")),
    "is busy": answer_unasked,
    "wants a key": says(sized(b"no", status="401 Unauthorized")),
    "answers HTML": says(sized(b"<html>")),
    "answers bytes": says(sized(bytes(range(256)))),
    "answers half of JSON": says(sized(GOOD[:-5])),
    "answers JSON without end": says(sized(b"[" * 20_000)),
    "answers two objects": says(sized(GOOD + GOOD)),
    "answers half a character": says(sized(GOOD.replace(b'"length"', b'"\xed\xa0\x80"'))),
    "answers NaN": says(sized(GOOD.replace(b"-0.5", b"NaN", 1))),
    "answers infinity": says(sized(GOOD.replace(b"-0.5", b"-Infinity", 1))),
    "answers a number of 10,000 digits": says(sized(GOOD.replace(b"-0.5", b"-" + b"9" * 10_000, 1))),
    "answers ids of others": says(sized(json.dumps(good(token_ids=[1, 2, 4])).encode())),
    "answers another sample": says(sized(json.dumps(good(index=1)).encode())),
    "answers no samples": says(sized(b'{"choices": []}')),
    "answers samples of other kinds": says(sized(b'{"choices": [[], null, 7]}')),
}
FINE = {
    "at once": says(sized(GOOD)),
    "in chunks": says(chunked(GOOD[:10], GOOD[10:])),
    "without a length": says(head("Connection: close") + GOOD),
    "in single bytes": says(*(bytes([byte]) for byte in sized(GOOD))),
    "after some time": says(sized(GOOD), pause=0.3),
    "and goes on talking": says(sized(GOOD) + b"HTTP/1.1 200 OK\r\n\r\nmore"),
    "and sets cookies": says(sized(GOOD, *(f"Set-Cookie: c{n}={'x' * 1000}" for n in range(50)))),
    "after a word of patience": says(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + sized(GOOD)),
}


def test_an_answer_has_room_for_the_experts_of_a_long_prompt() -> None:
    experts = np.tile(np.arange(4, dtype=np.uint16), (PROMPT + LIMIT - 1, 5, 1))
    body = json.dumps(good(routed_experts=written(experts))).encode()
    setup = replace(SETUP, experts=ExpertShape(layers=5, active=4, count=300, routed=tuple(range(5))))
    [[sample]] = asyncio.run(asked(says(sized(body)), setup=setup))  # type: ignore[misc]
    assert (sample.experts == experts).all()
    [refused] = asyncio.run(asked(says(sized(body))))
    assert "answered with more than" in str(refused), "nobody asked for them"


@pytest.mark.parametrize("kind", [*BROKEN, *NONSENSE])
def test_a_rude_server_costs_its_request_alone(kind: str) -> None:
    begun = time.monotonic()
    first, second = asyncio.run(asked((BROKEN | NONSENSE)[kind], then=says(sized(GOOD))))
    assert isinstance(first, UnreachableError if kind in BROKEN else NonsenseError), repr(first)
    assert len(str(first)) < 1000
    assert isinstance(second, list), repr(second)
    assert time.monotonic() - begun < LATEST


@pytest.mark.parametrize("kind", FINE)
def test_an_odd_server_is_heard_out(kind: str) -> None:
    for found in asyncio.run(asked(FINE[kind], then=FINE[kind])):
        assert isinstance(found, list), repr(found)
        [sample] = found
        assert sample.ids.tolist() == [1, 2, 3]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=400)
    | st.builds(
        lambda at, cut, put: sized(GOOD)[:at] + put + sized(GOOD)[at + cut :],
        st.integers(0, len(sized(GOOD))),
        st.integers(0, 3),
        st.binary(max_size=3),
    )
)
def test_any_bytes_are_samples_or_a_fault_of_the_server(text: bytes) -> None:
    [found] = asyncio.run(asked(says(text)))
    refusal = text.split(b" ")[1:2] in ([b"400"], [b"422"])
    assert isinstance(found, list | UnreachableError | NonsenseError | FloatingPointError) or refusal, repr(found)


def test_the_key_goes_nowhere_else() -> None:
    async def led_astray() -> list[bytes]:
        heard: list[bytes] = []

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.append(await reader.read(1))
            writer.close()

        elsewhere = await asyncio.start_server(listen, "127.0.0.1", 0)
        port = elsewhere.sockets[0].getsockname()[1]
        await asked(says(sized(b"", f"Location: http://127.0.0.1:{port}/", status="308 Permanent Redirect")))
        await asyncio.sleep(0.1)
        elsewhere.close()
        return heard

    assert asyncio.run(led_astray()) == []


def test_an_answer_has_as_much_room_as_its_tokens_need() -> None:
    room = (LIMIT + 64) * BYTES_PER_TOKEN
    [enough] = asyncio.run(asked(says(sized(GOOD + b" " * (room - len(GOOD))))))
    [too_much] = asyncio.run(asked(says(sized(GOOD + b" " * (room + 1 - len(GOOD))))))
    assert isinstance(enough, list)
    assert isinstance(too_much, NonsenseError)
    assert f"more than {room} bytes" in str(too_much)


KEEPALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE), (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)]


def test_a_connection_that_waits_is_asked_whether_it_still_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []
    make = http._socket

    def remembered(address: Any) -> socket.socket:
        made.append(make(address))
        return made[-1]

    monkeypatch.setattr(http, "_socket", remembered)

    async def options() -> list[int]:
        found: list[int] = []

        async def look(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(sized(GOOD))

        server = await asyncio.start_server(look, "127.0.0.1", 0)
        async with open_session(1) as session:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with session.get(url):
                found.extend(made[0].getsockopt(level, option) for level, option in KEEPALIVE)
        server.close()
        return found

    assert asyncio.run(options()) == [1, http.KEEPALIVE["TCP_KEEPINTVL"]]


SHORT = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL]


@pytest.mark.parametrize("number", SHORT)
def test_a_shortage_that_lasts_ends_the_run_in_its_own_name(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(address: Any) -> socket.socket:
        raise OSError(number, "none")

    monkeypatch.setattr(http, "_socket", none)
    monkeypatch.setattr("fastsvs.client.files.FILES_SECONDS", 0.1)
    [found] = asyncio.run(asked(says(sized(GOOD))))
    assert isinstance(found, EngineFailure), repr(found)
    assert "cannot reach http://127.0.0.1:" in str(found)
    assert ": this process can " in str(found)


@pytest.mark.parametrize("number", SHORT)
def test_files_that_are_short_are_no_fault_of_the_server(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process can open no socket three times; then it can."""
    made, refusals = http._socket, [number] * 3

    def scarce(address: Any) -> socket.socket:
        if refusals:
            raise OSError(refusals.pop(), "no more files")
        return made(address)

    monkeypatch.setattr(http, "_socket", scarce)
    monkeypatch.setattr("fastsvs.client.files.FILES_SECONDS", 1.0)
    [found] = asyncio.run(asked(says(sized(GOOD))))
    assert isinstance(found, list), repr(found)
    assert refusals == []


def test_a_session_trusts_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    [found] = asyncio.run(asked(says(sized(GOOD))))
    assert isinstance(found, list), repr(found)
