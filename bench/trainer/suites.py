"""Definition of what is measured: model shapes, rows of tokens, and the published figures to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from transformers import PretrainedConfig, Qwen3Config

PROMPT_TOKENS = 128
"""Number of prompt tokens of each packed sequence, whose log-probs are not trained on."""


@dataclass(frozen=True, slots=True)
class Case:
    """One update on one packed row of `tokens` tokens."""

    model: str
    tokens: int
    layout: Literal["single", "packed"]
    """Layout of the row. `single`: one sequence, all of it trained on. `packed`: many, as long as reasoning
    rollouts."""
    recompute: Literal["full", "all_but_attention", "none"] = "full"
    """Recomputation, as in `policy.recompute`."""

    @property
    def name(self) -> str:
        return f"{self.model}/{self.tokens // 1000}k/{self.layout}"

    @property
    def provider(self) -> str:
        """Return the name that our figures have. The published figures are with full recomputation."""
        return "fastsvs" if self.recompute == "full" else f"fastsvs, recompute={self.recompute}"

    def lengths(self) -> list[int]:
        """Return the tokens of each sequence, prompt included; they sum to `tokens`."""
        if self.layout == "single":
            return [self.tokens]
        generator = np.random.default_rng(0)
        lengths: list[int] = []
        left = self.tokens
        while left:
            drawn = PROMPT_TOKENS + int(generator.lognormal(mean=6.8, sigma=0.6))  # median response 900 tokens
            # What would be left must still hold a prompt and a response.
            length = drawn if left - drawn > PROMPT_TOKENS else left
            lengths.append(length)
            left -= length
        return lengths

    @property
    def prompt_tokens(self) -> int:
        return 1 if self.layout == "single" else PROMPT_TOKENS


@dataclass(frozen=True, slots=True)
class Suite:
    cases: tuple[Case, ...]
    dtype: Literal["bf16", "fp32"]
    repeats: int
    """Number of timed updates of each case, after one that is not timed."""
    needs_gpu: bool
    limit_seconds: float
    """Time limit in seconds since the start: a case that is expected to end later is not started."""


@dataclass(frozen=True, slots=True)
class Published:
    """Another trainer's figure for the same work, printed beside ours, on the machine that it names."""

    provider: str
    case: str
    values: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Figures by metric, as (value, unit)."""


MODELS: dict[str, Callable[[], PretrainedConfig]] = {
    "qwen3-0.6b": lambda: _qwen3(hidden=1024, ffn=3072, layers=28, heads=16),
    "qwen3-1.7b": lambda: _qwen3(hidden=2048, ffn=6144, layers=28, heads=16),
    "qwen3-4b": lambda: _qwen3(hidden=2560, ffn=9728, layers=36, heads=32),
    "smollm2-135m": lambda: _qwen3(hidden=576, ffn=1536, layers=30, heads=9, groups=3, head_dim=64, vocabulary=49152),
    "tiny": lambda: _qwen3(hidden=64, ffn=128, layers=2, heads=4, groups=2, head_dim=16, vocabulary=512),
}

SUITES = {
    # The published rows first: should time run out, they are there.
    "h200": Suite(
        cases=(
            Case("qwen3-0.6b", 16 * 1024, "single"),
            Case("qwen3-0.6b", 64 * 1024, "single"),
            Case("qwen3-0.6b", 64 * 1024, "single", recompute="all_but_attention"),
            Case("qwen3-0.6b", 16 * 1024, "single", recompute="all_but_attention"),
            Case("qwen3-0.6b", 16 * 1024, "single", recompute="none"),
            Case("qwen3-0.6b", 16 * 1024, "packed"),
            Case("qwen3-0.6b", 64 * 1024, "packed"),
            Case("qwen3-1.7b", 16 * 1024, "packed"),
            Case("qwen3-1.7b", 64 * 1024, "packed"),
            Case("qwen3-4b", 16 * 1024, "packed"),
            Case("qwen3-4b", 64 * 1024, "packed"),
        ),
        dtype="bf16",
        repeats=3,
        needs_gpu=True,
        limit_seconds=440,
    ),
    "smoke": Suite(
        cases=(
            Case("tiny", 1024, "single"),
            Case("tiny", 1024, "single", recompute="all_but_attention"),
            Case("tiny", 1024, "single", recompute="none"),
            Case("tiny", 2048, "packed"),
        ),
        dtype="fp32",
        repeats=2,
        needs_gpu=False,
        limit_seconds=60,
    ),
}

# prime-rl's own trainer benchmark (fake data, flash-attention 3, torch.compile, full recompute), read from
# github.com/PrimeIntellect-ai/prime-rl: benchmarks/baselines/benchmark-1xh100-Qwen--Qwen3-0.6B-rl-full-1gpu-Recompute-
# flash_attention_3-{16384,65536}-cp1-ep1.json of 2026-01-15. A step there is two rows of one sequence each. Its
# `throughput` counts the time between steps too; the rate inside a step follows from its `step_time`.
PRIME_RL = "prime-rl, published, one H100-80GB"
PUBLISHED = (
    Published(
        PRIME_RL,
        "qwen3-0.6b/16k/single",
        {
            "throughput": (11_896, "tokens/s"),
            "throughput inside a step": (2 * 16_384 / 1.9923, "tokens/s"),
            "mfu": (11.08, "%"),
            "peak memory": (12.53, "GiB"),
        },
    ),
    Published(
        PRIME_RL,
        "qwen3-0.6b/65k/single",
        {
            "throughput": (10_147, "tokens/s"),
            "throughput inside a step": (2 * 65_536 / 12.1756, "tokens/s"),
            "mfu": (26.80, "%"),
            "peak memory": (19.56, "GiB"),
        },
    ),
)


def _qwen3(
    *, hidden: int, ffn: int, layers: int, heads: int, groups: int = 8, head_dim: int = 128, vocabulary: int = 151936
) -> PretrainedConfig:
    return Qwen3Config(
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=head_dim,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
        max_position_embeddings=131072,
    )
