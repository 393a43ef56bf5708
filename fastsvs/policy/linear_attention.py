"""The gated delta net as the self-attention of Megatron's layer, over packed rows (formulas: `fastsvs.delta_rule`).

Tensor parallelism cuts it by its key heads, each with the value heads that it serves. Where several responses continue
one prompt of the row, each begins with the state and the convolution's window that the prompt leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from fastsvs.delta_rule import Chunks, causal_convolution, delta_rule, gated_norm, gates
from fastsvs.families import DeltaNet


@dataclass(frozen=True, slots=True)
class LinearSequences:
    """The sequences of a packed row: shared prompts, then all others."""

    prompts: Chunks
    """The prompts that several responses continue; none where each sequence stands for itself."""
    others: Chunks
    """The other sequences, which follow them in the row."""
    before: Tensor
    """Prompt that each of the others continues, the number of prompts where it continues none, [others] int64."""

    @classmethod
    def of(cls, lengths: Sequence[int], responses: Sequence[int], device: torch.device) -> LinearSequences:
        """Return the sequences of these `lengths`. The first of them are the shared prompts, and those after them the
        responses, `responses` [prompts] of each prompt. Tensors lie on `device`."""
        count = len(responses)
        before = np.full(len(lengths) - count, count)
        before[: sum(responses)] = np.repeat(np.arange(count), responses)
        prompts, others = (Chunks.of(part, device) for part in (lengths[:count], lengths[count:]))
        return cls(prompts, others, torch.from_numpy(before).to(device))


class Packing(Protocol):
    """The part of a packed row that linear attention reads (see `policy.modules.PackedSequences`)."""

    linear: LinearSequences


def delta_net_spec(delta_net: DeltaNet, column_parallel: type, row_parallel: type) -> ModuleSpec:
    """Return the specification of a gated delta net with these linear layers."""
    parts = {"delta_net": delta_net, "column_parallel": column_parallel, "row_parallel": row_parallel}
    return ModuleSpec(module=GatedDeltaNet, params=parts)


class GatedDeltaNet(nn.Module):
    """Linear attention by the gated delta rule, this tensor-parallel rank's heads of it."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        *,
        delta_net: DeltaNet,
        column_parallel: type,
        row_parallel: type,
        pg_collection: ProcessGroupCollection,
        **_: Any,
    ) -> None:
        super().__init__()
        parts = config.tensor_model_parallel_size
        own = replace(delta_net, key_heads=delta_net.key_heads // parts, value_heads=delta_net.value_heads // parts)
        self.own, self.epsilon, self._group = own, config.layernorm_epsilon, pg_collection.tp
        linear = {"config": config, "bias": False, "is_expert": False, "tp_group": pg_collection.tp}
        rows = delta_net.channels + delta_net.value_width + 2 * delta_net.value_heads
        self.in_proj = column_parallel(
            config.hidden_size, rows, init_method=config.init_method, gather_output=False, skip_bias_add=False, **linear
        )
        self.out_proj = row_parallel(
            delta_net.value_width,
            config.hidden_size,
            init_method=config.output_layer_init_method,
            input_is_parallel=True,
            skip_bias_add=True,
            **linear,
        )
        device = "cpu" if config.use_cpu_initialization else torch.cuda.current_device()
        room = {"dtype": config.params_dtype, "device": device}
        self.convolution = nn.Parameter(torch.empty(own.channels, 1, own.kernel, **room))
        self.A_log = nn.Parameter(torch.empty(own.value_heads, **room))
        self.dt_bias = nn.Parameter(torch.empty(own.value_heads, **room))
        self.norm_weight = nn.Parameter(torch.empty(own.value_dim, **room))

    def forward(self, hidden: Tensor, *, packed_seq_params: Packing, **_: Any) -> tuple[Tensor, Tensor | None]:
        """Return the output [tokens, 1, hidden] for `hidden`, in its shape, and no bias."""
        projected, _bias = self.in_proj(hidden)
        mixed, gate, step, decay = self._projections(projected.squeeze(1))
        output = self._attend(mixed, *gates(step, decay, self.A_log, self.dt_bias), packed_seq_params.linear)
        # Each rank has other heads, and one weight serves them all: its gradient is summed over the ranks.
        weight = copy_to_tensor_model_parallel_region(self.norm_weight, group=self._group)
        normed = gated_norm(output, gate, weight, self.epsilon)
        return self.out_proj(normed.flatten(1).unsqueeze(1))

    def _projections(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the convolution's input [tokens, channels], gates [tokens, value_heads, value_dim], and step sizes and
        decays [tokens, value_heads], given the output of the projections, [tokens, rows]."""
        own = self.own
        keys, values, heads = own.key_width, own.value_width, own.value_heads
        if own.grouped:
            wide, narrow = (
                part.unflatten(1, (own.key_heads, -1)) for part in x.split([own.channels + values, 2 * heads], 1)
            )
            widths = [own.key_dim, own.key_dim, values // own.key_heads, values // own.key_heads]
            *mixed, gate = (part.flatten(1) for part in wide.split(widths, dim=2))
            step, decay = (part.flatten(1) for part in narrow.chunk(2, dim=2))
            return torch.cat(mixed, dim=1), gate.unflatten(1, (heads, -1)), step, decay
        mixed, gate, step, decay = x.split([2 * keys + values, values, heads, heads], dim=1)
        return mixed, gate.unflatten(1, (heads, -1)), step, decay

    def _attend(self, mixed: Tensor, decay: Tensor, step: Tensor, sequences: LinearSequences) -> Tensor:
        """Return the output [tokens, value_heads, value_dim] of the sequences of a row."""
        if not sequences.prompts.lengths:
            return self._run((mixed, decay, step), sequences.others)[0]
        first = sum(sequences.prompts.lengths)
        prompts, others = zip(*((x[:first], x[first:]) for x in (mixed, decay, step)), strict=True)
        output, *after = self._run(prompts, sequences.prompts)
        begin = (torch.cat([x, x.new_zeros(1, *x.shape[1:])])[sequences.before] for x in after)
        return torch.cat([output, self._run(others, sequences.others, *begin)[0]])

    def _run(
        self, inputs: tuple[Tensor, ...], chunks: Chunks, window: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output of some sequences, and the windows and states after them."""
        mixed, decay, step = inputs
        own = self.own
        mixed, window = causal_convolution(mixed, self.convolution.squeeze(1), chunks, window)
        parts = mixed.split([own.key_width, own.key_width, own.value_width], dim=1)
        heads = (own.key_heads, own.key_heads, own.value_heads)
        query, key, value = (part.unflatten(1, (count, -1)) for part, count in zip(parts, heads, strict=True))
        output, state = delta_rule(query, key, value, decay, step, chunks, state)
        return output, window, state
