"""Batches of groups, whose samples have the same prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from policy_cases import make_batch

from fastsvs.algorithms import Batch

GROUPS = (4, 1, 3, 2, 6, 1)
KINDS = ("original", "synthesis", "variant")


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
