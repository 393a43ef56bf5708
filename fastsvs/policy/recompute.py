"""Recomputation that leaves attention out: attention runs once, and each layer's output and log-sum-exps are kept.

A layer's backward pass computes the layer again from its input. Attention is the part of it that grows with the square
of the length, while what it keeps grows with the length: at 64k tokens it is most of the work and little of the memory.
Its queries, keys and values are not kept. The second pass makes them again and hands them to the backward pass in place
of those that it saved, so this works with any attention that differentiates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

Inputs = tuple[Tensor, Tensor, Tensor]
"""Query, key and value."""


class Kept:
    """One attention after its first pass. It keeps all that the backward pass needs except the inputs."""

    def __init__(self, attention: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: Inputs) -> None:
        """Run the attention on `inputs`."""
        self._inputs: list[Tensor] = []
        """Inputs of the second pass, while its backward pass runs."""
        self._gradients: list[Tensor] = []
        with torch.enable_grad(), saved_tensors_hooks(_Forget(inputs), _Recall(self._inputs)):
            anchor = torch.empty(0, requires_grad=True)  # what makes the rest differentiable
            self.output = attention(*_Source.apply(anchor, self._gradients, *inputs))

    def backward(self, inputs: Inputs, gradient: Tensor) -> list[Tensor]:
        """Return the gradients of `inputs`, given the output's. `inputs` are the same numbers as in the first pass."""
        self._inputs.extend(inputs)
        torch.autograd.backward(self.output, gradient)
        self._inputs.clear()
        return self._gradients


def keep(
    attention: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: Inputs, kept: dict[int, Kept], layer: int
) -> Tensor:
    """Return the output of a layer's attention. The first pass, without gradients, runs the attention and keeps it in
    `kept`; the second pass takes it from there. A layer that is not computed again has its only pass with gradients."""
    if not torch.is_grad_enabled():
        kept[layer] = Kept(attention, inputs)
        return kept[layer].output.detach()
    if layer not in kept:
        return attention(*inputs)
    return _Second.apply(kept.pop(layer), *inputs)


class _Source(torch.autograd.Function):
    """The source of the first pass's inputs in autograd's graph. It collects their gradients and keeps nothing else."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, gradients: list[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.gradients = gradients
        return tuple(x.view_as(x) for x in inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        ctx.gradients.extend(gradients)
        return (None,) * (2 + len(gradients))


class _Second(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kept: Kept, *inputs: Tensor) -> Tensor:
        ctx.kept = kept
        ctx.save_for_backward(*inputs)
        return kept.output.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        return None, *ctx.kept.backward(ctx.saved_tensors, gradient)


class _Forget:
    """Pack hook that saves the number of an input in place of the input."""

    def __init__(self, inputs: Inputs) -> None:
        self.places = {_place(x): number for number, x in enumerate(inputs)}

    def __call__(self, saved: Tensor) -> Tensor | int:
        return self.places.get(_place(saved), saved)


class _Recall:
    """Unpack hook that returns the second pass's input for the number that `_Forget` saved."""

    def __init__(self, inputs: list[Tensor]) -> None:
        self.inputs = inputs

    def __call__(self, saved: Tensor | int) -> Tensor:
        return self.inputs[saved] if isinstance(saved, int) else saved


def _place(x: Tensor) -> tuple[object, ...]:
    return x.data_ptr(), x.shape, x.stride(), x.dtype
