"""Divides a step's batch into optimizer steps."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
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
    idle: int
    """Number of samples that count in the mean but are left out of the batch, as they add nothing to the gradient."""


def updates_of(batch: Batch, config: AlgorithmConfig, max_response_tokens: int, seed: int) -> list[Update]:
    """Return the step's updates, in order; none for an empty batch.

    A sample without an advantage adds nothing to the gradient, unless the loss has an entropy or a KL term: it counts
    in the mean and is not computed. With `denominator: all` the responses that were left out count in each update's
    mean by its share of the samples. With `updates: filled` the last update weighs as much as it is full.
    """
    lengths, every = batch.response_lengths, config.denominator == "all"
    moves = moving(batch) if not config.entropy_coefficient and not config.kl_coefficient else [True] * len(batch)
    updates = []
    for samples in split_updates(batch, config.samples_per_update, seed, filled=config.updates == "filled"):
        active = [sample for sample in samples if moves[sample]] or samples  # an update of nothing but zeros is one too
        share = len(samples) / len(batch) if every else 0.0
        counted = len(samples) + share * batch.left_out.samples
        tokens = float(lengths[samples].sum()) + share * batch.left_out.tokens
        part = batch.select(active)
        more = (counted - len(active), tokens - float(part.response_lengths.sum()))
        weights = aggregation_weights(part.response_lengths, config.aggregation, max_response_tokens, more)
        if config.updates == "filled":
            weights = weights * min(1.0, counted / config.samples_per_update)
        updates.append(Update(part, weights, idle=len(samples) - len(active)))
    return updates


def moving(batch: Batch) -> list[bool]:
    """Return for each sample whether one of its tokens has an advantage."""
    if not len(batch):
        return []
    parts = (batch.advantages != 0).split(batch.response_lengths.tolist())
    return [bool(part.any()) for part in parts]


def split_updates(batch: Batch, samples_per_update: int, seed: int, filled: bool = False) -> list[list[int]]:
    """Return the sample indices of each of the ceil(samples / samples_per_update) updates.

    Every sample is in exactly one update. The sizes of updates differ by at most one, or all but the last are `filled`.
    Either way each has its share of every kind: an update of one kind alone, or a tail left out, would bias the step.
    A group is in one update, unless the shares do not come out even: its prompt can then be computed once.
    """
    random = Random(derive_seed(seed, "updates"))
    by_kind: dict[str, dict[int, list[int]]] = {}
    for sample, (kind, group) in enumerate(zip(batch.kinds, batch.groups.tolist(), strict=True)):
        by_kind.setdefault(kind, {}).setdefault(group, []).append(sample)
    groups = {kind: list(by_kind[kind].values()) for kind in sorted(by_kind)}
    for of_kind in groups.values():
        random.shuffle(of_kind)
    if filled:
        even = _evenly({kind: list(chain.from_iterable(of_kind)) for kind, of_kind in groups.items()})
        parts = [even[start : start + samples_per_update] for start in range(0, len(even), samples_per_update)]
    else:
        parts = [[] for _ in range(ceil(len(batch) / samples_per_update))]
        dealt = 0
        for of_kind in groups.values():
            _deal(of_kind, parts, dealt)
            dealt += sum(map(len, of_kind))
    for part in parts:
        random.shuffle(part)
    return parts


def _deal(groups: list[list[int]], parts: list[list[int]], dealt: int) -> None:
    """Deal the samples of one kind to the parts, as many to each as if they went round one by one after `dealt` others.

    Groups go round whole, past parts that have no room for them. Those that find no part are cut to fill what is left.
    """
    count, samples = len(parts), sum(map(len, groups))
    room = [len(range((number - dealt) % count, samples, count)) for number in range(count)]
    rest: list[int] = []
    place = dealt
    for group in groups:
        turn = ((place + step) % count for step in range(count))
        taker = next((number for number in turn if room[number] >= len(group)), None)
        if taker is None:
            rest += group
            continue
        parts[taker] += group
        room[taker] -= len(group)
        place = taker + 1
    for part, left in zip(parts, room, strict=True):
        part += rest[:left]
        rest = rest[left:]


def _evenly(by_kind: dict[str, list[int]]) -> list[int]:
    """Return all samples in an order in which every stretch has its share of each kind."""
    places = [
        ((position + 0.5) / len(samples), kind, sample)
        for kind, samples in by_kind.items()
        for position, sample in enumerate(samples)
    ]
    return [sample for _, _, sample in sorted(places)]
