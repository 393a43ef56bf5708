"""Which values of a parameter's shards lie where: shards of any tensor parallelism, and Hugging Face tensors, as
regions of the whole parameter.

The whole parameter is Megatron's at tensor parallelism 1, without padding, as a matrix [rows, columns]; a vector has
one column, and a tensor of more dimensions has all but the first as columns. Tensor parallelism and the merging of
Hugging Face tensors (`policy.mapping`) only pick rows or columns of it, so that what two layouts share are rectangles,
and these are stretches of memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod

from fastsvs.architecture import Architecture
from fastsvs.policy.degrees import Degrees
from fastsvs.policy.learned import learned_entries, learned_shapes, megatron_shapes
from fastsvs.policy.mapping import EMBEDDING, HEAD, Entry, Merge, Range, Shape, section_ranges

Span = tuple[int, int, int]
"""Values that lie one after another in two regions: where they start in the first, in the second, and their number."""


@dataclass(frozen=True, slots=True)
class Region:
    """Part of a whole parameter, laid out in memory row by row."""

    rows: tuple[Range, ...]
    """Ranges of rows of the whole, in the order in which the part holds them."""
    columns: Range
    """Range of columns of the whole."""

    @property
    def width(self) -> int:
        """Return the number of values of a row."""
        return self.columns[1] - self.columns[0]

    @property
    def size(self) -> int:
        """Return the number of values."""
        return sum(end - start for start, end in self.rows) * self.width


def whole_shapes(architecture: Architecture) -> dict[str, Shape]:
    """Return the shape of every whole parameter that learns, by its name in the whole network."""
    tensors, shapes = learned_shapes(architecture), megatron_shapes(architecture, Degrees(), 0)
    return {
        entry.name: tensors[entry.sources[0]] if entry.merge is Merge.SINGLE else shapes[entry.name]
        for entry in learned_entries(architecture, Degrees())
    }


def shard_region(architecture: Architecture, entry: Entry, whole: Shape, parts: int, rank: int) -> Region:
    """Return what `rank` holds, of the `parts` ranks that a parameter of the shape `whole` is cut over. Rows that pad a
    vocabulary follow the region in the shard and belong to no region."""
    rows, columns = whole[0], _width(whole)
    if entry.cut is None:
        return Region(((0, rows),), (0, columns))
    if entry.cut == 1:
        return Region(((0, rows),), _part(columns, parts, rank))
    if entry.merge is Merge.STACK:
        start, end = _part(rows // 2, parts, rank)
        return Region(((start, end), (rows // 2 + start, rows // 2 + end)), (0, columns))
    if entry.sections:
        sections = [size for source in entry.sections for size in source]
        return Region(tuple(section_ranges(sections, parts, rank)), (0, columns))
    padded = architecture.padded_vocabulary(parts) if entry.sources[0] in (EMBEDDING, HEAD) else rows
    start, end = _part(padded, parts, rank)
    return Region(((min(start, rows), min(end, rows)),), (0, columns))


def tensor_region(
    architecture: Architecture, entry: Entry, whole: Shape, name: str, cut: int | None, start: int, end: int
) -> Region:
    """Return the part of `entry` that is the Hugging Face tensor `name`, or its part [start, end) along `cut`."""
    rows = _tensor_rows(architecture, entry, whole[0], entry.sources.index(name))
    columns = (0, _width(whole))
    if cut == 1:
        return Region(rows, (start, end))
    return Region(rows if cut is None else tuple(_slice(rows, start, end)), columns)


def spans(first: Region, wanted: Range, second: Region) -> Iterator[Span]:
    """Yield where the values `wanted` of `first` (counted in its memory) lie in `second`, in as few spans as there can
    be within a pair of row ranges."""
    left, right = max(first.columns[0], second.columns[0]), min(first.columns[1], second.columns[1])
    if left >= right:
        return
    for base, (start, end) in zip(_bases(first.rows), first.rows, strict=True):
        # Rows of this range that `wanted` touches.
        low = max(start, start + wanted[0] // first.width - base)
        high = min(end, start - (-wanted[1] // first.width) - base)
        for other, (other_start, other_end) in zip(_bases(second.rows), second.rows, strict=True):
            top, bottom = max(low, other_start), min(high, other_end)
            if top < bottom:
                here = (base + top - start) * first.width + left - first.columns[0]
                there = (other + top - other_start) * second.width + left - second.columns[0]
                whole_rows = right - left == first.width == second.width
                count, steps = ((bottom - top) * first.width, 1) if whole_rows else (right - left, bottom - top)
                for step in range(steps):
                    yield from _within(wanted, here + step * first.width, there + step * second.width, count)


def _within(wanted: Range, here: int, there: int, count: int) -> Iterator[Span]:
    start, end = max(here, wanted[0]), min(here + count, wanted[1])
    if start < end:
        yield start, there + start - here, end - start


def _tensor_rows(architecture: Architecture, entry: Entry, rows: int, index: int) -> tuple[Range, ...]:
    if entry.merge is Merge.SINGLE:
        return ((0, rows),)
    if entry.merge is Merge.STACK:
        return (_part(rows, 2, index),)
    if entry.merge is Merge.SECTIONS:
        bounds = list(accumulate((sum(sections) for sections in entry.sections), initial=0))
        return ((bounds[index], bounds[index + 1]),)
    size, heads = architecture.head_dim, architecture.heads // architecture.groups
    queries = heads * (2 if architecture.gated_attention else 1)
    own = [[*range(queries)], [queries], [queries + 1]][index]
    if index == 0 and architecture.gated_attention:  # the tensor has each head's gate after its query
        own = [place for head in range(heads) for place in (head, heads + head)]
    groups = range(0, architecture.groups * (queries + 2), queries + 2)
    return tuple(((group + place) * size, (group + place + 1) * size) for group in groups for place in own)


def _slice(rows: Sequence[Range], start: int, end: int) -> Iterator[Range]:
    """Yield the rows [start, end) of those that `rows` lists."""
    for base, (low, high) in zip(_bases(rows), rows, strict=True):
        cut = max(low, low + start - base), min(high, low + end - base)
        if cut[0] < cut[1]:
            yield cut


def _bases(rows: Sequence[Range]) -> list[int]:
    """Return the number of rows before each range."""
    return list(accumulate((end - start for start, end in rows), initial=0))[: len(rows)]


def _part(size: int, parts: int, index: int) -> Range:
    return size // parts * index, size // parts * (index + 1)


def _width(shape: Shape) -> int:
    return prod(shape[1:])
