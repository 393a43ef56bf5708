"""Modes of a vLLM server beside its usual one: guessed tokens, 8 bits, batch invariance; the rate of each."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from bench.report import Row
from bench.rollout.real import name_weights
from fastsvs.config import RolloutConfig, ServerConfig
from fastsvs.data import load_tokenizer, tiny
from fastsvs.policy import load_hf_config
from fastsvs.rollout import Request, SamplingParams, VllmEngine, drain
from fastsvs.rollout.registry import EngineSpec

USUAL = "usual"
MODES: Mapping[str, Mapping[str, Any]] = {
    USUAL: {},
    "8 bits": {"quantization": "fp8"},
    "guessed tokens, n-grams": {"speculative": {"method": "ngram"}},
    "batch-invariant": {"deterministic": True},
}
"""Keys of `rollout` of each mode."""
ON_CPUS = (USUAL, "8 bits")
"""Modes that vLLM 0.32 has on a CPU too."""
PROMPTS, SAMPLES, LONGEST = 32, 8, 4096


def measure(model: Path, tokens: int, rounds: int) -> Iterator[Row]:
    """Yield the tokens per second of each mode, its ratio to the usual one, and the share of guessed tokens that were
    kept, in bf16. Servers stand one after the other; of `rounds` the fastest counts, after one that warms up."""
    gpu = torch.cuda.is_available()
    case = f"{model.name}, one vLLM server on {'a GPU' if gpu else 'a CPU'}, {PROMPTS * SAMPLES} sequences"
    rates: dict[str, float] = {}
    for name in MODES if gpu else ON_CPUS:
        with tempfile.TemporaryDirectory() as folder, closing(VllmEngine.build(spec(model, name, folder))) as engine:
            name_weights(engine, version=0)
            play(engine, model, tokens)
            engine.metrics()
            seconds = min(play(engine, model, tokens) for _ in range(rounds))
            kept = engine.metrics().get("rollout/accepted_share")
        rates[name] = PROMPTS * SAMPLES * tokens / seconds
        yield Row(case, name, "response tokens per second", rates[name], "tokens/s")
        yield Row(case, name, "ratio to the usual mode", rates[name] / rates[USUAL], "ratio")
        if kept is not None:
            yield Row(case, name, "share of the guessed tokens that were kept", kept, "share")


def spec(model: Path, mode: str, folder: str) -> EngineSpec:
    """Return the spec of a server in this mode that reads its weights itself. Only its token limit ends a response."""
    arguments = {"model": str(model.absolute()), "load-format": "auto"}
    server = ServerConfig(count=1, arguments=arguments)
    return EngineSpec(
        hf_config=load_hf_config(str(model)),
        dtype=torch.bfloat16,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        eos_token_ids=(),
        rollout=RolloutConfig(engine="vllm", max_sequences=PROMPTS * SAMPLES, server=server, **MODES[mode]),
        max_sequence_tokens=min(LONGEST, load_hf_config(str(model)).max_position_embeddings),
        folder=Path(folder),
    )


def play(engine: VllmEngine, model: Path, tokens: int) -> float:
    """Return the seconds of a group of samples for each problem of the tiny task."""
    tokenizer, limits = load_tokenizer(str(model)), SamplingParams(max_tokens=tokens)
    prompts = [tuple(tokenizer(problem.question)["input_ids"]) for problem in tiny.problems("tiny:heldout", PROMPTS)]
    began = perf_counter()
    engine.submit([Request(str(i), prompt, SAMPLES, limits, seed=i) for i, prompt in enumerate(prompts)])
    for _ in drain(engine):
        pass
    return perf_counter() - began
