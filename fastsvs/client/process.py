"""A client process: it sends requests for samples to servers, and reads, checks and packs their answers.

Started by `fastsvs.client.pool` as `python -m fastsvs.client.process SOCKET`. It ends when the trainer closes the
socket, or is gone.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from contextlib import suppress

import aiohttp

from fastsvs import open_files
from fastsvs.client import messages
from fastsvs.client.answer import Expected, excerpt, read_samples
from fastsvs.client.experts import answer_bytes
from fastsvs.client.faults import TOLD, NonsenseError
from fastsvs.client.http import open_session, read_whole, send
from fastsvs.client.messages import FRAME_BYTES, Ask, Sample, Setup
from fastsvs.errors import EngineFailure

GENERATE = "/inference/v1/generate"
CONNECT_SECONDS = 10.0
BYTES_PER_TOKEN = 512
"""Upper bound on the bytes of an answer per token, without its experts."""
BEAT_SECONDS = 1.0
YOUNG_OBJECTS = 100_000
"""Number of new objects before the garbage collector looks at them: an answer has thousands, and none is garbage."""


async def serve(connection: socket.socket) -> None:
    """Do what is asked until the other end is closed."""
    reader, writer = await asyncio.open_connection(sock=connection, limit=FRAME_BYTES)
    pulse = asyncio.create_task(beat(writer, os.getppid()))
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        header, _ = await messages.read_frame(reader)
        setup = messages.read_setup(header)
        async with open_session(setup.connections) as session:
            await take(reader, writer, session, setup)
    pulse.cancel()


async def take(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: aiohttp.ClientSession, setup: Setup
) -> None:
    """Take in asks and cancellations. Raises IncompleteReadError or ConnectionError at the end; then the rest is given
    up."""
    calls: dict[int, asyncio.Task[None]] = {}
    try:
        while True:
            header, arrays = await messages.read_frame(reader)
            number = header["number"]
            if "ask" in header:
                ask = messages.read_ask(header, arrays)
                calls[number] = asyncio.create_task(answer(session, setup, number, ask, writer))
                calls[number].add_done_callback(lambda _, number=number: calls.pop(number))  # type: ignore[misc]
            elif number in calls:
                calls[number].cancel()
    finally:
        for call in calls.values():
            call.cancel()


async def beat(writer: asyncio.StreamWriter, trainer: int) -> None:
    """Let the trainer know that this process lives, and end it when the trainer does not."""
    while os.getppid() == trainer:
        writer.write(messages.pack({}))
        await asyncio.sleep(BEAT_SECONDS)
    os._exit(1)


async def answer(
    session: aiohttp.ClientSession, setup: Setup, number: int, ask: Ask, writer: asyncio.StreamWriter
) -> None:
    try:
        frame = messages.pack_samples(number, await generate(session, setup, ask))
    except Exception as error:
        known = type(error).__name__ in TOLD
        name, message = (type(error).__name__, str(error)) if known else ("RuntimeError", repr(error))
        frame = messages.pack({"number": number, "error": name, "message": message})
    writer.write(frame)
    await writer.drain()


async def generate(session: aiohttp.ClientSession, setup: Setup, ask: Ask) -> list[Sample]:
    """Return the samples in their order. Cancelling this makes the server stop working on them.

    Raises UnreachableError; NonsenseError; AbortedError; EngineFailure for a request that the server finds wrong;
    FloatingPointError when the model has diverged.
    """
    samples, limit, prompt = ask.sampling["n"], ask.sampling["max_tokens"], len(ask.prompt_ids)
    body = {"token_ids": ask.prompt_ids, "sampling_params": ask.sampling, "priority": ask.priority}
    largest = (samples * limit + 64) * BYTES_PER_TOKEN
    if setup.experts is not None:
        largest += samples * (prompt + limit) * answer_bytes(setup.experts)
    status, answer = await post(session, ask, body, largest)
    if status in (400, 422):
        raise EngineFailure(f"{ask.url} refuses request {ask.key!r}: {excerpt(answer)}")
    if status != 200:
        raise NonsenseError(f"answered with status {status}: {excerpt(answer)}")
    stop = frozenset(setup.stop_token_ids)
    return read_samples(
        answer,
        Expected(samples, limit, stop, setup.vocabulary, ask.version, setup.own_weights, prompt, setup.experts),
    )


async def post(session: aiohttp.ClientSession, ask: Ask, body: object, largest: int) -> tuple[int, bytes]:
    """Return status and body of the answer. Raises as `send` and `read_whole` do."""
    limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
    async with send(session, "POST", ask.url + GENERATE, ask.api_key, json=body, timeout=limits) as response:
        return response.status, await read_whole(response, largest)


def main(file: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer's to handle, which then closes the socket
    open_files.raise_limit()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
    asyncio.run(serve(socket.socket(fileno=file)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
