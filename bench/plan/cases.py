"""Updates whose time is planned and measured: one to calibrate on, and others in length, batch, layout and model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, PretrainedConfig, Qwen2Config

from fastsvs.config import PolicyConfig
from fastsvs.plan import Answers

TINY = Path(__file__).parents[2] / "models" / "tiny"
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Case:
    """One update."""

    groups: int = 24
    samples: int = 8
    prompt: int = 24
    response: int = 24
    """Mean length of a response; lengths lie evenly within a half of it on both sides."""
    ranks: int = 1
    wide: bool = False
    """True for a model of 50 M parameters, in place of models/tiny."""
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def policy(self) -> PolicyConfig:
        own = {"dtype": "fp32", "recompute": "none", "tokens_per_micro_batch": 4096, "shared_prefix": False}
        return PolicyConfig(**(own | self.changes))

    @property
    def model(self) -> PretrainedConfig:
        if not self.wide:
            return AutoConfig.from_pretrained(TINY)
        return Qwen2Config(
            hidden_size=640,
            intermediate_size=1728,
            num_hidden_layers=8,
            num_attention_heads=10,
            num_key_value_heads=2,
            vocab_size=16384,
            max_position_embeddings=512,
            tie_word_embeddings=True,
        )


BASE = Case()
CALIBRATED_ON = ("tiny", "tiny, long responses", "tiny, short rows", "tiny, TP 2", "50 M")
"""Cases that the table's `cpu` is from; the others are predicted."""
CASES = {
    "tiny": BASE,
    "tiny, four times the batch": replace(BASE, groups=96),
    "tiny, long responses": replace(BASE, groups=6, response=200),
    "tiny, short rows": replace(BASE, changes={"tokens_per_micro_batch": 1024}),
    "tiny, computed again": replace(BASE, changes={"recompute": "full"}),
    "tiny, DP 2": replace(BASE, ranks=2),
    "tiny, TP 2": replace(BASE, ranks=2, changes={"tensor_parallel": 2}),
    "tiny, TP 2, long responses": replace(BASE, groups=6, response=200, ranks=2, changes={"tensor_parallel": 2}),
    "tiny, TP 2, twice the batch": replace(BASE, groups=48, ranks=2, changes={"tensor_parallel": 2}),
    "50 M": replace(BASE, groups=4, wide=True),
    "50 M, computed again": replace(BASE, groups=4, wide=True, changes={"recompute": "full"}),
    "50 M, long responses": replace(BASE, groups=1, response=200, wide=True),
}


def groups_of(case: Case) -> list[Answers]:
    """Return the case's groups, all of which are learned from."""
    low, high = case.response // 2, case.response + case.response // 2
    draw = np.random.default_rng(1)
    return [
        Answers(f"{i:03d}", "original", case.prompt, tuple(draw.integers(low, high + 1, case.samples).tolist()), True)
        for i in range(case.groups)
    ]
