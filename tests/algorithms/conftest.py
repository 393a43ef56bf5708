"""Random float64 token terms and ragged batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import settings

from fastsvs.algorithms import Batch, TokenTerms

settings.register_profile("fastsvs", deadline=None)
settings.load_profile("fastsvs")


@pytest.fixture
def make_terms() -> Callable[..., TokenTerms]:
    def make(lengths: Sequence[int] = (3, 1, 6, 4), spread: float = 0.6, seed: int = 0) -> TokenTerms:
        """Ratios around 1 with std `spread` in the log; advantages of both signs, and one sequence without."""
        generator = torch.Generator().manual_seed(seed)
        tokens = sum(lengths)

        def normal(scale: float = 1.0) -> torch.Tensor:
            return scale * torch.randn(tokens, dtype=torch.float64, generator=generator)

        sequence = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        advantages = torch.rand(len(lengths), dtype=torch.float64, generator=generator) + 0.1
        advantages[1::2] *= -1
        advantages[-1] = 0.0
        old = -normal().abs()
        return TokenTerms(
            logprobs=(old + normal(spread)).requires_grad_(),
            entropy=normal().abs().requires_grad_(),
            old_logprobs=old,
            rollout_logprobs=old + normal(spread),
            reference_logprobs=old + normal(spread),
            advantages=advantages[sequence],
            sequence=sequence,
            sequences=len(lengths),
        )

    return make


@pytest.fixture
def make_ragged() -> Callable[..., Batch]:
    def make(
        lengths: Sequence[int],
        rewards: Sequence[float] | None = None,
        groups: Sequence[int] | None = None,
        kinds: Sequence[str] | None = None,
    ) -> Batch:
        samples, tokens = len(lengths), sum(lengths)
        return Batch(
            prompt_ids=[np.array([7, index]) for index in range(samples)],
            response_ids=[np.arange(length) for length in lengths],
            kinds=list(kinds or ["original"] * samples),
            groups=torch.tensor(list(groups or [0] * samples), dtype=torch.int64),
            rewards=torch.tensor(list(rewards or [0.0] * samples), dtype=torch.float32),
            advantages=torch.zeros(tokens),
            rollout_logprobs=torch.linspace(-1, 0, tokens),
        )

    return make
