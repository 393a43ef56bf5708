"""The output layer of a language model, as the operators compute it: a tile of logits at a time."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .dispatch import new_tile, write_product
from .invariant import is_batch_invariant, product
from .rows_torch import accumulation_dtype


@dataclass(frozen=True, slots=True)
class Head:
    """An output layer with more than a weight: logits are c tanh((hidden @ weight.T + bias) / c), c the `softcap`."""

    weight: Tensor
    """Weight [vocab_shard, hidden]."""
    bias: Tensor | None = None
    """Bias [vocab_shard] of the weight's dtype, or None for 0."""
    softcap: float | None = None
    """Bound of the logits' size, before the temperature (Gemma 2, arXiv 2408.00118, section 2); None for no bound."""

    def logits(self, x: Tensor, columns: slice) -> Tensor:
        """Return the logits of `x` [rows, hidden] in these columns, in the accumulation dtype."""
        logits = new_tile(len(x), columns.stop - columns.start, x, accumulation_dtype(x))
        if is_batch_invariant() and not x.is_cuda:
            logits.copy_(product(x.to(logits.dtype), self.weight[columns].to(logits.dtype)))
        else:
            write_product(x, self.weight[columns].t(), logits)
        if self.bias is not None:
            logits += self.bias[columns]
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits

    def through_softcap(self, gradient: Tensor, logits: Tensor) -> None:
        """Turn the gradient of `logits` into that of the sums under the softcap, in place. `logits` are lost."""
        if self.softcap is not None:
            # An entry of -inf was taken out by a truncation: its gradient is 0, and its slope must not be -inf.
            gradient.mul_(logits.div_(self.softcap).square_().neg_().add_(1.0).clamp_(min=0.0))


def as_head(weight: Tensor | Head) -> Head:
    """Return the output layer of this weight, or the one that is given."""
    return weight if isinstance(weight, Head) else Head(weight)
