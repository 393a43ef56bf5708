"""The same work on one real vLLM server, and the time that its decode step takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from urllib.request import Request as UrlRequest
from urllib.request import urlopen

import torch

from fastsvs.config import RolloutConfig, ServerConfig
from fastsvs.plan import SCHEDULES, Curve, Lengths, Outcome, Workload
from fastsvs.policy import load_hf_config
from fastsvs.rollout import Request, Rollout, SamplingParams, VllmEngine, drain
from fastsvs.rollout.registry import EngineSpec
from fastsvs.selfplay.collect import Schedule
from fastsvs.sync import Endpoint

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


@dataclass(frozen=True)
class Served:
    engine: VllmEngine
    endpoint: Endpoint

    def steps(self) -> int:
        """Return the number of decode steps that the server has done. It does not depend on how busy the machine is."""
        counted = ask(self.endpoint, "/metrics")
        found = re.search(rb"^vllm:iteration_tokens_total_count\S* (\S+)$", counted, re.MULTILINE)
        assert found, "vLLM no longer counts its iterations under this name"
        return int(float(found[1]))


@dataclass(frozen=True)
class Played:
    """One step of self-play on a server."""

    outcome: Outcome
    decode_steps: int


def measure(folder: Path, rounds: int) -> tuple[Curve, dict[Schedule, list[Played]]]:
    """Return the throughput curve of a server, and the steps of each schedule on it.

    Of `rounds` measurements of a step the fastest counts, which other work on the machine disturbed least.
    """
    played: dict[Schedule, list[list[Played]]] = {schedule: [[] for _ in STEPS] for schedule in SCHEDULES}
    with server(folder) as served:
        play(served, STEPS[0], "phased")  # warms up
        curve = measure_curve(served, rounds)
        for _ in range(rounds):
            for number, step in enumerate(STEPS):
                for schedule in SCHEDULES:
                    played[schedule][number].append(play(served, step, schedule))
    fastest = {s: [min(runs, key=lambda run: run.outcome.seconds) for runs in steps] for s, steps in played.items()}
    return curve, fastest


def serving_spec(folder: Path, servers: int) -> EngineSpec:
    """Return the spec of servers of models/tiny with random weights. Only its token limit ends a response."""
    return EngineSpec(
        hf_config=load_hf_config("models/tiny"),
        dtype=torch.float32,
        device=torch.device("cpu"),
        eos_token_ids=(),
        rollout=RolloutConfig(
            engine="vllm",
            max_sequences=MAX_SEQUENCES,
            server=ServerConfig(count=servers, arguments={"disable-log-stats": False}),  # `steps` reads them
        ),
        max_sequence_tokens=WORKLOAD.prompt_tokens + WORKLOAD.lengths.limit,
        folder=folder,
    )


@contextmanager
def server(folder: Path) -> Iterator[Served]:
    with closing(VllmEngine.build(serving_spec(folder, servers=1))) as engine:
        name_weights(engine, version=0)
        [endpoint] = engine.endpoints(600.0)
        yield Served(engine, endpoint)


def measure_curve(served: Served, rounds: int) -> Curve:
    """Return the seconds of a decode step at each number of sequences, and of taking a sequence in.

    Each is the least of several measurements, the one that other work on the machine disturbed least.
    """
    first, last = [dict.fromkeys(CURVE_POINTS, float("inf")) for _ in range(2)]
    for _ in range(rounds):
        for sequences in CURVE_POINTS:
            first[sequences] = min(first[sequences], _generate(served.engine, sequences, 1))
            last[sequences] = min(last[sequences], _generate(served.engine, sequences, CURVE_TOKENS))
    steps = [(last[sequences] - first[sequences]) / (CURVE_TOKENS - 1) for sequences in CURVE_POINTS]
    admission = (first[MAX_SEQUENCES] - first[WORKLOAD.samples]) / (MAX_SEQUENCES - WORKLOAD.samples)
    return Curve(CURVE_POINTS, tuple(steps), admission)


def play(served: Served, step: Workload, schedule: Schedule) -> Played:
    began, decoded = perf_counter(), served.steps()
    groups = step.collect(served.engine, schedule).groups
    seconds = perf_counter() - began
    tokens = sum(_tokens(group.rollouts) for group in groups)
    return Played(Outcome(seconds, tokens), served.steps() - decoded)


def name_weights(engine: VllmEngine, version: int) -> None:
    """Give the weights that the servers began with a version, as published ones have, and let requests in."""
    endpoints = engine.endpoints(600.0)
    for endpoint in endpoints:
        ask(endpoint, "/update_weight_version", {"new_version": str(version)})
    engine.weights_loaded([endpoint.name for endpoint in endpoints], version)


def ask(endpoint: Endpoint, path: str, body: Mapping[str, str] | None = None) -> bytes:
    """Return what the server answers to one who has its key."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {endpoint.api_key}"}
    data = None if body is None else json.dumps(body).encode()
    with urlopen(UrlRequest(endpoint.url + path, data, headers), timeout=60) as answer:
        return answer.read()


def _generate(engine: VllmEngine, sequences: int, tokens: int) -> float:
    sampling = SamplingParams(max_tokens=tokens)
    began = perf_counter()
    groups = [min(WORKLOAD.samples, sequences)] * max(1, sequences // WORKLOAD.samples)
    engine.submit([Request(str(i), (1 + i, 2, 3, 4), samples, sampling, seed=i) for i, samples in enumerate(groups)])
    assert sum(_tokens(rollouts) for _, rollouts in drain(engine)) == sequences * tokens
    return perf_counter() - began


def _tokens(rollouts: Sequence[Rollout]) -> int:
    return sum(len(rollout.response_ids) for rollout in rollouts)
