"""MetricFns by name: what a run finds out about itself every so many steps.

A MetricFn is called on every rank, and every rank sees the same: what the main rank alone holds (the samples, whole
weights) is looked at there, and what was found comes to all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from torch import Tensor

from fastsvs.algorithms import Batch
from fastsvs.config import DynamicsConfig
from fastsvs.dynamics.entropy import entropy_figures
from fastsvs.dynamics.rank import rank_dynamics, rank_figures
from fastsvs.dynamics.samples import Row, sample_figures
from fastsvs.dynamics.updates import Change
from fastsvs.registry import Registry

T = TypeVar("T")


class BatchView(Protocol):
    """A batch and the policy that is about to learn from it. The methods are collective: every rank must call the same
    in the same order. They draw no random numbers."""

    config: DynamicsConfig
    batch: Batch
    """Batch with its advantages; it may be empty."""

    def logprobs(self) -> Tensor:
        """Return the log-probs of the response tokens at the sampling temperature, [response_tokens] fp32 on the
        CPU."""

    def entropy(self) -> Tensor:
        """Return the entropies of the response tokens in nats, [response_tokens] fp32 on the CPU."""

    def hidden(self, samples: Sequence[int], look: Callable[[list[Tensor]], Tensor]) -> Tensor:
        """Return figures [samples, figures] of the hidden states of some samples of the batch, on the CPU. `look` makes
        them of several samples' states [tokens, hidden], on a rank that has these: the last layer's, normed, before
        each response token. Log-probs and entropies come from the same pass over the batch."""


class StepView(BatchView, Protocol):
    """A step that was played and is not learned from yet."""

    def samples(self, look: Callable[[Sequence[Row]], T]) -> T:
        """Return what `look` makes of the step's groups, the rows of samples/step_N.jsonl. The main rank calls it."""

    def change(self) -> Change:
        """Return how all weights differ from those that the run began with. Every rank compares its share."""

    def weights(self, look: Callable[[Tensor, Tensor], T]) -> dict[str, T]:
        """Return what `look` makes of every tensor before training and of the same tensor now, by Hugging Face name.
        The main rank calls it, with one pair after the other, whole and on the CPU: that is slow for large models."""


MetricFn = Callable[[StepView], Mapping[str, float]]
"""Function of a step that gives numbers by name, for metrics.jsonl under `dynamics/`."""

METRICS = Registry[MetricFn]("metric")


def sample_metric(step: StepView) -> dict[str, float]:
    """Return figures of difficulty, of diversity and of the problems that the policy made up."""
    return step.samples(sample_figures)


def updates_metric(step: StepView) -> dict[str, float]:
    """Return figures of how the weights differ from those that the run began with."""
    return step.change().figures()


def rank_metric(view: BatchView) -> dict[str, float]:
    """Return the effective rank of hidden states and its motion, of `dynamics.ranked_responses` samples."""
    config = view.config
    chosen = spread(view.batch.kinds, config.ranked_responses)
    if not chosen:
        return {}
    ranks = view.hidden(chosen, lambda hidden: rank_dynamics(hidden, config.rank_window, config.rank_stride))
    return rank_figures(ranks, [view.batch.kinds[sample] for sample in chosen])


def entropy_metric(view: BatchView) -> dict[str, float]:
    """Return figures of the entropy of every response token."""
    if not len(view.batch):
        return {}
    return entropy_figures(view.entropy(), view.batch.response_lengths, view.batch.kinds)


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


METRICS.register("samples")(sample_metric)
METRICS.register("updates")(updates_metric)
METRICS.register("rank")(rank_metric)
METRICS.register("entropy")(entropy_metric)
