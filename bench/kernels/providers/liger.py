"""Liger-Kernel: fused linear cross entropy (Triton), scaled cross entropy with entropy, fused linear GRPO loss."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench.kernels.inputs import Inputs
from bench.kernels.providers.base import Outputs, Provider, Work, loss_of
from bench.kernels.suites import Operator


def providers(operator: Operator, gpu: bool) -> Iterator[Provider]:
    if operator == "logprob_entropy":
        return
    yield Provider(
        "Liger scaled CE",
        lambda: _scaled(operator),
        unequal="four products; CuTe kernels where they can be imported on sm_90, else a loop in PyTorch",
        logprobs_first=True,
    )
    if operator == "linear_policy_loss":
        yield Provider(
            "Liger GRPO loss",
            _grpo,
            unequal="no entropy; weight gradient in fp32 products",
        )
        if gpu:
            yield Provider(
                "Liger FLCE",
                _linear_cross_entropy,
                unequal="mean cross entropy only; logits rounded to bf16",
            )


def _scaled(operator: Operator) -> Work:
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import LigerFusedLinearScaledCrossEntropyFunction

    def work(inputs: Inputs) -> Outputs:
        nll, entropy = LigerFusedLinearScaledCrossEntropyFunction.apply(
            inputs.hidden, inputs.weight, inputs.targets, 1.0, -100, 1, True
        )
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
        rows = 1 if len(inputs.targets) < 2048 else len(inputs.targets) // 1024

        def by_row(values: torch.Tensor) -> torch.Tensor:
            return values.view(rows, -1, *values.shape[1:])

        advantages = by_row(inputs.advantages)[:, 0]  # one a sequence: it takes no token's own
        value, _metrics = loss(
            by_row(inputs.hidden),
            inputs.weight,
            by_row(inputs.targets),
            torch.ones_like(by_row(inputs.targets)),
            advantages,
            old_per_token_logps=by_row(inputs.old_logprobs),
        )
        return (value,)

    return work


def _linear_cross_entropy() -> Work:
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    return lambda inputs: (LigerFusedLinearCrossEntropyFunction.apply(inputs.hidden, inputs.weight, inputs.targets)[0],)
