"""Engines on servers that speak (`speaking_server`), what they are asked, and what they must answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from speaking_server import EOS, KEY, VOCABULARY, SpeakingServer, tokens_of

from fastsvs.config import ServerConfig
from fastsvs.rollout import Request, Rollout, SamplingParams, VllmEngine


@contextmanager
def opened(
    servers: Sequence[SpeakingServer], config: ServerConfig, load: bool = True, **options: Any
) -> Iterator[VllmEngine]:
    """An engine whose servers hold weights 1, unless it is not to `load` them."""
    engine = VllmEngine(
        servers,
        config,
        api_key=KEY,
        eos_token_ids=[EOS],
        vocabulary=VOCABULARY,
        max_sequences=16,
        max_sequence_tokens=64,
        **options,
    )
    try:
        if load:
            publish(engine, 1)
        yield engine
    finally:
        engine.close()


def publish(engine: VllmEngine, version: int) -> None:
    engine.weights_loaded([endpoint.name for endpoint in engine.endpoints(10)], version)


def requests(count: int, samples: int = 4, first: int = 0) -> list[Request]:
    sampling = SamplingParams(max_tokens=8)
    return [Request(f"r{i}", (5, 6 + i % 40), samples, sampling, seed=i) for i in range(first, first + count)]


def expected(request: Request) -> list[tuple[int, ...]]:
    limit = request.sampling.max_tokens
    return [tuple(tokens_of(list(request.prompt_ids), request.seed + i, limit)) for i in request.numbers]


def collect(engine: VllmEngine, refresh: bool = True, limit: float = 30) -> list[tuple[str, list[Rollout]]]:
    """All pending groups; restarted servers get their weights as a trainer would give them."""
    groups = []
    deadline = time.monotonic() + limit
    while engine.pending():
        assert time.monotonic() < deadline, "requests were lost"
        groups += engine.poll(0.05)
        if refresh and engine.stale():
            publish(engine, 1)
    return groups


def check_each_sample_once(groups: list[tuple[str, list[Rollout]]], asked: Sequence[Request]) -> None:
    assert sorted(key for key, _ in groups) == sorted(request.key for request in asked)
    answers = dict(groups)
    for request in asked:
        assert [rollout.response_ids for rollout in answers[request.key]] == expected(request)
