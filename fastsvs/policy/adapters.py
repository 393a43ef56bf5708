"""Adapters of low rank on a stage's linear layers, and weights merged with them; `policy.learned` has the formula.

A layer's adapters are one product of two matrices: A of all its projections below one another, and their B's, each in
its own columns and in the rows that Megatron's fused weight has for it. What tensor-parallel ranks exchange is the
product with A, [tokens, rank] of each projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from torch import Tensor, nn
from torch.nn import functional as F

from fastsvs.architecture import Architecture
from fastsvs.policy.degrees import here, holds
from fastsvs.policy.learned import adapted_sources, merge_adapter, target_of
from fastsvs.policy.mapping import Entry, entries, merge, split


class Adapters(nn.Module):
    """The adapters of one linear layer, this rank's parts of them."""

    def __init__(self, entry: Entry, architecture: Architecture, linear: Any) -> None:
        """Make room for the adapters of `linear`, Megatron's layer with the parameter `entry`."""
        super().__init__()
        assert architecture.lora is not None
        self.active = True
        """False where the layer is to compute as if it had no adapters."""
        self._entry, self._architecture, self._lora = entry, architecture, architecture.lora
        self._by_rows = entry.cut == 0
        self._sequence, self._group = linear.config.sequence_parallel, linear.tp_group
        self.lora_A, self.lora_B = nn.ParameterDict(), nn.ParameterDict()
        self._rows: dict[str, int] = {}
        """Rows of each projection's part of the weight, in the order in which they are merged."""
        adapted = adapted_sources(entry, self._lora)
        for source, part in zip(entry.sources, split(entry, linear.weight.detach(), architecture), strict=True):
            target, (rows, columns) = target_of(source), part.shape
            self._rows[target] = rows
            if source in adapted:
                # With sequence parallelism A sees a part of the tokens before they are gathered, or B after they were
                # scattered: Megatron then sums its gradient over the ranks.
                down, up = part.new_empty(self._lora.rank, columns), part.new_empty(rows, self._lora.rank)
                self.lora_A[target] = _parameter(down, self._sequence and self._by_rows)
                self.lora_B[target] = _parameter(up, self._sequence and not self._by_rows)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the layer's output for its input `x` [tokens, 1, inputs], given `y` [tokens, 1, outputs], which it is
        without adapters."""
        if not self.active:
            return y
        down, up = self._matrices()
        low = self._exchange(torch.matmul(x, down.t()))
        return torch.addmm(y.flatten(0, 1), low.flatten(0, 1), up.t(), alpha=self._lora.scale).view_as(y)

    def merged(self, weight: Tensor) -> Tensor:
        """Return the layer's weight merged with the adapters."""
        down, up = (matrix.detach() for matrix in self._matrices())
        return merge_adapter(weight.detach(), down, up, self._lora)

    def _matrices(self) -> tuple[Tensor, Tensor]:
        """Return A [projections * rank, inputs] and B [outputs, projections * rank] of the layer."""
        rank, width = self._lora.rank, self._lora.rank * len(self.lora_A)
        blocks, left = [], 0
        for target, rows in self._rows.items():
            if target in self.lora_B:
                blocks.append(F.pad(self.lora_B[target], (left, width - rank - left)))
                left += rank
            else:
                blocks.append(next(iter(self.lora_B.values())).new_zeros(rows, width))
        return torch.cat(list(self.lora_A.values())), merge(self._entry, blocks, self._architecture)

    def _exchange(self, low: Tensor) -> Tensor:
        """Return the product with A where B needs it: of the whole sequence for rows of B, and summed over the columns
        of A for whole B."""
        if self._by_rows and self._sequence:
            return gather_from_sequence_parallel_region(low, group=self._group)
        if self._by_rows:
            return copy_to_tensor_model_parallel_region(low, group=self._group)
        if self._sequence:
            return reduce_scatter_to_sequence_parallel_region(low, group=self._group)
        return reduce_from_tensor_model_parallel_region(low, group=self._group)


class MergedWeights(Mapping[str, Tensor]):
    """The weights of a stage by parameter, as an engine gets them: each is merged with its adapters, if it has any,
    when it is asked for, so that no second copy of them all is kept. Those without adapters are the parameters."""

    def __init__(self, stage: nn.Module) -> None:
        modules = [(name, module) for name, module in stage.named_modules() if isinstance(module, Adapters)]
        self._adapters = {name.removesuffix("adapters") + "weight": module for name, module in modules}
        own = {id(parameter) for module in self._adapters.values() for parameter in module.parameters()}
        self._parameters = {name: value for name, value in stage.named_parameters() if id(value) not in own}

    def __getitem__(self, name: str) -> Tensor:
        weight, adapters = self._parameters[name], self._adapters.get(name)
        return weight if adapters is None else adapters.merged(weight)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


def attach_adapters(stage: nn.Module, architecture: Architecture) -> None:
    """Freeze this rank's stage and add the adapters that `architecture` asks for, if it does."""
    if architecture.lora is None:
        return
    stage.requires_grad_(False)
    for entry in entries(architecture, here()):
        if holds(entry) and adapted_sources(entry, architecture.lora):
            linear = stage.get_submodule(entry.name.removesuffix(".weight"))
            linear.adapters = Adapters(entry, architecture, linear)
            linear.register_forward_hook(_adapt)


@contextmanager
def inactive(stage: nn.Module) -> Iterator[None]:
    """Have this rank's stage compute without its adapters."""
    found = [module for module in stage.modules() if isinstance(module, Adapters)]
    for adapters in found:
        adapters.active = False
    try:
        yield
    finally:
        for adapters in found:
            adapters.active = True


def _adapt(linear: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
    """Add to what a Megatron layer returns, its output and a bias that it leaves to others."""
    return linear.adapters(inputs[0], output[0]), output[1]


def _parameter(values: Tensor, sees_a_part: bool) -> nn.Parameter:
    parameter = nn.Parameter(values)
    parameter.sequence_parallel = sees_a_part  # type: ignore[attr-defined]
    return parameter
