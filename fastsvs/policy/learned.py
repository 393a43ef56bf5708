"""The parameters that learn: all weights, or the adapters beside them (LoRA, arXiv 2106.09685), and the shapes of their
shards.

A projection W [outputs, inputs] with an adapter acts as W + scale * B A, with A [rank, inputs] and B [outputs, rank].
Tensor parallelism cuts the adapter where it cuts W: by rows W and B, by columns W and A. Megatron's fused layers have
an adapter for each Hugging Face projection in them, as PEFT's files have.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from fastsvs.architecture import Architecture, Lora
from fastsvs.policy.degrees import Degrees
from fastsvs.policy.mapping import EMBEDDING, HEAD, Entry, Shape, cut_ranges, entries, hf_shapes, merge


def learned_entries(architecture: Architecture, degrees: Degrees) -> Iterator[Entry]:
    """Yield the Megatron parameters that learn, of all stages, in the order of the network."""
    return (adapter_entries if architecture.lora else entries)(architecture, degrees)


def learned_shapes(architecture: Architecture) -> dict[str, Shape]:
    """Return the shapes of what learns, under its Hugging Face names."""
    return adapter_shapes(architecture) if architecture.lora else hf_shapes(architecture)


def adapter_entries(architecture: Architecture, degrees: Degrees) -> Iterator[Entry]:
    """Yield the parameters of all adapters: none where all weights learn."""
    for entry in entries(architecture, degrees):
        for source in adapted_sources(entry, architecture.lora):
            stem, target = source.removesuffix(".weight"), target_of(source)
            for name, cut in (("lora_A", 1), ("lora_B", 0)):
                yield Entry(
                    f"{entry.name.removesuffix('weight')}adapters.{name}.{target}",
                    entry.stage,
                    (f"{stem}.{name}.weight",),
                    cut if entry.cut == cut else None,
                )


@cache  # of a model with thousands of experts it takes a while, and each tensor that is exported asks
def adapter_shapes(architecture: Architecture) -> dict[str, Shape]:
    """Return the shape of every matrix of the adapters, by its name in PEFT's files without their prefix."""
    shapes, lora = hf_shapes(architecture), architecture.lora
    found: dict[str, Shape] = {}
    for entry in entries(architecture, Degrees()):
        for source in adapted_sources(entry, lora):
            stem, (outputs, inputs) = source.removesuffix(".weight"), shapes[source]
            assert lora is not None
            found |= {f"{stem}.lora_A.weight": (lora.rank, inputs), f"{stem}.lora_B.weight": (outputs, lora.rank)}
    return found


def adapted_sources(entry: Entry, lora: Lora | None) -> list[str]:
    """Return those of the projections that a parameter is merged from that have adapters."""
    if lora is None or not entry.name.endswith(".weight") or entry.expert_rank is not None:
        return []
    return [source for source in entry.sources if target_of(source) in lora.targets]


def target_of(source: str) -> str:
    """Return a projection's own name, such as `q_proj`."""
    return source.split(".")[-2]


def merge_adapter(weight: Tensor, down: Tensor, up: Tensor, lora: Lora) -> Tensor:
    """Return `weight` [outputs, inputs] merged with A = `down` and B = `up`, computed in fp32, in the dtype of
    `weight`."""
    return torch.addmm(weight.float(), up.float(), down.float(), alpha=lora.scale).to(weight.dtype)


def megatron_shapes(architecture: Architecture, degrees: Degrees, stage: int, expert_rank: int = 0) -> dict[str, Shape]:
    """Return the shape of the shard of every parameter that each rank of `stage` holds, adapters included, by name; of
    the experts, those of the expert-parallel `expert_rank`."""
    whole = hf_shapes(architecture) | adapter_shapes(architecture)
    shapes, alike = {}, {}
    for entry in (*entries(architecture, degrees), *adapter_entries(architecture, degrees)):
        if entry.stage == stage and entry.expert_rank in (None, expert_rank):
            parts = degrees.parts(entry)
            # Thousands of experts have one shape, which is worked out once.
            kind = (
                parts,
                entry.cut,
                entry.merge,
                entry.sources[0] in (EMBEDDING, HEAD),
                *map(whole.get, entry.sources),
            )
            if kind not in alike:
                cuts = [_meta_cut(architecture, entry, name, whole[name], parts) for name in entry.sources]
                alike[kind] = tuple(merge(entry, cuts, architecture).shape)
            shapes[entry.name] = alike[kind]
    return shapes


def _meta_cut(architecture: Architecture, entry: Entry, source: str, shape: Shape, parts: int) -> Tensor:
    sizes = list(shape)
    if entry.cut is not None:
        sizes[entry.cut] = sum(end - start for start, end in cut_ranges(architecture, entry, source, shape, parts, 0))
    return torch.empty(sizes, device="meta")
