"""A closer look at a step, every so many steps: `dynamics/...` in metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fastsvs import distributed
from fastsvs.algorithms import Batch
from fastsvs.config import DynamicsConfig
from fastsvs.dynamics import compare, entropy_figures, rank_dynamics, rank_figures, sample_figures
from fastsvs.policy import Policy, open_source
from fastsvs.training.session import Session


def is_due(session: Session, step: int) -> bool:
    """Return True every `dynamics.every` steps, the first and the last step among them; `step` counts from 0."""
    every = session.job.dynamics.every
    return every > 0 and (step % every == 0 or step + 1 == session.job.run.steps)


def measure(session: Session, batch: Batch, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return figures of the policy before its update, of the batch that it is about to learn from, and of the step's
    samples as the main rank records them. Collective; draws no random numbers."""
    figures = sample_figures(rows) | update_figures(session)
    if len(batch):
        figures |= policy_figures(session.policy, batch, session.job.dynamics, session.job.rollout.temperature)
    return {f"dynamics/{name}": value for name, value in figures.items()}


def policy_figures(policy: Policy, batch: Batch, config: DynamicsConfig, temperature: float) -> dict[str, float]:
    """Return figures of the entropy of every response token, and of the ranks of some responses' hidden states.
    Collective."""
    chosen = spread(batch.kinds, config.ranked_responses)
    seen = policy.statistics(
        batch,
        temperature,
        set(chosen),
        lambda hidden: rank_dynamics(hidden, config.rank_window, config.rank_stride),
    )
    figures = entropy_figures(seen.entropy, batch.response_lengths, batch.kinds)
    if seen.hidden:
        figures |= rank_figures(
            torch.stack(list(seen.hidden.values())), [batch.kinds[sample] for sample in seen.hidden]
        )
    return figures


def update_figures(session: Session) -> dict[str, float]:
    """Compare the weights with those that the run began with. Collective; the main rank alone gets the figures."""
    current = session.policy.hf_weights()
    if not distributed.is_main():
        for _ in current:
            pass
        return {}
    source = open_source(session.job.model, session.policy.architecture, session.job.run.seed)
    pairs = ((name, source.read(name, None, 0, 0).to(tensor.dtype), tensor.cpu()) for name, tensor in current)
    return compare(pairs).total().figures()


def spread(kinds: Sequence[str], count: int) -> list[int]:
    """Choose up to `count` samples, as evenly over the kinds as their numbers allow, and evenly over each kind's
    samples."""
    places: dict[str, list[int]] = {}
    for sample, kind in enumerate(kinds):
        places.setdefault(kind, []).append(sample)
    chosen: list[int] = []
    for index, samples in enumerate(sorted(places.values(), key=len)):
        share = min(len(samples), (count - len(chosen)) // (len(places) - index))
        chosen += [samples[i * len(samples) // share] for i in range(share)]
    return sorted(chosen)
