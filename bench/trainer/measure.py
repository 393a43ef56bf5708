"""Timing of one case: whole updates, and the parts of an update."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
import torch

from bench.trainer.shares import shares
from bench.trainer.suites import MODELS, Case
from fastsvs import distributed
from fastsvs.algorithms import Batch, aggregation_weights, policy_loss
from fastsvs.config import AlgorithmConfig, ModelConfig, PolicyConfig
from fastsvs.kernels import linear_logprob_entropy
from fastsvs.policy import Policy
from fastsvs.policy.attention import chosen

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Measurement:
    seconds: float
    """Median time of the timed updates, in seconds."""
    parts: dict[str, float]
    """Time of each part, in seconds; the sum is `seconds`."""
    peak_allocated: float | None
    """Most memory that tensors took during the updates, in GiB; None on a CPU."""
    peak_reserved: float | None
    """Most memory that the process held, in GiB."""
    shares: dict[str, float]
    """Shares of the update's time on the device, by kind of work."""
    attention: str
    """Name of the implementation that the policy took."""


def build_policy(model: str, tokens: int, dtype: str) -> Policy:
    """Return a policy with random weights in the shape of `model`, for rows of up to `tokens` tokens."""
    gc.collect()  # the policy before this one
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory() as folder:
        MODELS[model]().save_pretrained(folder)
        return Policy(
            ModelConfig(path=folder, initialize="random"),
            PolicyConfig(dtype=dtype, recompute="full", tokens_per_micro_batch=tokens),
            seed=0,
            total_updates=1_000_000,
            max_sequence_tokens=tokens,
        )


def measure(policy: Policy, case: Case, repeats: int) -> Measurement:
    algorithm = AlgorithmConfig()
    batch = random_batch(case, policy.architecture.vocabulary)
    weights = aggregation_weights(batch.response_lengths, algorithm.aggregation, case.tokens)
    arguments = (batch, policy_loss(algorithm), algorithm, weights, 1.0)
    # Megatron's layers read it in every forward pass.
    policy.transformer.recompute_granularity = None if case.recompute == "none" else "full"
    policy.config = policy.config.model_copy(update={"recompute": case.recompute})

    policy.update(*arguments)  # compiles kernels, makes the optimizer's state
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    seconds = _median_seconds(lambda: policy.update(*arguments), repeats)
    peaks = _peak_memory()
    gradient = _median_seconds(lambda: policy.accumulate_gradients(*arguments), repeats)
    policy.log_probs(batch, 1.0)
    forward = _median_seconds(lambda: policy.log_probs(batch, 1.0), repeats)
    head_forward, head = _head_seconds(policy, len(batch.advantages), repeats)
    backward = "backward of the body" if case.recompute == "none" else "backward of the body, recomputing"
    parts = {
        "forward of the body": forward - head_forward,
        "head": head,
        backward: gradient - forward - (head - head_forward),
        "optimizer": seconds - gradient,
    }
    work = shares(lambda: policy.update(*arguments))
    attention = chosen(policy.stage.head.device, policy.stage.head.dtype, policy.architecture.head_dim)
    return Measurement(seconds, parts, *peaks, work, attention)


def random_batch(case: Case, vocabulary: int) -> Batch:
    """Return a batch of random token ids, with advantages of both signs."""
    generator = np.random.default_rng(1)
    lengths, prompt = case.lengths(), case.prompt_tokens
    responses = [length - prompt for length in lengths]
    tokens = sum(responses)
    return Batch(
        prompt_ids=[generator.integers(vocabulary, size=prompt) for _ in lengths],
        response_ids=[generator.integers(vocabulary, size=length) for length in responses],
        kinds=["original"] * len(lengths),
        groups=torch.zeros(len(lengths), dtype=torch.int64),
        rewards=torch.zeros(len(lengths)),
        advantages=torch.from_numpy(generator.standard_normal(tokens, dtype=np.float32)),
        rollout_logprobs=torch.full((tokens,), -float(np.log(vocabulary))),
    )


def _head_seconds(policy: Policy, rows: int, repeats: int) -> tuple[float, float]:
    """Return the seconds of (forward, forward and backward) of the output head alone, on random hidden states."""
    weight = policy.stage.head.detach().clone().requires_grad_()
    hidden = torch.randn(rows, weight.shape[1], device=weight.device).to(weight.dtype).requires_grad_()
    targets = torch.randint(policy.architecture.vocabulary, (rows,), device=weight.device)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return linear_logprob_entropy(hidden, weight, targets, vocab_size=policy.architecture.vocabulary)[0]

    def both() -> None:
        linear_logprob_entropy(hidden, weight, targets, vocab_size=policy.architecture.vocabulary)[0].sum().backward()

    both()
    return _median_seconds(forward, repeats), _median_seconds(both, repeats)


def _median_seconds(function: Callable[[], object], repeats: int) -> float:
    return median(seconds_of(function) for _ in range(repeats))


def seconds_of(function: Callable[[], object]) -> float:
    """Return the seconds of a call, the device's work included."""
    wait_for_device()
    start = perf_counter()
    function()
    wait_for_device()
    return perf_counter() - start


def wait_for_device() -> None:
    """Wait until the device has done what was asked of it."""
    if distributed.device().type == "cuda":
        torch.cuda.synchronize()


def _peak_memory() -> tuple[float | None, float | None]:
    if not torch.cuda.is_available():
        return None, None
    return torch.cuda.max_memory_allocated() / GIB, torch.cuda.max_memory_reserved() / GIB
