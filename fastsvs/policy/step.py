"""One pass of the pipeline over packed micro-batches, for log-probs only or for the gradient of a policy loss.

The objective is the sum over all samples and response tokens of token_weights[sample] * loss[token]. The weights hold
the whole normalisation, so the gradient does not depend on how the batch is cut into ranks, micro-batches and rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import fsum

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor, nn

from fastsvs.algorithms import Batch, CompleteLoss, PolicyLoss, TokenTerms, is_token_level, loss_settings
from fastsvs.config import AlgorithmConfig
from fastsvs.kernels import (
    PolicyLossSettings,
    TokenInputs,
    TokenLossFunction,
    linear_logprob_entropy,
    linear_mean_logprob,
    linear_policy_loss,
)
from fastsvs.kernels.token_loss import clamped_log_ratio
from fastsvs.policy.model import PolicyModel
from fastsvs.policy.row import Row

Reports = list[dict[str, Tensor]]
RowHead = Callable[[PolicyModel, Row, Tensor], tuple[Tensor, dict[str, Tensor]]]
"""Function of the last stage: (model, row, hidden states of its predictors) -> (scalar to differentiate, what to
report)."""

Evaluated = tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]
"""Tuple (objective with gradient, log-probs, entropy, metrics); all but the first are [response_tokens] without
gradient."""
LARGEST = "_max"
"""Ending of the names of metrics that are the largest value of all tokens, not their mean."""


@dataclass(frozen=True, slots=True)
class Objective:
    """The objective that one update minimises."""

    batch: Batch
    loss: PolicyLoss
    algorithm: AlgorithmConfig
    token_weights: Tensor
    """Weight of each sample's tokens in the objective, [samples]."""
    temperature: float
    vocabulary: int

    def __call__(self, model: PolicyModel, row: Row, hidden: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the row's part of the objective, and what to report of its tokens: the sums of loss, entropy,
        entropy/<kind> and the metrics, and the values that are LARGEST."""
        if not row.samples:
            return hidden.sum(), {}
        take = self._in_one_pass if is_token_level(self.loss) else self._by_way_of_logprobs
        objective, logprobs, entropy, metrics = take(model, row, hidden)
        per_token = {"entropy": entropy, **metrics}
        report = {"loss": objective.detach()} | self._entropy_by_kind(row, entropy)
        if "rollout_mismatch" in metrics:
            report[f"rollout_mismatch{LARGEST}"] = metrics["rollout_mismatch"].max()
            per_token["rollout_kl"] = self._rollout_kl(row, logprobs)
        return objective, report | {name: values.sum() for name, values in per_token.items()}

    def _in_one_pass(self, model: PolicyModel, row: Row, hidden: Tensor) -> Evaluated:
        """Evaluate a loss that looks at each token alone, together with its gradient. The head's gradient goes straight
        into Megatron's buffer, where there is one."""
        inputs = TokenInputs(
            advantages=self._pick(self.batch.advantages, row),
            weights=self._weights(row),
            old_logprobs=self._pick_if(self.batch.old_logprobs, row),
            rollout_logprobs=self._pick(self.batch.rollout_logprobs, row),
            reference_logprobs=self._pick_if(self.batch.reference_logprobs, row),
        )
        result = linear_policy_loss(
            hidden,
            model.head,
            row.targets,
            inputs,
            self._fused(row),
            temperature=self.temperature,
            vocab_size=self.vocabulary,
            group=model.tp_group,
            weight_grad=getattr(model.head, "main_grad", None),
        )
        return result.loss, result.logprobs, result.entropy, result.metrics

    def _fused(self, row: Row) -> PolicyLossSettings | TokenLossFunction:
        """Return the loss as the kernel takes it: settings that it knows, or a function of each token."""
        if isinstance(self.loss, CompleteLoss) and self.loss.built_in:
            return loss_settings(self.algorithm)

        def loss(logprobs: Tensor, entropy: Tensor, tokens: slice | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            result = self.loss(self._terms(row, logprobs, entropy, tokens), self.algorithm)
            return result.loss, result.metrics

        return loss

    def _by_way_of_logprobs(self, model: PolicyModel, row: Row, hidden: Tensor) -> Evaluated:
        """Evaluate a loss of whole sequences on differentiable log-probs."""
        logprobs, entropy = token_statistics(model, row, hidden, self.temperature, self.vocabulary)
        result = self.loss(self._terms(row, logprobs, entropy, slice(None)), self.algorithm)
        return (self._weights(row) * result.loss).sum(), logprobs.detach(), entropy.detach(), result.metrics

    def _rollout_kl(self, row: Row, logprobs: Tensor) -> Tensor:
        """Return the k3 estimate of KL(engine, policy before the update), [response_tokens]."""
        old = self._pick_if(self.batch.old_logprobs, row)
        log_ratio = clamped_log_ratio(logprobs if old is None else old, self._pick(self.batch.rollout_logprobs, row))
        return torch.expm1(log_ratio) - log_ratio

    def _terms(self, row: Row, logprobs: Tensor, entropy: Tensor, tokens: slice | Tensor) -> TokenTerms:
        """Return what the loss gets for `tokens`, some of the row's response tokens."""
        old = self._pick_if(self.batch.old_logprobs, row)
        reference = self._pick_if(self.batch.reference_logprobs, row)
        return TokenTerms(
            logprobs=logprobs,
            entropy=entropy,
            old_logprobs=logprobs.detach() if old is None else old[tokens],
            rollout_logprobs=self._pick(self.batch.rollout_logprobs, row)[tokens],
            reference_logprobs=None if reference is None else reference[tokens],
            advantages=self._pick(self.batch.advantages, row)[tokens],
            sequence=row.sequence[tokens],
            sequences=len(row.samples),
        )

    def _weights(self, row: Row) -> Tensor:
        """Return the weights of the row's response tokens in the objective, [response_tokens]."""
        return self.token_weights[row.samples].to(row.sequence.device)[row.sequence]

    def _pick(self, flat: Tensor, row: Row) -> Tensor:
        """Return the row's part of a tensor over all response tokens, on the row's device."""
        return flat[row.places].to(row.sequence.device)

    def _pick_if(self, flat: Tensor | None, row: Row) -> Tensor | None:
        return None if flat is None else self._pick(flat, row)

    def _entropy_by_kind(self, row: Row, entropy: Tensor) -> dict[str, Tensor]:
        per_sample = entropy.new_zeros(len(row.samples)).index_add(0, row.sequence, entropy)
        kinds = [self.batch.kinds[sample] for sample in row.samples]
        return {
            f"entropy/{kind}": per_sample[[i for i, k in enumerate(kinds) if k == kind]].sum() for kind in set(kinds)
        }


def token_statistics(
    model: PolicyModel, row: Row, hidden: Tensor, temperature: float, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Return log-probs and entropies in nats of the row's response tokens, [response_tokens] fp32 each."""
    return linear_logprob_entropy(
        hidden, model.head, row.targets, temperature=temperature, vocab_size=vocabulary, group=model.tp_group
    )


def mean_logprobs(
    model: PolicyModel, row: Row, hidden: Tensor, logprobs: Tensor, temperature: float, vocabulary: int
) -> Tensor:
    """Return the means of log p over the vocabulary, [response_tokens] fp32, given the log-probs of the tokens."""
    return linear_mean_logprob(
        hidden, model.head, row.targets, logprobs, temperature=temperature, vocab_size=vocabulary, group=model.tp_group
    )


def run_pipeline(model: nn.Module, rows: Iterator[Row], count: int, head: RowHead, *, forward_only: bool) -> Reports:
    """Run `count` rows through Megatron's schedule. Returns the reports in row order on the last stage, and nothing
    elsewhere."""

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
    """Return the policy's stage inside Megatron's wrapper."""
    stage = model if isinstance(model, PolicyModel) else model.module
    assert isinstance(stage, PolicyModel)
    return stage


def combine(reports: Sequence[Mapping[str, Tensor | float]]) -> dict[str, float]:
    """Return the sum of each metric over several rows or ranks, or the largest value of a LARGEST one."""
    names = sorted({name for report in reports for name in report})
    return {
        name: (max if name.endswith(LARGEST) else fsum)(float(report[name]) for report in reports if name in report)
        for name in names
    }


_NO_TOKEN_COUNT = torch.zeros((), dtype=torch.int)
