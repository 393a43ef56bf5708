"""Time of whole updates of one policy on one batch of groups, with and without shared prompts, in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from time import process_time

import numpy as np
import torch
from transformers import Qwen3Config

from bench.report import Row
from fastsvs.algorithms import Batch, aggregation_weights, policy_loss
from fastsvs.config import AlgorithmConfig, ModelConfig, PolicyConfig
from fastsvs.policy import Policy

PROVIDERS = {"unshared": False, "shared": True}
"""Values of `policy.shared_prefix`."""
VOCABULARY = 8192


@dataclass(frozen=True, slots=True)
class Groups:
    """One update on groups of samples with one prompt each, of a model of 256 wide layers."""

    prompt_tokens: int
    answer_tokens: int
    """Mean length of an answer; lengths are even over a third more and less."""
    samples: int = 8
    """Number of answers to a prompt."""
    groups: int = 1
    layers: int = 2
    repeats: int = 3

    def __str__(self) -> str:
        return (
            f"{self.groups} x {self.samples} answers of {self.answer_tokens} to a prompt of {self.prompt_tokens}, "
            f"{self.layers} layers"
        )


def measure_groups(case: Groups) -> Iterator[Row]:
    """Yield the medians of both ways, and the ratios of shared to unshared."""
    batch = random_groups(case)
    policy = build_policy(case)
    algorithm = AlgorithmConfig()
    weights = aggregation_weights(batch.response_lengths, algorithm.aggregation, case.answer_tokens)
    whole = sum(map(len, batch.prompt_ids)) + sum(map(len, batch.response_ids))
    saved: dict[str, float] = {}

    def update(provider: str) -> None:
        saved[provider] = policy.update(batch, policy_loss(algorithm), algorithm, weights, 1.0)["tokens_saved"]

    passes: dict[str, Callable[[str], object]] = {
        "update": update,
        "log-probs": lambda provider: policy.log_probs(batch, 1.0),
    }
    for name, run in passes.items():
        seconds: dict[str, list[float]] = {provider: [] for provider in PROVIDERS}
        for repeat in range(1 + case.repeats):
            for provider, share in PROVIDERS.items():
                policy.config = policy.config.model_copy(update={"shared_prefix": share})
                began = process_time()
                run(provider)
                if repeat:  # the first of each is not timed
                    seconds[provider].append(process_time() - began)
        rates = {provider: whole / median(found) for provider, found in seconds.items()}
        note = "of whole samples, their prompts counted each time"
        for provider, rate in rates.items():
            yield Row(str(case), provider, f"{name}, throughput", rate, "tokens/s", note=note)
        yield Row(str(case), "shared over unshared", f"{name}, throughput", rates["shared"] / rates["unshared"], "x")
    for provider, share in saved.items():
        yield Row(str(case), provider, "tokens saved", 100 * share, "%")


def random_groups(case: Groups) -> Batch:
    """Return random token ids, with advantages of both signs."""
    generator = np.random.default_rng(1)
    prompts = [generator.integers(VOCABULARY, size=case.prompt_tokens) for _ in range(case.groups)]
    spread = case.answer_tokens // 3
    count = case.groups * case.samples
    lengths = generator.integers(case.answer_tokens - spread, case.answer_tokens + spread + 1, size=count)
    tokens = int(lengths.sum())
    return Batch(
        prompt_ids=[prompt for prompt in prompts for _ in range(case.samples)],
        response_ids=[generator.integers(VOCABULARY, size=length) for length in lengths],
        kinds=["synthesis"] * count,
        groups=torch.arange(case.groups).repeat_interleave(case.samples),
        rewards=torch.zeros(count),
        advantages=torch.from_numpy(generator.standard_normal(tokens, dtype=np.float32)),
        rollout_logprobs=torch.full((tokens,), -float(np.log(VOCABULARY))),
    )


def build_policy(case: Groups) -> Policy:
    """Return a policy with random weights, and the default row and recomputation."""
    shape = Qwen3Config(
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=case.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
        max_position_embeddings=32768,
    )
    with tempfile.TemporaryDirectory() as folder:
        shape.save_pretrained(folder)
        return Policy(
            ModelConfig(path=folder, initialize="random"),
            PolicyConfig(dtype="fp32"),
            seed=0,
            total_updates=1_000_000,
            max_sequence_tokens=case.prompt_tokens + 2 * case.answer_tokens,
        )
