"""Layers in plain torch. Communication between tensor-parallel ranks is Megatron's."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_engine.pytorch import distributed, fp8, ops, optimizers
from transformer_engine.pytorch.fp8 import fp8_autocast

__all__ = ["DotProductAttention", "GroupedLinear", "LayerNormLinear", "Linear", "RMSNorm", "distributed"]
__all__ += ["fp8", "fp8_autocast", "ops", "optimizers"]


class RMSNorm(nn.Module):
    def __init__(
        self, hidden_size: int, eps: float, sequence_parallel: bool, params_dtype: torch.dtype, device: str, **_: Any
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=params_dtype, device=device))
        self.weight.sequence_parallel = sequence_parallel

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Linear(nn.Module):
    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        sequence_parallel: bool,
        tp_group: Any,
        tp_size: int,
        bias: bool,
        parallel_mode: str,
        params_dtype: torch.dtype,
        device: str,
        **_: Any,
    ) -> None:
        super().__init__()
        self.sequence_parallel, self.group, self.parallel_mode = sequence_parallel, tp_group, parallel_mode
        if parallel_mode == "column":
            out_features //= tp_size
        else:
            in_features //= tp_size
        options = {"dtype": params_dtype, "device": device}
        self.weight = nn.Parameter(torch.empty(out_features, in_features, **options))
        self.bias = nn.Parameter(torch.empty(out_features, **options)) if bias else None
        for parameter in self.parameters():
            parameter.tensor_model_parallel = True
            parameter.partition_dim = 0 if parallel_mode == "column" else 1
            parameter.partition_stride = 1

    def forward(self, x: Tensor, is_first_microbatch: bool | None = None) -> Tensor:
        from megatron.core.tensor_parallel import mappings

        if self.parallel_mode == "column":
            gather = mappings.gather_from_sequence_parallel_region
            enter = gather if self.sequence_parallel else mappings.copy_to_tensor_model_parallel_region
            return F.linear(enter(fp8.operand(x), group=self.group), fp8.operand(self.weight), self.bias)
        scatter = mappings.reduce_scatter_to_sequence_parallel_region
        leave = scatter if self.sequence_parallel else mappings.reduce_from_tensor_model_parallel_region
        return leave(F.linear(fp8.operand(x), fp8.operand(self.weight), self.bias), group=self.group)


class LayerNormLinear(Linear): ...


class GroupedLinear(Linear): ...


class DotProductAttention(nn.Module):
    def __init__(self, num_attention_heads: int, num_gqa_groups: int, **_: Any) -> None:
        super().__init__()
        self.repeats = num_attention_heads // num_gqa_groups

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: None,
        *,
        qkv_format: str,
        attn_mask_type: str,
        cu_seqlens_q: Tensor,
        cu_seqlens_kv: Tensor,
        max_seqlen_q: int,
        max_seqlen_kv: int,
        **_: Any,
    ) -> Tensor:
        assert (qkv_format, attn_mask_type) == ("thd", "padding_causal")
        bounds = cu_seqlens_q.tolist()
        assert max_seqlen_q == max_seqlen_kv == max(end - start for start, end in pairwise(bounds))
        key, value = (x.repeat_interleave(self.repeats, dim=1) for x in (key, value))
        parts = []
        for start, end in pairwise(bounds):
            q, k, v = (x[start:end].transpose(0, 1) for x in (query, key, value))
            parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1))
        return torch.cat(parts).flatten(1)
