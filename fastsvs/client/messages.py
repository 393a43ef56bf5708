"""The messages between the trainer and a client process: JSON for the few facts, packed arrays for tokens.

A frame is the length of the rest in bytes (u64), that of the JSON in it (u32), the JSON, and the arrays end to end; all
little-endian. The trainer sends a `Setup` first, then asks and cancellations, each under a number; the process answers
under that number with samples or an error, and beats in between.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FRAME_BYTES = 1 << 24
"""Bytes of frames that are read ahead."""
LENGTHS = struct.Struct("<QI")
IDS, LOGPROBS = np.dtype("<i4"), np.dtype("<f8")

Header = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setup:
    """Facts that hold for all that a process is asked."""

    stop_token_ids: tuple[int, ...]
    vocabulary: int
    own_weights: bool
    connections: int
    """Largest number of requests to one server at a time."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One HTTP request for samples."""

    key: str
    """Key of the request, for messages."""
    url: str
    api_key: str
    prompt_ids: Sequence[int]
    sampling: dict[str, Any]
    """Sampling parameters as vLLM names them; they hold the number of samples `n` and `max_tokens`."""
    version: int
    """Version of the oldest weights that may be used."""
    priority: int
    """Rank among the requests that the server has: lower ones are served first."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One response that was checked."""

    ids: NDArray[np.int32]
    """Token ids [tokens]."""
    logprobs: NDArray[np.float64]
    """Log-prob of each token [tokens]."""
    finish_reason: Literal["stop", "length"]
    version: int
    """Version of the first token's weights."""
    mixed: bool
    """True where later tokens come from newer weights."""


def pack(header: Header, *arrays: NDArray[Any]) -> bytes:
    """Return the frame."""
    text = json.dumps(header).encode()
    body = [array.tobytes() for array in arrays]
    return b"".join([LENGTHS.pack(len(text) + sum(map(len, body)), len(text)), text, *body])


async def read_frame(reader: asyncio.StreamReader) -> tuple[Header, memoryview]:
    """Return the next frame's JSON and arrays. Raises IncompleteReadError or ConnectionError at the end."""
    length, text = LENGTHS.unpack(await reader.readexactly(LENGTHS.size))
    frame = memoryview(await reader.readexactly(length))
    return json.loads(bytes(frame[:text])), frame[text:]


def pack_setup(setup: Setup) -> bytes:
    return pack(asdict(setup))


def read_setup(header: Header) -> Setup:
    return Setup(**header | {"stop_token_ids": tuple(header["stop_token_ids"])})


def pack_ask(number: int, ask: Ask) -> bytes:
    facts = {name: getattr(ask, name) for name in ("key", "url", "api_key", "sampling", "version", "priority")}
    return pack({"number": number, "ask": facts}, np.asarray(ask.prompt_ids, dtype=IDS))


def read_ask(header: Header, arrays: memoryview) -> Ask:
    return Ask(**header["ask"], prompt_ids=np.frombuffer(arrays, dtype=IDS).tolist())


def pack_cancel(number: int) -> bytes:
    return pack({"number": number})


def pack_samples(number: int, samples: Sequence[Sample]) -> bytes:
    facts = [[len(sample.ids), sample.finish_reason, sample.version, sample.mixed] for sample in samples]
    ids = np.concatenate([sample.ids for sample in samples])
    logprobs = np.concatenate([sample.logprobs for sample in samples])
    return pack({"number": number, "samples": facts}, ids.astype(IDS), logprobs.astype(LOGPROBS))


def read_samples(header: Header, arrays: memoryview) -> list[Sample]:
    ends = np.cumsum([facts[0] for facts in header["samples"]])
    split = IDS.itemsize * int(ends[-1])
    ids = np.split(np.frombuffer(arrays[:split], dtype=IDS), ends[:-1])
    logprobs = np.split(np.frombuffer(arrays[split:], dtype=LOGPROBS), ends[:-1])
    return [
        Sample(ids[index], logprobs[index], reason, version, mixed)
        for index, (_, reason, version, mixed) in enumerate(header["samples"])
    ]
