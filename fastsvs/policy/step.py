"""One pass of the pipeline over packed micro-batches, for log-probs only or for the gradient of a policy loss.

The objective is the sum over all samples and response tokens of token_weights[sample] * loss[token]. The weights hold
the whole normalisation, so the gradient does not depend on how the batch is cut into ranks, micro-batches and rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from megatron.core import parallel_state as mpu
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor, nn

from fastsvs.algorithms import (
    Batch,
    CompleteLoss,
    PartialMetric,
    PolicyLoss,
    Reduction,
    TokenMetric,
    TokenTerms,
    is_token_level,
    joined,
    loss_settings,
    token_metrics,
)
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
from fastsvs.policy.row import ResponseTokens, Row
from fastsvs.policy.watch import TokenWatch

Report = dict[str, PartialMetric]
"""Metrics over the tokens of one row, by name."""
RowHead = Callable[[PolicyModel, Row, Tensor], tuple[Tensor, Report]]
"""Function of the last stage: (model, row, hidden states of its predictors) -> (scalar to differentiate, what to
report)."""

Evaluated = tuple[Tensor, Tensor, Tensor, dict[str, TokenMetric]]
"""Tuple (objective with gradient, log-probs, entropy, metrics); all but the first are [response_tokens] without
gradient."""


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
    watch: TokenWatch | None = None
    """Place for what is found for the tokens of watched samples; None keeps nothing."""

    def __call__(self, model: PolicyModel, row: Row, hidden: Tensor) -> tuple[Tensor, Report]:
        """Return the row's part of the objective, and what to report of its tokens: loss, entropy, entropy/<kind>, the
        difference to the engine and the loss's metrics. Raises UserError for a metric of a name that is taken."""
        if is_token_level(self.loss):
            tokens, take, reports = row.own, self._in_one_pass, True
        else:  # by all ranks of a row alike
            tokens, take, reports = row.whole, self._by_way_of_logprobs, mpu.get_context_parallel_rank() == 0
        if not len(tokens):
            return hidden.sum(), {}
        objective, logprobs, entropy, metrics = take(model, row, hidden)
        if not reports:
            return objective, {}
        if self.watch is not None and speaks_for_its_row():
            self.watch.note(self.batch, row, tokens, logprobs, entropy)
        own = {"entropy": TokenMetric(entropy)}
        if mismatch := metrics.get("rollout_mismatch"):
            own["rollout_mismatch_max"] = TokenMetric(mismatch.values, Reduction.MAXIMUM)
            own["rollout_kl"] = TokenMetric(self._rollout_kl(tokens, logprobs))
        report = {name: PartialMetric.of(metric) for name, metric in joined(own, metrics).items()}
        loss = PartialMetric(objective.detach(), len(entropy), Reduction.SUM)
        return objective, joined({"loss": loss}, self._entropy_by_kind(row, tokens, entropy), report)

    def _in_one_pass(self, model: PolicyModel, row: Row, hidden: Tensor) -> Evaluated:
        """Evaluate a loss that looks at each token alone, together with its gradient. The head's gradient goes straight
        into Megatron's buffer, where there is one."""
        inputs = TokenInputs(
            advantages=self._pick(self.batch.advantages, row.own),
            weights=self._weights(row, row.own),
            old_logprobs=self._pick_if(self.batch.old_logprobs, row.own),
            rollout_logprobs=self._pick(self.batch.rollout_logprobs, row.own),
            reference_logprobs=self._pick_if(self.batch.reference_logprobs, row.own),
        )
        reductions: dict[str, Reduction] = {}
        result = linear_policy_loss(
            hidden,
            model.head,
            row.targets,
            inputs,
            self._fused(row, reductions),
            temperature=self.temperature,
            vocab_size=self.vocabulary,
            group=model.tp_group,
            weight_grad=getattr(model.head, "main_grad", None),
        )
        metrics = {
            name: TokenMetric(values, reductions.get(name, Reduction.MEAN)) for name, values in result.metrics.items()
        }
        return result.loss, result.logprobs, result.entropy, metrics

    def _fused(self, row: Row, reductions: dict[str, Reduction]) -> PolicyLossSettings | TokenLossFunction:
        """Return the loss as the kernel takes it: settings that it knows, or a function of each token. The function
        notes in `reductions` those of its metrics, of which the kernel takes the values alone."""
        if isinstance(self.loss, CompleteLoss) and self.loss.built_in:
            return loss_settings(self.algorithm)

        def loss(logprobs: Tensor, entropy: Tensor, tokens: slice | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            result = self.loss(self._terms(row, row.own, logprobs, entropy, tokens), self.algorithm)
            metrics = token_metrics(result.metrics, len(logprobs))
            reductions.update({name: metric.reduction for name, metric in metrics.items()})
            return result.loss, {name: metric.values for name, metric in metrics.items()}

        return loss

    def _by_way_of_logprobs(self, model: PolicyModel, row: Row, hidden: Tensor) -> Evaluated:
        """Evaluate a loss of whole sequences on differentiable log-probs."""
        statistics = token_statistics(model, row, hidden, self.temperature, self.vocabulary)
        logprobs, entropy = row.gather(torch.stack(statistics, dim=1)).unbind(1)
        result = self.loss(self._terms(row, row.whole, logprobs, entropy, slice(None)), self.algorithm)
        objective = (self._weights(row, row.whole) * result.loss).sum()
        return objective, logprobs.detach(), entropy.detach(), token_metrics(result.metrics, len(logprobs))

    def _rollout_kl(self, tokens: ResponseTokens, logprobs: Tensor) -> Tensor:
        """Return the k3 estimate of KL(engine, policy before the update), [response_tokens]. Where the old log-probs
        are the engine's own, the policy is that before this very update."""
        engines = self.algorithm.old_logprobs == "engine"
        old = None if engines else self._pick_if(self.batch.old_logprobs, tokens)
        log_ratio = clamped_log_ratio(logprobs if old is None else old, self._pick(self.batch.rollout_logprobs, tokens))
        return torch.expm1(log_ratio) - log_ratio

    def _terms(
        self, row: Row, tokens: ResponseTokens, logprobs: Tensor, entropy: Tensor, chosen: slice | Tensor
    ) -> TokenTerms:
        """Return what the loss gets for the `chosen` ones of some of the row's response tokens."""
        old = self._pick_if(self.batch.old_logprobs, tokens)
        reference = self._pick_if(self.batch.reference_logprobs, tokens)
        return TokenTerms(
            logprobs=logprobs,
            entropy=entropy,
            old_logprobs=logprobs.detach() if old is None else old[chosen],
            rollout_logprobs=self._pick(self.batch.rollout_logprobs, tokens)[chosen],
            reference_logprobs=None if reference is None else reference[chosen],
            advantages=self._pick(self.batch.advantages, tokens)[chosen],
            sequence=tokens.sequence[chosen],
            sequences=len(row.samples),
        )

    def _weights(self, row: Row, tokens: ResponseTokens) -> Tensor:
        """Return the weights of response tokens of the row in the objective, [response_tokens]."""
        return self.token_weights[row.samples].to(tokens.sequence.device)[tokens.sequence]

    def _pick(self, flat: Tensor, tokens: ResponseTokens) -> Tensor:
        """Return the part of these tokens of a tensor over all response tokens, on the row's device."""
        return flat[tokens.places].to(tokens.sequence.device)

    def _pick_if(self, flat: Tensor | None, tokens: ResponseTokens) -> Tensor | None:
        return None if flat is None else self._pick(flat, tokens)

    def _entropy_by_kind(self, row: Row, tokens: ResponseTokens, entropy: Tensor) -> Report:
        per_sample = entropy.new_zeros(len(row.samples)).index_add(0, tokens.sequence, entropy)
        places: dict[str, list[int]] = {}
        for place, sample in enumerate(row.samples):
            places.setdefault(self.batch.kinds[sample], []).append(place)
        return {
            f"entropy/{kind}": PartialMetric(
                per_sample[chosen].sum(),
                sum(tokens.counts[place] for place in chosen),
                Reduction.MEAN,
            )
            for kind, chosen in places.items()
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


def run_pipeline(
    model: nn.Module, rows: Iterator[Row], count: int, head: RowHead, *, forward_only: bool
) -> list[Report]:
    """Run `count` rows through Megatron's schedule. Returns the reports in row order on the last stage, and nothing
    elsewhere."""

    def forward_step(rows: Iterator[Row], model: nn.Module) -> tuple[Tensor, Callable]:
        row = next(rows)
        return model(row.tokens, row.sequences, row.predictors), partial(finish, model, row)

    def finish(model: nn.Module, row: Row, hidden: Tensor) -> tuple[Tensor, Tensor, Report]:
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


def speaks_for_its_row() -> bool:
    """Check whether this rank reports its tokens. Every tensor-parallel rank of the last stage has the same results."""
    return mpu.is_pipeline_last_stage() and mpu.get_tensor_model_parallel_rank() == 0


def unwrap(model: nn.Module) -> PolicyModel:
    """Return the policy's stage inside Megatron's wrapper."""
    stage = model if isinstance(model, PolicyModel) else model.module
    assert isinstance(stage, PolicyModel)
    return stage


_NO_TOKEN_COUNT = torch.zeros((), dtype=torch.int)
