"""Batches of groups, whose samples have the same prompt, and what passes over them give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from megatron.core import parallel_state as mpu
from policy_cases import GSPO, PPO, hf_gradients, make_batch, relative_error
from torch import Tensor

from fastsvs.algorithms import Batch, policy_loss
from fastsvs.config import ModelConfig, PolicyConfig
from fastsvs.policy import Policy

GROUPS = (4, 1, 3, 2, 6, 1)
KINDS = ("original", "synthesis", "variant")
RECOMPUTE: dict[str, dict[str, Any]] = {
    "none": {"recompute": "none"},
    "full": {"recompute": "full"},
    "all but attention": {"recompute": "all_but_attention"},
    "all but attention of one layer": {
        "recompute": "all_but_attention",
        "recompute_method": "block",
        "recompute_layers": 1,
    },
}


def make_groups(groups: Sequence[int] = GROUPS, seed: int = 0) -> Batch:
    """Groups of these sizes, with prompts of 1 to 75 tokens. The fourth has the prompt and the kind of the first, the
    third a prompt that begins with it."""
    generator = np.random.default_rng(seed)
    prompts = [generator.integers(0, 300, generator.integers(1, 50)) for _ in groups]
    if len(groups) > 3:
        prompts[2] = np.concatenate([prompts[0], prompts[2]])[:75]
        prompts[3] = prompts[0].copy()
    return replace(
        make_batch(sum(groups), seed=seed),
        prompt_ids=[prompt for prompt, size in zip(prompts, groups, strict=True) for _ in range(size)],
        kinds=[KINDS[number % 3] for number, size in enumerate(groups) for _ in range(size)],
        groups=torch.arange(len(groups)).repeat_interleave(torch.tensor(groups)),
    )


def build(model: str, **settings: Any) -> Policy:
    mpu.destroy_model_parallel()
    config = PolicyConfig(**{"dtype": "fp32", "recompute": "none", "tokens_per_micro_batch": 220} | settings)
    return Policy(ModelConfig(path=model), config, seed=0, total_updates=8, max_sequence_tokens=128)


def results_of(policy: Policy, batch: Batch) -> dict[str, Any]:
    """What the passes over the batch give, and the figures of the hidden states of two samples."""
    looked = sorted({0, len(batch) - 1})
    figures = policy.statistics(batch, 0.7, looked, means, certainty=True)
    found: dict[str, Any] = {"hidden": figures.hidden, "metrics": {}, "gradients": {}}
    found |= {name: getattr(figures, name) for name in ("logprobs", "entropy", "mean_logprobs")}
    weights = torch.linspace(1e-3, 5e-3, len(batch))
    for algorithm in (GSPO, PPO):
        metrics = policy.accumulate_gradients(batch, policy_loss(algorithm), algorithm, weights, 0.7)
        found["metrics"] |= {f"{algorithm.loss} {name}": value for name, value in metrics.items()}
        found["gradients"] |= {f"{algorithm.loss} {name}": value for name, value in hf_gradients(policy).items()}
    return found


def means(states: list[Tensor]) -> Tensor:
    return torch.stack([hidden.mean(0) for hidden in states])


def assert_same(actual: dict[str, Any], expected: dict[str, Any], limit: float = 1e-5) -> None:
    for name in ("logprobs", "entropy", "mean_logprobs"):
        assert relative_error(actual[name], expected[name]) < 1e-6, name
    assert actual["hidden"].keys() == expected["hidden"].keys()
    for sample, figures in expected["hidden"].items():
        assert relative_error(actual["hidden"][sample], figures) < limit, sample
    assert actual["gradients"].keys() == expected["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        assert relative_error(actual["gradients"][name], gradient) < limit, name
    shares = {name: actual["metrics"].pop(name) for name in list(actual["metrics"]) if "tokens_saved" in name}
    assert all(share > 0.1 for share in shares.values())
    assert actual["metrics"] == pytest.approx(
        {name: value for name, value in expected["metrics"].items() if name not in shares}, rel=limit
    )
