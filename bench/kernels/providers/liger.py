"""Liger-Kernel: scaled cross entropy with entropy, fused linear GRPO loss, fused linear cross entropy (Triton)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.kernels.inputs import Inputs
from bench.kernels.providers.base import Outputs, Provider, Work, loss_of
from bench.kernels.suites import Operator


def providers(operator: Operator, gpu: bool) -> Iterator[Provider]:
    if operator == "logprob_entropy":
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
        rows = max(1, len(inputs.targets) // 1024)  # sequences of about 1,024 tokens

        def by_row(values: Tensor) -> Tensor:
            return values.view(rows, -1, *values.shape[1:])

        value, _metrics = loss(
            by_row(inputs.hidden),
            inputs.weight,
            by_row(inputs.targets),
            torch.ones_like(by_row(inputs.targets)),
            by_row(inputs.advantages)[:, 0],
            old_per_token_logps=by_row(inputs.old_logprobs),
        )
        return (value,)

    return work


def _linear_cross_entropy() -> Work:
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    return lambda inputs: (LigerFusedLinearCrossEntropyFunction.apply(inputs.hidden, inputs.weight, inputs.targets)[0],)
