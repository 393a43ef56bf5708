"""Metrics with their reduction: how the values of tokens become one number over rows, ranks and updates.

A policy loss reports values of single tokens. Each row keeps a part of them, parts are combined over the rows of all
ranks to the metric of an update, and a step's metric is made of those of its updates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import fsum, isnan, nan
from statistics import fmean
from typing import TypeVar

from torch import Tensor

from fastsvs.errors import UserError

T = TypeVar("T")


class Reduction(StrEnum):
    """The way in which many values of a metric become one."""

    MEAN = "mean"
    """Mean over the tokens of an update, each with the same weight, and over the updates of a step, each with the same
    weight."""
    SUM = "sum"
    """Sum over all tokens of a step."""
    MAXIMUM = "maximum"
    """Largest value of all tokens of a step; NaN where one of them is NaN."""
    MINIMUM = "minimum"
    """Smallest value of all tokens of a step; NaN where one of them is NaN."""


@dataclass(frozen=True, slots=True)
class TokenMetric:
    """A metric that a policy loss reports of its tokens, with another reduction than the mean."""

    values: Tensor
    """Value of each token, [tokens]."""
    reduction: Reduction = Reduction.MEAN


class Metric(float):
    """The value of a metric over all tokens of an update: a number that knows how it joins those of other updates."""

    reduction: Reduction

    def __new__(cls, value: float, reduction: Reduction = Reduction.MEAN) -> Metric:
        metric = super().__new__(cls, value)
        metric.reduction = reduction
        return metric


@dataclass(frozen=True, slots=True)
class PartialMetric:
    """A metric over some of an update's tokens: those of a row, or of a rank."""

    value: Tensor | float
    """Sum of the values for MEAN and SUM, else the largest or the smallest of them; a tensor is a scalar."""
    tokens: int
    """Number of tokens behind the value."""
    reduction: Reduction

    @classmethod
    def of(cls, metric: TokenMetric) -> PartialMetric:
        """Reduce the values of a row's tokens, of which there is at least one, where they are."""
        match metric.reduction:
            case Reduction.MEAN | Reduction.SUM:
                value = metric.values.sum()
            case Reduction.MAXIMUM:
                value = metric.values.max()
            case Reduction.MINIMUM:
                value = metric.values.min()
        return cls(value, len(metric.values), metric.reduction)

    def over_update(self) -> Metric:
        """Return the metric, given that this part holds all tokens of the update."""
        value = float(self.value)
        return Metric(value / self.tokens if self.reduction is Reduction.MEAN else value, self.reduction)


def token_metrics(metrics: Mapping[str, Tensor | TokenMetric], tokens: int) -> dict[str, TokenMetric]:
    """Return the metrics of a loss, detached; a tensor alone has the mean as its reduction. Raises UserError for values
    that are not `[tokens]`."""
    found = {}
    for name, metric in metrics.items():
        whole = metric if isinstance(metric, TokenMetric) else TokenMetric(metric)
        if whole.values.shape != (tokens,):
            raise UserError(
                f"the loss gave its metric {name!r} the shape {tuple(whole.values.shape)}; it must be [tokens] = "
                f"({tokens},)"
            )
        found[name] = TokenMetric(whole.values.detach(), whole.reduction)
    return found


def combine(parts: Sequence[Mapping[str, PartialMetric]]) -> dict[str, PartialMetric]:
    """Return every metric over the tokens of all parts, by name in order. The result does not depend on the order of
    the parts. Raises ValueError where two parts reduce a metric in different ways."""
    combined = {}
    for name in sorted({name for part in parts for name in part}):
        found = [part[name] for part in parts if name in part]
        ways = {part.reduction for part in found}
        if len(ways) > 1:
            raise ValueError(f"the metric {name!r} is reduced as {' and as '.join(sorted(ways))}")
        value = _reduced([float(part.value) for part in found], found[0].reduction)
        combined[name] = PartialMetric(value, sum(part.tokens for part in found), found[0].reduction)
    return combined


def over_step(updates: Sequence[Mapping[str, Metric]]) -> dict[str, float]:
    """Return every metric over a step's updates, some of which may lack it."""
    names = dict.fromkeys(name for update in updates for name in update)
    metrics = {}
    for name in names:
        found = [update[name] for update in updates if name in update]
        is_mean = found[0].reduction is Reduction.MEAN
        metrics[name] = fmean(found) if is_mean else _reduced(found, found[0].reduction)
    return metrics


def joined(*parts: Mapping[str, T]) -> dict[str, T]:
    """Return the metrics of all parts in one mapping. Raises UserError for a name that two parts give."""
    metrics: dict[str, T] = {}
    for part in parts:
        if taken := sorted(metrics.keys() & part.keys()):
            raise UserError(f"the metric {taken[0]!r} is reported twice: give your own another name")
        metrics |= part
    return metrics


def _reduced(values: Sequence[float], reduction: Reduction) -> float:
    """Return the sum of the values, or the largest or the smallest of them."""
    match reduction:
        case Reduction.MEAN | Reduction.SUM:
            return fsum(values)
        case Reduction.MAXIMUM | Reduction.MINIMUM:
            extreme = max if reduction is Reduction.MAXIMUM else min
            return nan if any(map(isnan, values)) else float(extreme(values))
