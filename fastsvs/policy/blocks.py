"""Which block of every Hugging Face tensor lies where: on a rank of the trainer, and on a worker of a vLLM server.

A worker cuts what it loads by its place in the server's tensor parallelism: heads, the feed-forward width and the
vocabulary evenly, the vocabulary after padding (`layout_checks.padded_by_servers`); key/value heads that are
fewer than workers lie on several. Experts are cut as dense feed-forwards are. What it does not cut it holds whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from torch import Tensor

from fastsvs.architecture import Architecture
from fastsvs.blocks import Block
from fastsvs.families import NAMINGS
from fastsvs.layout_checks import padded_by_servers
from fastsvs.policy.degrees import here, holds, part
from fastsvs.policy.mapping import EMBEDDING, HEAD, Entry, cut_ranges, entries, hf_shapes, split

ROW_CUT = {"q_proj", "k_proj", "v_proj", *(name for each in NAMINGS.values() for name in (each.gate, each.up))}
COLUMN_CUT = {"o_proj", *(each.down for each in NAMINGS.values())}


class WeightBlocks:
    """The blocks of this rank with their values, and those of servers' workers."""

    def __init__(self, tensors: Mapping[str, Tensor], architecture: Architecture) -> None:
        """Look at `tensors`, which the rank's stage holds under its parameter names."""
        self._tensors, self._architecture = tensors, architecture

    def held(self) -> dict[str, Block]:
        """Return this rank's block of every tensor that it has a part of, without the vocabulary's padding."""
        return held_blocks(self._architecture)

    def values(self, names: Collection[str]) -> dict[str, Tensor]:
        """Return this rank's blocks of those of the tensors `names` that it has a part of, each [rows, columns] or
        [rows], as they are now. Rows that pad a vocabulary follow the block. They may share memory with the policy."""
        found: dict[str, Tensor] = {}
        for entry in _own_entries(self._architecture):
            if any(name in names for name in entry.sources):
                split_up = split(entry, self._tensors[entry.name].detach(), self._architecture)
                found |= {name: value for name, value in zip(entry.sources, split_up, strict=True) if name in names}
        return found

    def served(self, tensor_parallel: int, rank: int) -> dict[str, Block]:
        """Return the block of every tensor that a worker loads which is `rank` of a server's tensor parallelism."""
        return served_blocks(self._architecture, tensor_parallel, rank)


def held_blocks(architecture: Architecture) -> dict[str, Block]:
    """Return this rank's block of every tensor that it has a part of, without the vocabulary's padding."""
    layout, shapes, blocks = here(), hf_shapes(architecture), {}
    for entry in _own_entries(architecture):
        for name in entry.sources:
            block = Block.whole(shapes[name])
            if entry.cut is not None:
                (bounds,) = cut_ranges(architecture, entry, name, shapes[name], layout.parts(entry), part(entry))
                block = block.along(entry.cut, *(min(bound, shapes[name][entry.cut]) for bound in bounds))
            if block.size:
                blocks[name] = block
    return blocks


def served_blocks(architecture: Architecture, tensor_parallel: int, rank: int) -> dict[str, Block]:
    """Return the block of every tensor that a worker loads which is `rank` of a server's tensor parallelism."""
    return {
        name: _served(architecture, name, shape, tensor_parallel, rank)
        for name, shape in hf_shapes(architecture).items()
    }


def _served(architecture: Architecture, name: str, shape: tuple[int, ...], tensor_parallel: int, rank: int) -> Block:
    whole = Block.whole(shape)
    if name in (EMBEDDING, HEAD):
        return _part(whole, 0, padded_by_servers(architecture), tensor_parallel, rank)
    layer = name.split(".")[-2]
    if layer in ("k_proj", "v_proj") and architecture.groups < tensor_parallel:
        copies = tensor_parallel // architecture.groups
        return _part(whole, 0, shape[0], architecture.groups, rank // copies)
    if layer in ROW_CUT:
        return _part(whole, 0, shape[0], tensor_parallel, rank)
    return _part(whole, 1, shape[1], tensor_parallel, rank) if layer in COLUMN_CUT else whole


def _part(whole: Block, dimension: int, size: int, parts: int, rank: int) -> Block:
    """Return part number `rank` of `parts` along a dimension that has `size` rows or columns with its padding."""
    end = whole.shape[dimension]
    return whole.along(dimension, min(size // parts * rank, end), min(size // parts * (rank + 1), end))


def _own_entries(architecture: Architecture) -> Iterator[Entry]:
    return (entry for entry in entries(architecture, here()) if holds(entry) and not entry.copy)
