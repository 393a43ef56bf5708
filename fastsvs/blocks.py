"""Rectangles of matrices: what a trainer's rank or a server's worker has of a tensor. Imports torch alone.

Tensor parallelism of either side gives a rank neighbouring rows, or neighbouring columns, of a Hugging Face tensor. A
vector counts as a matrix of one column, and a tensor of more dimensions as one of all but its first as columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor

Range = tuple[int, int]
"""Range [start, end)."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rectangle of a matrix; an empty one has no rows or no columns."""

    rows: Range
    columns: Range

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> Block:
        """Return the block that is all of a tensor."""
        return cls((0, shape[0]), (0, prod(shape[1:])))

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    @property
    def size(self) -> int:
        """Return the number of values."""
        rows, columns = self.shape
        return rows * columns

    def along(self, dimension: int, start: int, end: int) -> Block:
        """Return this block with the range [start, end) of rows (dimension 0) or of columns (dimension 1)."""
        return Block((start, end), self.columns) if dimension == 0 else Block(self.rows, (start, end))

    def __and__(self, other: Block) -> Block:
        """Return the rectangle that both have."""
        return Block(_shared(self.rows, other.rows), _shared(self.columns, other.columns))

    def within(self, outer: Block) -> Block:
        """Return where this block lies in `outer`, which contains it."""
        row, column = outer.rows[0], outer.columns[0]
        return Block((self.rows[0] - row, self.rows[1] - row), (self.columns[0] - column, self.columns[1] - column))

    def of(self, tensor: Tensor) -> Tensor:
        """Return this block of a tensor, as a view [rows, columns]."""
        matrix = tensor.view(len(tensor), -1) if tensor.ndim > 2 else tensor.unsqueeze(1) if tensor.ndim < 2 else tensor
        return matrix[slice(*self.rows), slice(*self.columns)]


def _shared(first: Range, second: Range) -> Range:
    start = max(first[0], second[0])
    return start, max(start, min(first[1], second[1]))
