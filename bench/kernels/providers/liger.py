"""Provider: Liger-Kernel's scaled cross entropy with entropy, GRPO losses and fused linear cross entropy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.kernels.inputs import Inputs
from bench.kernels.providers.base import Outputs, Provider, Work, loss_of
from bench.kernels.suites import Operator


def providers(operator: Operator, gpu: bool) -> Iterator[Provider]:
    if operator == "logprob_entropy":
        if gpu:
            note = "the whole GRPO loss, of all tokens but the last of a sequence; no entropy; one advantage a sequence"
            yield Provider("Liger GRPO loss", _grpo_from_logits, unequal=note)
        return
    note = "four products; entropy rounded to bf16"
    yield Provider("Liger scaled CE", lambda: _scaled(operator), unequal=note, complete=True)
    if gpu:  # where the CuTe kernels of sm_90 cannot be imported, it does not fall back to this by itself
        note += "; its loop in PyTorch for GPUs other than sm_90"
        yield Provider("Liger scaled CE, loop", lambda: _loop(operator), unequal=note, complete=True)
    if operator == "linear_policy_loss":
        note = "no entropy; one advantage a sequence; fp32 products for dX and dW"
        yield Provider("Liger GRPO loss", _grpo, unequal=note)
        if gpu:
            note = "mean cross entropy only; logits rounded to bf16"
            yield Provider("Liger FLCE", _linear_cross_entropy, unequal=note)


def _scaled(operator: Operator) -> Work:
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import LigerFusedLinearScaledCrossEntropyFunction as Scaled

    return _work(operator, lambda x, w, ids: Scaled.apply(x, w, ids, 1.0, -100, 1, True))


def _loop(operator: Operator) -> Work:
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import _FusedLinearPPOFallbackFunction as Loop

    return _work(operator, lambda x, w, ids: Loop.apply(x, w, ids, 1.0, -100, True))


def _work(operator: Operator, function: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Work:
    def work(inputs: Inputs) -> Outputs:
        nll, entropy = function(inputs.hidden, inputs.weight, inputs.targets)
        return (loss_of(-nll, entropy, inputs),) if operator == "linear_policy_loss" else (-nll, entropy)

    return work


def _grpo() -> Work:
    from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOLoss

    loss = LigerFusedLinearGRPOLoss(
        beta=0.0,
        use_ref_model=False,
        epsilon_low=0.2,
        epsilon_high=0.28,
        loss_type="dapo",
        compiled=torch.cuda.is_available(),
    )

    def work(inputs: Inputs) -> Outputs:
        targets = _sequences(inputs.targets)
        value, _metrics = loss(
            _sequences(inputs.hidden),
            inputs.weight,
            targets,
            torch.ones_like(targets),
            _sequences(inputs.advantages)[:, 0],
            old_per_token_logps=_sequences(inputs.old_logprobs),
        )
        return (value,)

    return work


def _grpo_from_logits() -> Work:
    from liger_kernel.ops.grpo_loss import GrpoLossFunction

    def work(inputs: Inputs) -> Outputs:
        assert inputs.logits is not None
        targets, old = (_sequences(of)[:, :-1].contiguous() for of in (inputs.targets, inputs.old_logprobs))
        advantages = _sequences(inputs.advantages)[:, 0].contiguous()
        logits = _sequences(inputs.logits)
        value, *_ = GrpoLossFunction.apply(
            logits, old, None, targets, advantages, None, 1.0, 0.0, 0.2, 0.28, False, "dapo"
        )
        return (value,)

    return work


def _sequences(values: Tensor) -> Tensor:
    """Return values [tokens, ...] as [sequences, about 1,024 tokens, ...]."""
    return values.view(max(1, len(values) // 1024), -1, *values.shape[1:])


def _linear_cross_entropy() -> Work:
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    return lambda inputs: (LigerFusedLinearCrossEntropyFunction.apply(inputs.hidden, inputs.weight, inputs.targets)[0],)
