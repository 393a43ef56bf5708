"""Metrics of tokens: the same number however tokens are cut into rows, ranks and updates, and no name twice."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.algorithms import (
    Metric,
    PartialMetric,
    Reduction,
    TokenMetric,
    combine,
    joined,
    over_step,
    policy_loss,
    token_metrics,
)
from fastsvs.config import AlgorithmConfig
from fastsvs.errors import UserError

WHOLE = {
    Reduction.MEAN: torch.mean,
    Reduction.SUM: torch.sum,
    Reduction.MAXIMUM: torch.max,
    Reduction.MINIMUM: torch.min,
}
tokens = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30).map(lambda values: torch.tensor(values).double())


def reduce(rows, ways):
    """The metrics of rows that are spread over two ranks."""
    parts = [{way.value: PartialMetric.of(TokenMetric(row, way)) for way in ways} for row in rows]
    ranks = [combine(parts[::2]), combine(parts[1::2])]
    return {name: part.over_update() for name, part in combine(ranks).items()}


@given(st.lists(tokens, min_size=1, max_size=6))
def test_cuts_into_rows_and_ranks_do_not_show(rows) -> None:
    found = reduce(rows, Reduction)
    for way in Reduction:
        assert found[way] == pytest.approx(float(WHOLE[way](torch.cat(rows))), rel=1e-9, abs=1e-9)
        assert found[way].reduction is way


@given(st.lists(tokens, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_parts_does_not_show_in_a_bit(rows, random) -> None:
    parts = [{way.value: PartialMetric.of(TokenMetric(row, way)) for way in Reduction} for row in rows]
    expected = combine(parts)
    random.shuffle(parts)
    assert combine(parts) == expected


@pytest.mark.parametrize("way", [Reduction.MAXIMUM, Reduction.MINIMUM])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_extreme_value_hides_no_nan_wherever_it_is(way: Reduction, place: int) -> None:
    rows = [torch.tensor([float(n), float(n)]) for n in range(3)]
    rows[place][1] = math.nan
    assert math.isnan(reduce(rows, [way])[way])


def test_updates_of_a_step_are_joined_as_the_metric_says() -> None:
    updates = [{way: Metric(value, way) for way in Reduction} for value in (1.0, 4.0)]
    assert over_step([*updates, {}]) == {
        Reduction.MEAN: 2.5,
        Reduction.SUM: 5.0,
        Reduction.MAXIMUM: 4.0,
        Reduction.MINIMUM: 1.0,
    }


def test_one_metric_has_one_reduction() -> None:
    parts = [{"x": PartialMetric(1.0, 1, way)} for way in (Reduction.SUM, Reduction.MEAN)]
    with pytest.raises(ValueError, match="'x' is reduced as mean and as sum"):
        combine(parts)


def test_a_tensor_alone_is_a_mean_without_gradient() -> None:
    found = token_metrics({"x": torch.ones(3, requires_grad=True), "y_max": torch.zeros(3)}, 3)
    assert {metric.reduction for metric in found.values()} == {Reduction.MEAN}
    assert not found["x"].values.requires_grad


@pytest.mark.parametrize("values", [torch.tensor(1.0), torch.ones(2), torch.ones(3, 1)])
def test_values_that_are_not_of_the_tokens_are_refused(values: torch.Tensor) -> None:
    """A mean that a loss took itself would be divided by the number of tokens once more."""
    with pytest.raises(UserError, match=r"metric 'x' the shape .* \[tokens\] = \(3,\)"):
        token_metrics({"x": values}, 3)


def test_a_name_that_is_taken_is_refused(make_terms) -> None:
    with pytest.raises(UserError, match="'b' is reported twice"):
        joined({"a": 1, "b": 2}, {"c": 3}, {"b": 2})
    config = AlgorithmConfig(rollout_correction="tis", kl_coefficient=0.1)
    metrics = policy_loss(config)(make_terms(), config).metrics
    assert {"ratio", "clip_fraction_low", "correction_weight", "reference_kl"} <= metrics.keys()
