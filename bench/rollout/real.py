"""The same work on one real vLLM server, and what that server's decode step takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from urllib.request import Request as UrlRequest
from urllib.request import urlopen

import torch

from bench.rollout.simulation import Curve, Outcome
from bench.rollout.workload import Lengths, Workload
from fastsvs.config import RolloutConfig, ServerConfig
from fastsvs.policy import load_hf_config
from fastsvs.rollout import Request, Rollout, SamplingParams, VllmEngine, drain
from fastsvs.rollout.registry import EngineSpec
from fastsvs.selfplay.collect import Schedule

MAX_SEQUENCES = 32
CURVE_POINTS = (1, 2, 4, 8, 16, MAX_SEQUENCES)
CURVE_TOKENS = 128
WORKLOAD = Workload(
    prompts=24,
    samples=4,
    lengths=Lengths(median=64, p99_over_median=10, limit=480, within_group=0.0),
    contexts=2,
    variants=4,
    underperforming=0.5,
)
STEPS = WORKLOAD.steps(3)


@contextmanager
def server(folder: Path, max_sequences: int = MAX_SEQUENCES) -> Iterator[VllmEngine]:
    """One server of models/tiny with random weights; nothing ends a response but its token limit."""
    hf_config = load_hf_config("models/tiny")
    spec = EngineSpec(
        hf_config=hf_config,
        dtype=torch.float32,
        device=torch.device("cpu"),
        eos_token_ids=(),
        rollout=RolloutConfig(engine="vllm", max_sequences=max_sequences, server=ServerConfig(count=1)),
        max_sequence_tokens=WORKLOAD.prompt_tokens + WORKLOAD.lengths.limit,
        folder=folder,
    )
    with closing(VllmEngine.build(spec)) as engine:
        endpoints = engine.endpoints(600.0)
        for endpoint in endpoints:
            _name_weights(endpoint.url, version=0)
        engine.weights_loaded([endpoint.name for endpoint in endpoints], version=0)
        yield engine


def measure_curve(engine: VllmEngine, rounds: int) -> Curve:
    """Seconds of a decode step at each number of sequences: medians, the time of a first token taken out."""
    points = []
    for sequences in CURVE_POINTS:
        seconds = [_generate(engine, sequences, CURVE_TOKENS) - _generate(engine, sequences, 1) for _ in range(rounds)]
        points.append(median(seconds) / (CURVE_TOKENS - 1))
    return Curve(CURVE_POINTS, tuple(points))


def play(engine: VllmEngine, schedule: Schedule) -> Outcome:
    """All steps, one after the other."""
    began = perf_counter()
    groups = [group for step in STEPS for group in step.collect(engine, schedule).groups]
    return Outcome(perf_counter() - began, sum(_tokens(group.rollouts) for group in groups))


def _name_weights(url: str, version: int) -> None:
    """The weights that the server began with get a version, as published ones do."""
    body = json.dumps({"new_version": str(version)}).encode()
    headers = {"Content-Type": "application/json"}
    with urlopen(UrlRequest(f"{url}/update_weight_version", body, headers), timeout=60):
        pass


def _generate(engine: VllmEngine, sequences: int, tokens: int) -> float:
    sampling = SamplingParams(max_tokens=tokens)
    began = perf_counter()
    engine.submit([Request(str(i), (1 + i % 60, 2, 3, 4), 1, sampling, seed=i) for i in range(sequences)])
    assert sum(_tokens(rollouts) for _, rollouts in drain(engine)) == sequences * tokens
    return perf_counter() - began


def _tokens(rollouts: Sequence[Rollout]) -> int:
    return sum(len(rollout.response_ids) for rollout in rollouts)
