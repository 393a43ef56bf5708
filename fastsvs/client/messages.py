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
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FRAME_BYTES = 1 << 24
"""Bytes of frames that are read ahead."""
LENGTHS = struct.Struct("<QI")
IDS, LOGPROBS, EXPERTS = np.dtype("<i4"), np.dtype("<f8"), np.dtype("<i2")

Header = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """Shape of what a server says of the experts that computed a token."""

    layers: int
    """Number of the layers that it has places for: all of the model."""
    active: int
    """Number of experts that compute a token in a layer."""
    count: int
    """Number of experts of a layer."""
    routed: tuple[int, ...]
    """Numbers of the layers with experts; at the places of others stands nothing of meaning."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Facts that hold for all that a process is asked."""

    stop_token_ids: tuple[int, ...]
    vocabulary: int
    own_weights: bool
    connections: int
    """Largest number of requests to one server at a time."""
    experts: ExpertShape | None = None
    """Shape of the experts that servers must say of every token; None where nobody asks for them."""


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
    experts: NDArray[np.int16] | None = None
    """Experts of each token of prompt and response but the last, [tokens - 1, layers, active]; None where nobody asked
    for them."""


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
    experts = header["experts"]
    experts = experts and ExpertShape(**experts | {"routed": tuple(experts["routed"])})
    return Setup(**header | {"stop_token_ids": tuple(header["stop_token_ids"]), "experts": experts})


def pack_ask(number: int, ask: Ask) -> bytes:
    facts = {name: getattr(ask, name) for name in ("key", "url", "api_key", "sampling", "version", "priority")}
    return pack({"number": number, "ask": facts}, np.asarray(ask.prompt_ids, dtype=IDS))


def read_ask(header: Header, arrays: memoryview) -> Ask:
    return Ask(**header["ask"], prompt_ids=np.frombuffer(arrays, dtype=IDS).tolist())


def pack_cancel(number: int) -> bytes:
    return pack({"number": number})


def pack_samples(number: int, samples: Sequence[Sample]) -> bytes:
    experts = [sample.experts for sample in samples if sample.experts is not None]
    facts = [[len(sample.ids), sample.finish_reason, sample.version, sample.mixed] for sample in samples]
    header = {"number": number, "samples": facts, "experts": [array.shape for array in experts]}
    ids = np.concatenate([sample.ids for sample in samples])
    logprobs = np.concatenate([sample.logprobs for sample in samples])
    return pack(
        header, ids.astype(IDS), logprobs.astype(LOGPROBS), *(array.astype(EXPERTS, copy=False) for array in experts)
    )


def read_samples(header: Header, arrays: memoryview) -> list[Sample]:
    facts = header["samples"]
    shapes = [(tokens,) for tokens, *_ in facts]
    ids, arrays = _cut(arrays, IDS, shapes)
    logprobs, arrays = _cut(arrays, LOGPROBS, shapes)
    experts, _ = _cut(arrays, EXPERTS, header["experts"])
    return [
        Sample(ids[index], logprobs[index], reason, version, mixed, experts[index] if experts else None)
        for index, (_, reason, version, mixed) in enumerate(facts)
    ]


def _cut(
    arrays: memoryview, dtype: np.dtype[Any], shapes: Sequence[Sequence[int]]
) -> tuple[list[NDArray[Any]], memoryview]:
    """Return the first arrays, of these shapes, without a copy, and what comes after them."""
    sizes = [prod(shape) for shape in shapes]
    split = dtype.itemsize * sum(sizes)
    flat = np.split(np.frombuffer(arrays[:split], dtype=dtype), np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(flat, shapes, strict=False)], arrays[split:]
