"""The cost of `rollout.deterministic` on a CPU: the local engine and the policy with it and without, on models/tiny."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from time import process_time
from typing import TypeVar

import numpy as np
import torch

from bench.report import Row
from fastsvs.algorithms import Batch, Metric, policy_loss
from fastsvs.config import AlgorithmConfig, ModelConfig, PolicyConfig
from fastsvs.policy import Policy
from fastsvs.rollout import LocalEngine, Request, SamplingParams, drain

CASE = "models/tiny, random weights, fp32, on a CPU"
PROVIDERS = {"usual": False, "deterministic": True}
PROMPTS, SAMPLES, PROMPT_TOKENS, RESPONSE_TOKENS = 16, 8, 48, 96
LOSS = AlgorithmConfig()
T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """A policy and an engine with its weights."""

    policy: Policy
    engine: LocalEngine

    def sample(self) -> Batch:
        """Return the rollouts of one step; only their limit ends them."""
        prompts = [tuple(4 + (7 * i + j) % 500 for j in range(PROMPT_TOKENS)) for i in range(PROMPTS)]
        limits = SamplingParams(max_tokens=RESPONSE_TOKENS)
        self.engine.submit([Request(str(i), p, SAMPLES, limits, seed=i) for i, p in enumerate(prompts)])
        found = [(int(key), rollout) for key, group in drain(self.engine) for rollout in group]
        logprobs = torch.tensor([value for _, rollout in found for value in rollout.logprobs])
        return Batch(
            prompt_ids=[np.array(prompts[i]) for i, _ in found],
            response_ids=[np.array(rollout.response_ids) for _, rollout in found],
            kinds=["original"] * len(found),
            groups=torch.tensor([i for i, _ in found]),
            rewards=torch.zeros(len(found)),
            advantages=torch.ones_like(logprobs),
            rollout_logprobs=logprobs,
        )

    def learn(self, batch: Batch) -> dict[str, Metric]:
        """Compute the gradients of an update, and return its metrics."""
        weights = torch.full((len(batch),), 1 / len(batch))
        return self.policy.accumulate_gradients(batch, policy_loss(LOSS), LOSS, weights, temperature=1.0)


def measure(rounds: int) -> Iterator[Row]:
    """Yield tokens a processor second of rollouts and of updates, and how far engine and policy differ. Of `rounds` the
    fastest counts, which other work on the machine disturbed least; both ways take turns."""
    pairs = {name: build(deterministic) for name, deterministic in PROVIDERS.items()}
    seconds: dict[tuple[str, str], list[float]] = {}
    largest = dict.fromkeys(PROVIDERS, 0.0)
    for _ in range(rounds):
        for name, pair in pairs.items():
            batch = timed(seconds.setdefault((name, "rollout"), []), pair.sample)
            metrics = timed(seconds.setdefault((name, "update"), []), partial(pair.learn, batch))
            largest[name] = max(largest[name], float(metrics["rollout_mismatch_max"]))
    tokens = PROMPTS * SAMPLES * RESPONSE_TOKENS
    for what in ("rollout", "update"):
        rates = {name: tokens / min(seconds[name, what]) for name in PROVIDERS}
        for name, rate in rates.items():
            yield Row(CASE, name, f"{what}: response tokens per processor second", rate, "tokens/s")
        yield Row(
            CASE, "deterministic", f"{what}: share of the usual rate", rates["deterministic"] / rates["usual"], "share"
        )
    for name, value in largest.items():
        yield Row(CASE, name, "largest difference of policy and engine", value, "nats")


def build(deterministic: bool) -> Pair:
    model = ModelConfig(path="models/tiny", initialize="random")
    config = PolicyConfig(dtype="fp32", recompute="none", tokens_per_micro_batch=4096)
    longest = PROMPT_TOKENS + RESPONSE_TOKENS
    policy = Policy(model, config, seed=0, total_updates=1, max_sequence_tokens=longest, deterministic=deterministic)
    engine = LocalEngine(
        policy.hf_config,
        dtype=torch.float32,
        device=torch.device("cpu"),
        eos_token_ids=[],
        max_sequences=PROMPTS * SAMPLES // 2,
        deterministic=deterministic,
    )
    engine.load_weights(policy.hf_weights(), 0)
    return Pair(policy, engine)


def timed(seconds: list[float], work: Callable[[], T]) -> T:
    """Do the work, and note the processor seconds that it took."""
    began = process_time()
    done = work()
    seconds.append(process_time() - began)
    return done
