"""Log-probability, entropy and their gradient in float64, by their formulas."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsvs.kernels import IGNORE_INDEX


def log_softmax(logits: Tensor, temperature: float | Tensor, vocab_size: int | None) -> Tensor:
    """[tokens, vocab] in float64; -inf for padding."""
    y = logits.detach().double() / torch.as_tensor(temperature, device=logits.device).double().reshape(-1, 1)
    y[:, y.shape[1] if vocab_size is None else vocab_size :] = -torch.inf
    return y.log_softmax(-1)


def values(
    logits: Tensor, targets: Tensor, temperature: float | Tensor = 1.0, vocab_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """log p(target) and entropy, [tokens] each; 0 for ignored rows."""
    logp = log_softmax(logits, temperature, vocab_size)
    chosen = logp.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    entropy = -torch.where(logp > -torch.inf, logp.exp() * logp, 0.0).sum(-1)
    ignored = targets == IGNORE_INDEX
    return chosen.masked_fill(ignored, 0.0), entropy.masked_fill(ignored, 0.0)


def logits_gradient(
    logits: Tensor,
    targets: Tensor,
    logprobs_grad: Tensor,
    entropy_grad: Tensor,
    temperature: float | Tensor = 1.0,
    vocab_size: int | None = None,
) -> Tensor:
    """dL/dz_i = (g (1[i = t] - p_i) - h p_i (log p_i + H)) / T, for g = dL/dlogp and h = dL/dH."""
    logp = log_softmax(logits, temperature, vocab_size)
    entropy = -torch.where(logp > -torch.inf, logp.exp() * logp, 0.0).sum(-1, keepdim=True)
    chosen = torch.zeros_like(logp).scatter_(1, targets.clamp(min=0)[:, None], 1.0)
    surprise = torch.where(logp > -torch.inf, logp + entropy, 0.0)
    g, h = logprobs_grad.double()[:, None], entropy_grad.double()[:, None]
    gradient = g * (chosen - logp.exp()) - h * logp.exp() * surprise
    gradient = gradient / torch.as_tensor(temperature, device=logits.device).double().reshape(-1, 1)
    return gradient.masked_fill((targets == IGNORE_INDEX)[:, None], 0.0)
