"""Hugging Face names and layouts <-> Megatron's: which tensor lies where, as pure functions of the architecture.

Every Megatron parameter is merged from one or more Hugging Face tensors. Tensor parallelism cuts each of those along
one dimension, then merges the cuts, so that reading a checkpoint touches only what a rank needs:

    linear_qkv  rows are, per key/value group, [its query heads, key, value], or with gated attention
                [its query heads, their gates, key, value]; the bias alike
    linear_fc1  rows are [gate, up]
    in_proj     rows are those of the projections of a gated delta net, one after another

Each expert is a parameter of its own. Expert parallelism deals the experts of a layer to its ranks, so that a
checkpoint does not know of it; expert tensor parallelism cuts them as tensor parallelism cuts everything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial

import torch
from torch import Tensor

from fastsvs.architecture import Architecture
from fastsvs.families import DENSE, NAMINGS, DeltaNet, Experts
from fastsvs.policy.degrees import Degrees
from fastsvs.policy.layer_shapes import Shape, attention_shapes, delta_net_shapes, feed_forward_shapes, projections

Range = tuple[int, int]
"""Range [start, end) of rows, columns or values."""

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Merge(Enum):
    """The ways in which cuts of Hugging Face tensors become one Megatron tensor."""

    SINGLE = "single"
    STACK = "stack"
    QKV = "qkv"
    SECTIONS = "sections"


@dataclass(frozen=True, slots=True)
class Entry:
    """One Megatron parameter, and the Hugging Face tensors that it is merged from."""

    name: str
    """Name of the parameter, with its stage's own numbers of layers, and its rank's own of experts."""
    stage: int
    """Pipeline stage that holds the parameter."""
    sources: tuple[str, ...]
    """Hugging Face names, in the order in which they are merged."""
    cut: int | None = None
    """Dimension that tensor parallelism cuts, of an expert that of experts; None for a replicated parameter."""
    merge: Merge = Merge.SINGLE
    expert_rank: int | None = None
    """Expert-parallel rank of an expert's parameter; None for a parameter that is no expert's."""
    copy: bool = False
    """Flag of a second place of a tensor that another entry owns: it is loaded, but never read back."""
    sections: tuple[tuple[int, ...], ...] = ()
    """Numbers of rows of the sections of each source that is merged by sections: tensor parallelism cuts each of
    them."""


def hf_shapes(architecture: Architecture) -> dict[str, Shape]:
    """Return the shape of every tensor of the Hugging Face checkpoint by name, in the order of `entries`."""
    a = architecture
    shapes: dict[str, Shape] = {EMBEDDING: (a.vocabulary, a.hidden)}
    for i in range(a.layers):
        layer = f"model.layers.{i}"
        shapes[f"{layer}.input_layernorm.weight"] = (a.hidden,)
        mixer = delta_net_shapes(a.hidden, a.delta_net) if a.delta_net and a.is_linear(i) else attention_shapes(a)
        shapes |= {f"{layer}.{name}": shape for name, shape in mixer.items()}
        shapes[f"{layer}.post_attention_layernorm.weight"] = (a.hidden,)
        shapes |= {f"{layer}.{name}": shape for name, shape in feed_forward_shapes(a, i).items()}
    shapes["model.norm.weight"] = (a.hidden,)
    if not a.tied:
        shapes[HEAD] = (a.vocabulary, a.hidden)
    return shapes


def entries(architecture: Architecture, degrees: Degrees) -> Iterator[Entry]:
    """Yield all Megatron parameters of all stages and expert-parallel ranks, in the order of the network."""
    last = degrees.pipeline - 1
    yield Entry("embedding.word_embeddings.weight", 0, (EMBEDDING,), cut=0)
    for layer in range(architecture.layers):
        yield from _layer_entries(architecture, layer, degrees)
    yield Entry("decoder.final_layernorm.weight", last, ("model.norm.weight",))
    if not architecture.tied:
        yield Entry("output_layer.weight", last, (HEAD,), cut=0)
    elif degrees.pipeline > 1:
        yield Entry("output_layer.weight", last, (EMBEDDING,), cut=0, copy=True)


def _layer_entries(architecture: Architecture, layer: int, degrees: Degrees) -> Iterator[Entry]:
    stage, local = divmod(layer, architecture.layers // degrees.pipeline)
    hf, megatron = f"model.layers.{layer}", f"decoder.layers.{local}"

    def entry(
        name: str,
        *sources: str,
        cut: int | None = None,
        merge: Merge = Merge.SINGLE,
        expert_rank: int | None = None,
        sections: tuple[tuple[int, ...], ...] = (),
    ) -> Entry:
        own = tuple(f"{hf}.{source}" for source in sources)
        return Entry(f"{megatron}.{name}", stage, own, cut, merge, expert_rank, sections=sections)

    def gated(place: str, names: tuple[str, str, str], expert_rank: int | None = None) -> Iterator[Entry]:
        gate, up, down = names
        yield entry(f"{place}.linear_fc1.weight", gate, up, cut=0, merge=Merge.STACK, expert_rank=expert_rank)
        yield entry(f"{place}.linear_fc2.weight", down, cut=1, expert_rank=expert_rank)

    def mixture(experts: Experts) -> Iterator[Entry]:
        naming, each = NAMINGS[experts.naming], experts.count // degrees.expert
        yield entry("mlp.router.weight", naming.router)
        for number in range(experts.count):
            rank, own = divmod(number, each)
            yield from gated(f"mlp.experts.local_experts.{own}", naming.expert(number), rank)
        if experts.shared_ffn:
            yield from gated("mlp.shared_experts", naming.shared())
            yield entry("mlp.shared_experts.gate_weight", naming.shared_gate)

    def attention() -> Iterator[Entry]:
        for kind in ("weight", "bias") if architecture.qkv_bias else ("weight",):
            sources = [f"self_attn.{projection}_proj.{kind}" for projection in "qkv"]
            yield entry(f"self_attention.linear_qkv.{kind}", *sources, cut=0, merge=Merge.QKV)
        if architecture.qk_norm:
            yield entry("self_attention.q_layernorm.weight", "self_attn.q_norm.weight")
            yield entry("self_attention.k_layernorm.weight", "self_attn.k_norm.weight")
        yield entry("self_attention.linear_proj.weight", "self_attn.o_proj.weight", cut=1)

    def linear_attention(delta_net: DeltaNet) -> Iterator[Entry]:
        by_section = partial(entry, cut=0, merge=Merge.SECTIONS)
        channels = (delta_net.key_width, delta_net.key_width, delta_net.value_width)
        of = projections(delta_net)
        yield entry("self_attention.dt_bias", "linear_attn.dt_bias", cut=0)
        yield entry("self_attention.A_log", "linear_attn.A_log", cut=0)
        yield by_section("self_attention.convolution", "linear_attn.conv1d.weight", sections=(channels,))
        yield by_section("self_attention.in_proj.weight", *of, sections=tuple(of.values()))
        yield entry("self_attention.norm_weight", "linear_attn.norm.weight")
        yield entry("self_attention.out_proj.weight", "linear_attn.out_proj.weight", cut=1)

    delta_net = architecture.delta_net
    yield entry("input_layernorm.weight", "input_layernorm.weight")
    yield from linear_attention(delta_net) if delta_net and architecture.is_linear(layer) else attention()
    yield entry("pre_mlp_layernorm.weight", "post_attention_layernorm.weight")
    experts = architecture.experts_of(layer)
    yield from mixture(experts) if experts else gated("mlp", DENSE)


def cut_ranges(
    architecture: Architecture, entry: Entry, source: str, shape: Shape, parts: int, rank: int
) -> list[Range]:
    """Return the ranges of `source` along `entry.cut` that lie on `rank`, of the `parts` ranks that the entry is cut
    over: one, or where there are more parts than one, one of each section. `shape` is the shape of the whole tensor.
    For the embedding and the head the range may reach beyond the tensor, into the padding of the vocabulary."""
    assert entry.cut is not None
    if entry.sections and parts > 1:
        sections = entry.sections[entry.sources.index(source)]
        return section_ranges(sections, parts, rank)
    size = architecture.padded_vocabulary(parts) if source in (EMBEDDING, HEAD) else shape[entry.cut]
    part = size // parts
    return [(rank * part, (rank + 1) * part)]


def section_ranges(sections: Sequence[int], parts: int, rank: int) -> list[Range]:
    """Return the ranges that lie on `rank` of sections that follow one another, each cut into `parts`."""
    found, start = [], 0
    for size in sections:
        found.append((start + size // parts * rank, start + size // parts * (rank + 1)))
        start += size
    return found


def merge(entry: Entry, cuts: Sequence[Tensor], architecture: Architecture) -> Tensor:
    """Return the rank's Megatron tensor, merged from the rank's cuts of `entry.sources`."""
    if entry.merge is Merge.SINGLE:
        return cuts[0]
    if entry.merge is not Merge.QKV:
        return torch.cat(list(cuts))
    groups = cuts[1].shape[0] // architecture.head_dim
    query, key, value = (cut.unflatten(0, (groups, -1)) for cut in cuts)
    if architecture.gated_attention:
        query = query.unflatten(1, (-1, 2, architecture.head_dim)).transpose(1, 2).flatten(1, 3)
    return torch.cat([query, key, value], dim=1).flatten(0, 1)


def split(entry: Entry, tensor: Tensor, architecture: Architecture) -> list[Tensor]:
    """Return the rank's cuts of `entry.sources` from its Megatron tensor: the inverse of `merge`."""
    if entry.merge is Merge.SINGLE:
        return [tensor]
    if entry.merge is Merge.STACK:
        return list(tensor.chunk(2))
    if entry.merge is Merge.SECTIONS:
        sizes = [sum(sections) for sections in entry.sections]
        return list(tensor.split([len(tensor) * size // sum(sizes) for size in sizes]))
    dim, gated = architecture.head_dim, architecture.gated_attention
    queries = architecture.heads // architecture.groups * (1 + gated)
    groups = tensor.shape[0] // ((queries + 2) * dim)
    query, key, value = tensor.unflatten(0, (groups, -1)).split([queries * dim, dim, dim], dim=1)
    if gated:
        query = query.unflatten(1, (2, -1, dim)).transpose(1, 2).flatten(1, 3)
    return [part.flatten(0, 1) for part in (query, key, value)]


@dataclass(frozen=True, slots=True)
class Parts:
    """One whole Hugging Face tensor, in the parts that ranks hold, without padding."""

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
    """Return the Hugging Face tensors of an entry, from its Megatron shards on all ranks that it is cut over (on any
    one rank for a replicated entry). They may share memory with the shards."""
    columns = zip(*(split(entry, shard, architecture) for shard in shards), strict=True)
    found = []
    for index, (source, column) in enumerate(zip(entry.sources, columns, strict=True)):
        parts = list(column)
        if entry.sections and len(parts) > 1:
            parts = _by_sections(parts, entry.sections[index])
        if source in (EMBEDDING, HEAD):
            parts = _without_padding(parts, architecture.vocabulary)
        found.append(Parts(source, parts, entry.cut or 0))
    return found


def join(entry: Entry, shards: Sequence[Tensor], architecture: Architecture) -> list[tuple[str, Tensor]]:
    """Return the names and whole Hugging Face tensors of an entry, from the same shards as `hf_parts`."""
    return [(parts.name, parts.join()) for parts in hf_parts(entry, shards, architecture)]


def _by_sections(parts: Sequence[Tensor], sections: Sequence[int]) -> list[Tensor]:
    """Return the parts' sections, one section of all parts after another."""
    split_up = [part.split([size // len(parts) for size in sections]) for part in parts]
    return [part for section in zip(*split_up, strict=True) for part in section]


def _without_padding(parts: Sequence[Tensor], rows: int) -> list[Tensor]:
    """Return the parts of the first `rows` rows of all parts together."""
    starts = [sum(len(part) for part in parts[:index]) for index in range(len(parts))]
    return [part[: rows - start] for start, part in zip(starts, parts, strict=True) if start < rows]
