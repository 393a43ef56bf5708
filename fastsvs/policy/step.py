"""One pass of the pipeline over packed micro-batches: log-probs only, or the gradient of a policy loss.

The objective is the sum over all samples and response tokens of token_weights[sample] * loss[token]. The weights hold
the whole normalisation, so the gradient does not depend on how the batch is cut into ranks, micro-batches and rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor, nn

from fastsvs.algorithms.batch import Batch
from fastsvs.algorithms.terms import PolicyLoss, TokenTerms
from fastsvs.config import AlgorithmConfig
from fastsvs.kernels import linear_logprob_entropy
from fastsvs.policy.model import PolicyModel
from fastsvs.policy.row import Row

Reports = list[dict[str, Tensor]]
RowHead = Callable[[PolicyModel, Row, Tensor], tuple[Tensor, dict[str, Tensor]]]
"""(model, row, hidden states of its predictors) -> (scalar to differentiate, what to report); on the last stage."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What one update minimises."""

    batch: Batch
    loss: PolicyLoss
    algorithm: AlgorithmConfig
    token_weights: Tensor
    """[samples]"""
    temperature: float
    vocabulary: int

    def __call__(self, model: PolicyModel, row: Row, hidden: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The row's part of the objective, and sums over its tokens: loss, entropy, entropy/<kind>, the metrics."""
        if not row.samples:
            return hidden.sum(), {}
        logprobs, entropy = token_statistics(model, row, hidden, self.temperature, self.vocabulary)
        result = self.loss(self._terms(row, logprobs, entropy), self.algorithm)
        weights = self.token_weights[row.samples].to(hidden.device)[row.sequence]
        objective = (weights * result.loss).sum()
        per_token = {"entropy": entropy.detach(), **result.metrics}
        sums = {"loss": objective.detach(), **{name: values.sum() for name, values in per_token.items()}}
        return objective, sums | self._entropy_by_kind(row, entropy.detach())

    def _terms(self, row: Row, logprobs: Tensor, entropy: Tensor) -> TokenTerms:
        def pick(flat: Tensor) -> Tensor:
            return flat[row.places].to(logprobs.device)

        batch = self.batch
        return TokenTerms(
            logprobs=logprobs,
            entropy=entropy,
            old_logprobs=logprobs.detach() if batch.old_logprobs is None else pick(batch.old_logprobs),
            rollout_logprobs=pick(batch.rollout_logprobs),
            reference_logprobs=None if batch.reference_logprobs is None else pick(batch.reference_logprobs),
            advantages=pick(batch.advantages),
            sequence=row.sequence,
            sequences=len(row.samples),
        )

    def _entropy_by_kind(self, row: Row, entropy: Tensor) -> dict[str, Tensor]:
        per_sample = entropy.new_zeros(len(row.samples)).index_add(0, row.sequence, entropy)
        kinds = [self.batch.kinds[sample] for sample in row.samples]
        return {
            f"entropy/{kind}": per_sample[[i for i, k in enumerate(kinds) if k == kind]].sum() for kind in set(kinds)
        }


def token_statistics(
    model: PolicyModel, row: Row, hidden: Tensor, temperature: float, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """(log-probs, entropies) of the row's response tokens, [response_tokens] fp32 each."""
    return linear_logprob_entropy(
        hidden, model.head, row.targets, temperature=temperature, vocab_size=vocabulary, group=model.tp_group
    )


def run_pipeline(model: nn.Module, rows: Iterator[Row], count: int, head: RowHead, *, forward_only: bool) -> Reports:
    """Drive `count` rows through Megatron's schedule; the last stage's reports in row order, elsewhere nothing."""

    def forward_step(rows: Iterator[Row], model: nn.Module) -> tuple[Tensor, Callable]:
        row = next(rows)
        return model(row.tokens, row.sequences, row.predictors), partial(finish, model, row)

    def finish(model: nn.Module, row: Row, hidden: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        scalar, report = head(unwrap(model), row, hidden)
        return scalar, _NO_TOKEN_COUNT, report

    return get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=rows,
        model=[model],
        num_microbatches=count,
        seq_length=0,  # rows differ in length: stages tell each other the shapes
        micro_batch_size=1,
        forward_only=forward_only,
    )


def unwrap(model: nn.Module) -> PolicyModel:
    stage = model if isinstance(model, PolicyModel) else model.module
    assert isinstance(stage, PolicyModel)
    return stage


def sum_reports(reports: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    names = sorted({name for report in reports for name in report})
    return {name: sum(float(report[name]) for report in reports if name in report) for name in names}


_NO_TOKEN_COUNT = torch.zeros((), dtype=torch.int)
