"""The experts of a layer as grouped products: one product for all experts of a rank instead of one for each.

Each expert keeps parameters of its own, under the names and in the shapes of Megatron's `SequentialMLP`. Their memory
is laid out at equal distances, so that a view of it is the stack that `torch.nn.functional.grouped_mm` takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from megatron.core.transformer.moe.experts import SequentialMLP
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fastsvs.elementwise import swiglu

ALIGNMENT = 16
"""Bytes that the rows of a matrix must be a multiple of on a GPU."""
CAPABILITY = (9, 0)
"""Lowest compute capability of a GPU for which torch has a kernel; on others it loops over the groups."""


def obstacle(widths: Sequence[int], dtype: torch.dtype, device: torch.device) -> str | None:
    """Return why experts with matrices of these widths are computed one after another, None where they need not be."""
    if not hasattr(F, "grouped_mm"):
        return f"torch {torch.__version__} has no grouped products"
    if device.type == "cpu":
        return None
    if dtype != torch.bfloat16:
        return "grouped products on a GPU need policy.dtype=bf16"
    if torch.cuda.get_device_capability(device) < CAPABILITY:
        return "grouped products need a GPU of compute capability 9.0"
    odd = [width for width in widths if width * dtype.itemsize % ALIGNMENT]
    return f"grouped products need widths that are multiples of 8, not {odd[0]}" if odd else None


class GroupedExperts(SequentialMLP):
    """The experts of one rank, of which all compute in two grouped products."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        experts = self.local_experts._modules
        for name in reversed(list(experts)):  # Megatron's buffer has the parameters from the last to the first
            experts[name] = experts.pop(name)

    def lay_out(self) -> None:
        """Bring the experts' parameters to equal distances in memory, where Megatron's buffer does not yet hold them.
        They keep their values."""
        for weights in self._weights():
            together = torch.stack([weight.data for weight in weights])
            for weight, place in zip(weights, together, strict=True):
                weight.data = place

    def forward(self, tokens: Tensor, tokens_per_expert: Tensor, probabilities: Tensor) -> tuple[Tensor, None]:
        """Return what the experts make of `tokens` [tokens, hidden], which lie in the order of their experts, weighted
        by `probabilities` [tokens] fp32. `tokens_per_expert` is [experts] int64, on the CPU."""
        counts = tokens_per_expert.tolist()
        gate_up, down = self._weights()
        inner = swiglu(grouped_linear(tokens, counts, gate_up))
        inner = (inner * probabilities.unsqueeze(-1)).to(tokens.dtype)
        return grouped_linear(inner, counts, down), None

    def _weights(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return the gate and up projections [2 * ffn, hidden], and the down projections [hidden, ffn]."""
        experts = [self.local_experts[number] for number in range(self.num_local_experts)]
        return [expert.linear_fc1.weight for expert in experts], [expert.linear_fc2.weight for expert in experts]


def grouped_linear(x: Tensor, counts: Sequence[int], weights: Sequence[Tensor]) -> Tensor:
    """Return [tokens, outputs], the products of `x` [tokens, inputs] with the transposes of `weights`, each [outputs,
    inputs]: the first `counts[0]` tokens with that of the first, and so on."""
    bounds = torch.tensor(list(accumulate(counts)), dtype=torch.int32).to(x.device, non_blocking=True)
    return _GroupedLinear.apply(x, counts, bounds, *weights)


def stacked(weights: Sequence[Tensor]) -> Tensor:
    """Return tensors of one shape as [weights, *shape]: a view where they lie at equal distances in one storage."""
    first = weights[0].detach()
    places = [weight.data_ptr() for weight in weights]
    distances = {after - before for before, after in pairwise(places)} or {first.nbytes}
    if len(distances) > 1 or len({weight.untyped_storage().data_ptr() for weight in weights}) > 1:
        return torch.stack([weight.detach() for weight in weights])
    return first.as_strided((len(weights), *first.shape), (distances.pop() // first.element_size(), *first.stride()))


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: Sequence[int], bounds: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, bounds, *weights)
        ctx.counts = counts
        if not len(x):
            return x.new_empty(0, len(weights[0]))
        return F.grouped_mm(x, stacked(weights).transpose(1, 2), offs=bounds)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, bounds, *weights = ctx.saved_tensors
        if not len(x):
            return torch.empty_like(x), None, None, *map(torch.zeros_like, weights)
        gradient = gradient.contiguous()
        into_x = F.grouped_mm(gradient, stacked(weights), offs=bounds) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[3]:
            return into_x, None, None, *(None for _ in weights)
        into_weights = F.grouped_mm(gradient.t(), x, offs=bounds)
        for expert, count in enumerate(ctx.counts):
            if not count:  # a sum over no tokens, which a kernel may leave unwritten
                into_weights[expert].zero_()
        return into_x, None, None, *into_weights.unbind()
