"""`python -m bench.client.server MEDIAN SAMPLES`: a server that answers vLLM's token route from memory, as fast as a
socket takes it.

It prints its port. Answers are made beforehand, in vLLM's own form, each of so many responses, with lengths about the
median; which one a request gets does not depend on the request. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from itertools import cycle

import numpy as np

LIMIT = 8192
"""Longest response in tokens."""
P99_OVER_MEDIAN = 10
"""Lengths are log-normal; the source of this number is in bench/rollout/cluster.py."""
STANDARD_P99 = 2.326
"""Number of standard deviations from the median of a normal distribution to its 99th percentile."""
VOCABULARY, EOS = 152_064, 151_645
ANSWERS = 32
GENERATE = b"POST /inference/v1/generate "


def lengths(median: int, samples: int) -> list[list[int]]:
    """Return the lengths of the responses of each answer, in tokens."""
    draw = np.random.default_rng(0)
    spread = np.log(P99_OVER_MEDIAN) / STANDARD_P99
    made = median * np.exp(spread * draw.standard_normal((ANSWERS, samples)))
    return np.clip(made.round(), 1, LIMIT).astype(int).tolist()


def answers(median: int, samples: int) -> list[bytes]:
    """Return the JSON of all answers."""
    return [answer(number, tokens) for number, tokens in enumerate(lengths(median, samples))]


def answer(number: int, lengths: Sequence[int]) -> bytes:
    draw = np.random.default_rng(number)
    return json.dumps(
        {
            "request_id": f"{number:032x}",
            "model": "policy",
            "created": 1_790_000_000,
            "usage": None,
            "choices": [choice(index, tokens, draw) for index, tokens in enumerate(lengths)],
        },
        separators=(",", ":"),
    ).encode()


def choice(index: int, tokens: int, draw: np.random.Generator) -> dict[str, object]:
    ids = draw.integers(0, 150_000, tokens).tolist()
    if tokens < LIMIT:
        ids[-1] = EOS
    logprobs = (-draw.exponential(0.4, tokens)).astype(np.float32).astype(float).tolist()
    return {
        "index": index,
        "finish_reason": "stop" if tokens < LIMIT else "length",
        "stop_reason": None,
        "token_ids": ids,
        "routed_experts": None,
        "sampling_mask": None,
        "weight_versions": [{"version": "0", "start": 0, "end": tokens}],
        "logprobs": {
            "content": [
                {"token_id": token, "logprob": logprob, "rank": 1, "top_logprobs": []}
                for token, logprob in zip(ids, logprobs, strict=True)
            ]
        },
    }


class Connection(asyncio.Protocol):
    """A connection on which requests come one after another."""

    def __init__(self, answers: cycle[bytes]) -> None:
        self._answers = answers
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            if len(self._received) < end + 4 + length:
                return
            sampled = self._received.startswith(GENERATE) and b'"seed"' in self._received
            self._received = self._received[end + 4 + length :]
            body = next(self._answers) if sampled else b"{}"
            status = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            self._transport.writelines([status % len(body), body])


async def main(median: int, samples: int) -> None:
    made = cycle(answers(median, samples))
    server = await asyncio.get_running_loop().create_server(lambda: Connection(made), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
