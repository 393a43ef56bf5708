"""Divides a step's batch into optimizer steps."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from random import Random

from torch import Tensor

from fastsvs.algorithms.aggregation import aggregation_weights
from fastsvs.algorithms.batch import Batch
from fastsvs.config import AlgorithmConfig
from fastsvs.seeding import derive_seed


@dataclass(frozen=True, slots=True)
class Update:
    """One optimizer step: its part of the batch, and the weight of each sample's tokens, [samples] fp32."""

    batch: Batch
    weights: Tensor


def updates_of(batch: Batch, config: AlgorithmConfig, max_response_tokens: int, seed: int) -> list[Update]:
    """Return the step's updates, in order; none for an empty batch.

    With `denominator: all` the responses that were left out count in each update's mean by its share of the samples.
    With `updates: filled` the last update weighs as much as it is full.
    """
    parts = split_updates(batch, config.samples_per_update, seed, filled=config.updates == "filled")
    updates = []
    for samples in parts:
        part, share = batch.select(samples), len(samples) / len(batch)
        more = (batch.left_out.samples * share, batch.left_out.tokens * share)
        weights = aggregation_weights(
            part.response_lengths,
            config.aggregation,
            max_response_tokens,
            more if config.denominator == "all" else (0.0, 0.0),
        )
        if config.updates == "filled":
            counted = len(samples) + (more[0] if config.denominator == "all" else 0.0)
            weights = weights * min(1.0, counted / config.samples_per_update)
        updates.append(Update(part, weights))
    return updates


def split_updates(batch: Batch, samples_per_update: int, seed: int, filled: bool = False) -> list[list[int]]:
    """Return the sample indices of each of the ceil(samples / samples_per_update) updates.

    Every sample is in exactly one update. The sizes of updates differ by at most one, or all but the last are `filled`.
    Either way each has its share of every kind: an update of one kind alone, or a tail left out, would bias the step.
    """
    random = Random(derive_seed(seed, "updates"))
    by_kind: dict[str, list[int]] = {}
    for sample, kind in enumerate(batch.kinds):
        by_kind.setdefault(kind, []).append(sample)
    for kind in sorted(by_kind):
        random.shuffle(by_kind[kind])
    dealt = [sample for kind in sorted(by_kind) for sample in by_kind[kind]]
    if filled:
        even = _evenly(by_kind)
        parts = [even[start : start + samples_per_update] for start in range(0, len(even), samples_per_update)]
    else:
        count = ceil(len(dealt) / samples_per_update)
        parts = [dealt[first::count] for first in range(count)]
    for part in parts:
        random.shuffle(part)
    return parts


def _evenly(by_kind: dict[str, list[int]]) -> list[int]:
    """Return all samples in an order in which every stretch has its share of each kind."""
    places = [
        ((position + 0.5) / len(samples), kind, sample)
        for kind, samples in by_kind.items()
        for position, sample in enumerate(samples)
    ]
    return [sample for _, _, sample in sorted(places)]
