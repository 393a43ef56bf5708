"""One small case of every kernel, for a checker that slows a GPU down; the results are only looked at for NaN.

python -m bench.kernels.small
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.kernels.ours import kernels

TOKENS, WIDTH, VOCABULARY = 70, 64, 5003
"""Sizes that are no multiples of a block."""


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name, values in run(device):
        if not finite(values):
            raise SystemExit(f"{name}: a result is not finite")
        print(name)


def finite(values: list[Tensor]) -> bool:
    return all(bool(value.isfinite().all()) for value in values)


def run(device: torch.device) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield the name of each work, and its results and gradients."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    hidden = torch.randn(TOKENS, WIDTH, device=device).to(dtype).requires_grad_()
    weight = (torch.randn(VOCABULARY, WIDTH, device=device) / 8).to(dtype).requires_grad_()
    targets = torch.randint(VOCABULARY, (TOKENS,), device=device)
    targets[::9] = kernels.IGNORE_INDEX
    temperature = torch.linspace(0.5, 2, TOKENS, device=device)
    for keep in (True, False):
        for at in (1.0, temperature):
            outputs = kernels.linear_logprob_entropy(hidden, weight, targets, temperature=at, keep_logits=keep)
            yield f"linear_logprob_entropy, keep_logits={keep}", differentiated(outputs, hidden, weight)
    near = [torch.randn(TOKENS, device=device) - 8 for _ in range(3)]
    terms = kernels.TokenInputs(near[0], torch.full_like(near[0], 1 / TOKENS), *near)
    for loss in ("ppo", "cispo", "sapo"):
        for exact in (True, False):
            settings = kernels.PolicyLossSettings(
                loss, kl_coefficient=0.1, entropy_coefficient=0.01, rollout_correction="tis"
            )
            result = kernels.linear_policy_loss(hidden, weight, targets, terms, settings, exact=exact, tau=0.1)
            yield f"linear_policy_loss, {loss}, exact={exact}", differentiated((2 * result.loss,), hidden, weight)
    for logits_dtype in (torch.float32, dtype):
        for inplace in (False, True):
            logits = torch.randn(TOKENS, VOCABULARY, device=device).to(logits_dtype).requires_grad_()
            outputs = kernels.logprob_entropy(logits, targets, inplace_backward=inplace)
            yield f"logprob_entropy, {logits_dtype}", differentiated(outputs, logits)


def differentiated(outputs: tuple[Tensor, ...], *leaves: Tensor) -> list[Tensor]:
    return [*(x.detach() for x in outputs), *torch.autograd.grad([x.sum() for x in outputs], leaves)]


if __name__ == "__main__":
    main()
