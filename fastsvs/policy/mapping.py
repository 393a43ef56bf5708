"""Hugging Face names and layouts <-> Megatron's: which tensor lies where, as pure functions of the architecture.

Every Megatron parameter is merged from one or more Hugging Face tensors. Tensor parallelism cuts each of those along
one dimension, then merges the cuts, so that reading a checkpoint touches only what a rank needs:

    linear_qkv  rows are, per key/value group, [its query heads, key, value]; the bias alike
    linear_fc1  rows are [gate, up]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from fastsvs.architecture import Architecture

Shape = tuple[int, ...]

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Merge(Enum):
    """The ways in which cuts of Hugging Face tensors become one Megatron tensor."""

    SINGLE = "single"
    STACK = "stack"
    QKV = "qkv"


@dataclass(frozen=True, slots=True)
class Entry:
    """One Megatron parameter, and the Hugging Face tensors that it is merged from."""

    name: str
    """Name of the parameter, with its stage's own layer numbers."""
    stage: int
    """Pipeline stage that holds the parameter."""
    sources: tuple[str, ...]
    """Hugging Face names, in the order in which they are merged."""
    cut: int | None = None
    """Dimension that tensor parallelism cuts; None for a replicated parameter."""
    merge: Merge = Merge.SINGLE
    copy: bool = False
    """Flag of a second place of a tensor that another entry owns: it is loaded, but never read back."""


def hf_shapes(architecture: Architecture) -> dict[str, Shape]:
    """Return the shape of every tensor of the Hugging Face checkpoint by name, in the order of `entries`."""
    a = architecture
    query, group = a.heads * a.head_dim, a.groups * a.head_dim
    shapes: dict[str, Shape] = {EMBEDDING: (a.vocabulary, a.hidden)}
    for i in range(a.layers):
        layer = f"model.layers.{i}"
        shapes[f"{layer}.input_layernorm.weight"] = (a.hidden,)
        for projection, rows in (("q", query), ("k", group), ("v", group)):
            shapes[f"{layer}.self_attn.{projection}_proj.weight"] = (rows, a.hidden)
        for projection, rows in (("q", query), ("k", group), ("v", group)) if a.qkv_bias else ():
            shapes[f"{layer}.self_attn.{projection}_proj.bias"] = (rows,)
        if a.qk_norm:
            shapes[f"{layer}.self_attn.q_norm.weight"] = (a.head_dim,)
            shapes[f"{layer}.self_attn.k_norm.weight"] = (a.head_dim,)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (a.hidden, query)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (a.hidden,)
        shapes[f"{layer}.mlp.gate_proj.weight"] = (a.ffn, a.hidden)
        shapes[f"{layer}.mlp.up_proj.weight"] = (a.ffn, a.hidden)
        shapes[f"{layer}.mlp.down_proj.weight"] = (a.hidden, a.ffn)
    shapes["model.norm.weight"] = (a.hidden,)
    if not a.tied:
        shapes[HEAD] = (a.vocabulary, a.hidden)
    return shapes


def entries(architecture: Architecture, pipeline_parallel: int) -> Iterator[Entry]:
    """Yield all Megatron parameters of all stages, in the order of the network."""
    last = pipeline_parallel - 1
    yield Entry("embedding.word_embeddings.weight", 0, (EMBEDDING,), cut=0)
    for layer in range(architecture.layers):
        yield from _layer_entries(architecture, layer, architecture.layers // pipeline_parallel)
    yield Entry("decoder.final_layernorm.weight", last, ("model.norm.weight",))
    if not architecture.tied:
        yield Entry("output_layer.weight", last, (HEAD,), cut=0)
    elif pipeline_parallel > 1:
        yield Entry("output_layer.weight", last, (EMBEDDING,), cut=0, copy=True)


def _layer_entries(architecture: Architecture, layer: int, layers_per_stage: int) -> Iterator[Entry]:
    stage, local = divmod(layer, layers_per_stage)
    hf, megatron = f"model.layers.{layer}", f"decoder.layers.{local}"

    def entry(name: str, *sources: str, cut: int | None = None, merge: Merge = Merge.SINGLE) -> Entry:
        return Entry(f"{megatron}.{name}", stage, tuple(f"{hf}.{s}" for s in sources), cut, merge)

    yield entry("input_layernorm.weight", "input_layernorm.weight")
    for kind in ("weight", "bias") if architecture.qkv_bias else ("weight",):
        sources = [f"self_attn.{projection}_proj.{kind}" for projection in "qkv"]
        yield entry(f"self_attention.linear_qkv.{kind}", *sources, cut=0, merge=Merge.QKV)
    if architecture.qk_norm:
        yield entry("self_attention.q_layernorm.weight", "self_attn.q_norm.weight")
        yield entry("self_attention.k_layernorm.weight", "self_attn.k_norm.weight")
    yield entry("self_attention.linear_proj.weight", "self_attn.o_proj.weight", cut=1)
    yield entry("pre_mlp_layernorm.weight", "post_attention_layernorm.weight")
    yield entry("mlp.linear_fc1.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight", cut=0, merge=Merge.STACK)
    yield entry("mlp.linear_fc2.weight", "mlp.down_proj.weight", cut=1)


def cut_range(
    architecture: Architecture, entry: Entry, source: str, shape: Shape, tensor_parallel: int, rank: int
) -> tuple[int, int]:
    """Return the part [start, end) of `source` along `entry.cut` that lies on `rank`; `shape` is the shape of the whole
    tensor. For the embedding and the head the part may reach beyond the tensor, into the padding of the vocabulary."""
    assert entry.cut is not None
    size = architecture.padded_vocabulary(tensor_parallel) if source in (EMBEDDING, HEAD) else shape[entry.cut]
    part = size // tensor_parallel
    return rank * part, (rank + 1) * part


def merge(entry: Entry, cuts: Sequence[Tensor], architecture: Architecture) -> Tensor:
    """Return the rank's Megatron tensor, merged from the rank's cuts of `entry.sources`."""
    if entry.merge is Merge.SINGLE:
        return cuts[0]
    if entry.merge is Merge.STACK:
        return torch.cat(list(cuts))
    groups = cuts[1].shape[0] // architecture.head_dim
    return torch.cat([cut.unflatten(0, (groups, -1)) for cut in cuts], dim=1).flatten(0, 1)


def split(entry: Entry, tensor: Tensor, architecture: Architecture) -> list[Tensor]:
    """Return the rank's cuts of `entry.sources` from its Megatron tensor: the inverse of `merge`."""
    if entry.merge is Merge.SINGLE:
        return [tensor]
    if entry.merge is Merge.STACK:
        return list(tensor.chunk(2))
    heads_per_group = architecture.heads // architecture.groups
    groups = tensor.shape[0] // ((heads_per_group + 2) * architecture.head_dim)
    widths = [heads_per_group * architecture.head_dim, architecture.head_dim, architecture.head_dim]
    return [part.flatten(0, 1) for part in tensor.unflatten(0, (groups, -1)).split(widths, dim=1)]


@dataclass(frozen=True, slots=True)
class Parts:
    """One whole Hugging Face tensor, in the parts that tensor-parallel ranks hold, without padding."""

    name: str
    parts: list[Tensor]
    cut: int
    """Dimension along which the parts follow one another."""

    def join(self) -> Tensor:
        """Return the whole tensor, which is the part itself when there is only one."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts, dim=self.cut)

    def join_into(self, whole: Tensor) -> None:
        """Copy the parts into `whole`, one after another."""
        start = 0
        for part in self.parts:
            whole.narrow(self.cut, start, part.shape[self.cut]).copy_(part)
            start += part.shape[self.cut]

    @property
    def shape(self) -> Shape:
        """Return the shape of the whole tensor."""
        sizes = list(self.parts[0].shape)
        sizes[self.cut] = sum(part.shape[self.cut] for part in self.parts)
        return tuple(sizes)


def hf_parts(entry: Entry, shards: Sequence[Tensor], architecture: Architecture) -> list[Parts]:
    """Return the Hugging Face tensors of an entry, from its Megatron shards on all tensor-parallel ranks (on any one
    rank for a replicated entry). They may share memory with the shards."""
    columns = zip(*(split(entry, shard, architecture) for shard in shards), strict=True)
    found = []
    for source, column in zip(entry.sources, columns, strict=True):
        parts = list(column)
        if source in (EMBEDDING, HEAD):
            parts = _without_padding(parts, architecture.vocabulary)
        found.append(Parts(source, parts, entry.cut or 0))
    return found


def join(entry: Entry, shards: Sequence[Tensor], architecture: Architecture) -> list[tuple[str, Tensor]]:
    """Return the names and whole Hugging Face tensors of an entry, from the same shards as `hf_parts`."""
    return [(parts.name, parts.join()) for parts in hf_parts(entry, shards, architecture)]


def _without_padding(parts: Sequence[Tensor], rows: int) -> list[Tensor]:
    """Return the parts of the first `rows` rows of all parts together."""
    starts = [sum(len(part) for part in parts[:index]) for index in range(len(parts))]
    return [part[: rows - start] for start, part in zip(starts, parts, strict=True) if start < rows]


def megatron_shapes(
    architecture: Architecture, tensor_parallel: int, pipeline_parallel: int, stage: int
) -> dict[str, Shape]:
    """Return the shape of the shard of every parameter that each rank of `stage` holds, by name."""
    whole = hf_shapes(architecture)
    shapes = {}
    for entry in entries(architecture, pipeline_parallel):
        if entry.stage == stage:
            cuts = [_meta_cut(architecture, entry, name, whole[name], tensor_parallel) for name in entry.sources]
            shapes[entry.name] = tuple(merge(entry, cuts, architecture).shape)
    return shapes


def _meta_cut(architecture: Architecture, entry: Entry, source: str, shape: Shape, tensor_parallel: int) -> Tensor:
    sizes = list(shape)
    if entry.cut is not None:
        start, end = cut_range(architecture, entry, source, shape, tensor_parallel, 0)
        sizes[entry.cut] = end - start
    return torch.empty(sizes, device="meta")
