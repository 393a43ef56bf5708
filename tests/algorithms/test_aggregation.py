from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.algorithms import TokenTerms, aggregation_weights, policy_loss
from fastsvs.config import AlgorithmConfig

MODES = ["token_mean", "sequence_mean", "dr_grpo"]


def slow_objective(losses: list[list[float]], mode: str, limit: int) -> float:
    match mode:
        case "token_mean":
            return sum(map(sum, losses)) / sum(map(len, losses))
        case "sequence_mean":
            return sum(sum(own) / len(own) for own in losses) / len(losses)
        case _:
            return sum(sum(own) / limit for own in losses) / len(losses)


@given(st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=9), min_size=1, max_size=12), st.sampled_from(MODES))
def test_weighted_sum_is_the_named_mean(losses, mode):
    lengths = torch.tensor([len(own) for own in losses])
    weights = aggregation_weights(lengths, mode, max_response_tokens=9).double()
    assert weights.shape == (len(losses),)
    total = sum(weight * sum(own) for weight, own in zip(weights.tolist(), losses, strict=True))
    assert total == pytest.approx(slow_objective(losses, mode, 9), rel=1e-6, abs=1e-6)


def part(terms: TokenTerms, chosen: Sequence[int]) -> tuple[TokenTerms, torch.Tensor]:
    """The terms of some sequences, in that order, and where their tokens stood."""
    index = torch.cat([(terms.sequence == one).nonzero()[:, 0] for one in chosen])
    lengths = torch.bincount(terms.sequence)[list(chosen)]
    fields = {name: getattr(terms, name)[index] for name in ("entropy", "old_logprobs", "rollout_logprobs")}
    fields |= {name: getattr(terms, name)[index] for name in ("logprobs", "reference_logprobs", "advantages")}
    sequence = torch.arange(len(chosen)).repeat_interleave(lengths)
    return replace(terms, sequence=sequence, sequences=len(chosen), **fields), index


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loss", ["ppo", "cispo", "gspo", "sapo"])
@pytest.mark.parametrize("split", [[[5, 0, 1, 2, 3, 4]], [[0], [1, 2, 3], [4, 5]], [[3, 1], [5], [0, 4, 2]]])
def test_gradient_does_not_depend_on_the_micro_batches(make_terms, mode, loss, split):
    """The SvS code averages within micro-batches first, so that short ones weigh more."""
    lengths = (9, 1, 3, 14, 2, 6)
    config = AlgorithmConfig(loss=loss, rollout_correction="tis", kl_coefficient=0.1, entropy_coefficient=0.01)
    terms, objective = make_terms(lengths), policy_loss(config)
    weights = aggregation_weights(torch.tensor(lengths), mode, 16).double()
    whole = (weights[terms.sequence] * objective(terms, config).loss).sum()
    (expected,) = torch.autograd.grad(whole, terms.logprobs, retain_graph=True)
    gradient = torch.zeros_like(expected)
    total = 0.0
    for chosen in split:
        micro, _ = part(terms, chosen)
        value = (weights[list(chosen)][micro.sequence] * objective(micro, config).loss).sum()
        gradient += torch.autograd.grad(value, terms.logprobs, retain_graph=True)[0]
        total += value.item()
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)
    assert total == pytest.approx(whole.item(), rel=1e-12)


def test_no_samples_give_no_weights():
    for mode in MODES:
        assert aggregation_weights(torch.tensor([], dtype=torch.int64), mode, 8).shape == (0,)
