"""Tokens whose gradients may be left out of the products: those that add least, up to a share of what all add.

With g = dL/dlog p and h = dL/dentropy the gradient of a token's logits has the entries
(1[i = t] g - p_i (g + h (log p_i + entropy))) / T. Their sizes add up to at most

    2 (|g| (1 - p_t) + |h| entropy) / T:

of the log-prob's part exactly 2 |g| (1 - p_t) / T; of the entropy's part |h| E|S - entropy| / T, where the surprisal
S = -log p_i is at least 0 and has the entropy as its mean, so that E|S - entropy| = 2 E max(entropy - S, 0) is at most
twice the entropy. All of it is known after a token's statistics. A loss's other terms, such as the KL divergence to a
reference, are part of g. A threshold on single entries has no such bound: it does not know how many it leaves out. In
fp32 1 - p_t is off by up to 1e-7, and what is stated of the sums by as much of the sum of |g|.
"""

from __future__ import annotations

import torch
from torch import Tensor

METRIC = "left_out"
"""Name of the metric that is 1 for tokens whose gradient was left out."""
UNIT = 2.0**40
"""Number of units of the largest bound: sums of so many fit an int64 for any number of tokens in a piece, and are the
same whatever the order in which a GPU adds them up."""


def gradient_bounds(
    logprobs: Tensor, entropy: Tensor, inverse: Tensor | None, logprobs_grad: Tensor, entropy_grad: Tensor | None
) -> Tensor:
    """Return what the sizes of each token's gradient of logits add up to at most, [tokens]. All arguments are [tokens]:
    log-prob of the target, entropy, inverse temperature (None for 1), g and h (None for 0)."""
    bounds = 2 * logprobs_grad.abs() * -torch.expm1(logprobs.clamp(max=0.0))
    if entropy_grad is not None:
        bounds = bounds + 2 * entropy_grad.abs() * entropy.clamp(min=0.0)
    return bounds if inverse is None else bounds * inverse


def that_count(bounds: Tensor, tau: float) -> Tensor:
    """Return which tokens to keep, [tokens] bool. The others are those of the least `bounds` [tokens], which add up to
    at most a share `tau` of the sum of all. What is not finite is kept, and not part of the sum."""
    finite = bounds.isfinite()
    sizes = torch.where(finite, bounds, 0.0).double()
    units = (sizes / sizes.amax().clamp(min=torch.finfo(torch.float64).tiny) * UNIT).ceil().to(torch.int64)
    order = units.argsort(stable=True)
    sums = units[order].cumsum(0)
    allowed = (sums[-1].double() * tau).floor().to(torch.int64)
    return torch.empty_like(finite).index_copy_(0, order, sums > allowed) | ~finite
