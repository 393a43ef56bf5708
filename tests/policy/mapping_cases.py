"""Parts of architectures to draw, and their tensors as Megatron cuts them."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from fastsvs.architecture import Architecture
from fastsvs.families import DeltaNet, Experts
from fastsvs.policy import Degrees
from fastsvs.policy.mapping import cut_ranges, entries, merge

EXPERTS = st.sampled_from(
    [
        None,
        Experts(4, 2, 12, normalized=True),
        Experts(8, 1, 4, False, shared_ffn=4),
        Experts(4, 2, 8, True, 0, "mixtral"),
    ]
)
DELTA_NETS = st.sampled_from([None, DeltaNet(4, 8, 2, 3, 4), DeltaNet(4, 4, 3, 2, 1, grouped=True)])


def linear_parts(delta_net: DeltaNet | None, layers: int) -> dict[str, Any]:
    """The fields of an architecture whose even layers have the gated delta net, if there is one."""
    if delta_net is None:
        return {}
    linear = tuple(layer % 2 == 0 for layer in range(layers))
    return {"delta_net": delta_net, "linear_layers": linear, "gated_attention": True}


def shard(architecture: Architecture, tensors: dict[str, Tensor], degrees: Degrees) -> list[list[Tensor]]:
    """[entry][rank among its parts] of Megatron tensors."""
    shards = []
    for entry in entries(architecture, degrees):
        by_rank, parts = [], degrees.parts(entry)
        for rank in range(parts):
            cuts = []
            for name in entry.sources:
                whole, found = tensors[name], []
                size = whole.shape[entry.cut or 0]
                ranges = [(0, size)]
                if entry.cut is not None:
                    ranges = cut_ranges(architecture, entry, name, tuple(whole.shape), parts, rank)
                for start, end in ranges:
                    padding = whole.new_zeros(max(0, end - size) - max(0, start - size), *whole.shape[1:])
                    part = whole.narrow(entry.cut or 0, min(start, size), min(end, size) - min(start, size))
                    found.append(torch.cat([part, padding]) if len(padding) else part)
                cuts.append(torch.cat(found, dim=entry.cut or 0))
            by_rank.append(merge(entry, cuts, architecture))
        shards.append(by_rank)
    return shards
