"""Reader of GGUF files, as far as models of plain blocks need it: F32, F16, Q4_0, Q4_1 and Q8_0.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: a header, metadata, descriptions of the
tensors, and their data from the next multiple of the alignment on. Everything is little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from fastsvs.errors import UserError

BLOCK = 32
"""Number of values in a block of a quantized type."""
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Format of each type of a metadata value, as `struct` names it."""


@dataclass(frozen=True)
class Gguf:
    """A file in memory: what it says of the model, and its tensors."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]
    """Tensors by name, in fp32, with the shapes that they have in PyTorch (rows first)."""


def read_gguf(data: bytes) -> Gguf:
    """Return what a GGUF file of version 2 or 3 holds. Raises UserError for other data and for other tensor types."""
    if data[:4] != b"GGUF":
        raise UserError("the file is no GGUF: it does not begin with these four letters")
    cursor = _Cursor(data, 4)
    version, tensors, pairs = cursor.take("I"), cursor.take("Q"), cursor.take("Q")
    if version not in (2, 3):
        raise UserError(f"the file is of version {version} of GGUF: only versions 2 and 3 are read")
    metadata = {cursor.text(): cursor.value(cursor.take("I")) for _ in range(pairs)}
    described = [_describe(cursor) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", 32)
    start = -(-cursor.place // alignment) * alignment
    return Gguf(metadata, {name: _tensor(data, name, start + at, kind, shape) for name, shape, kind, at in described})


class _Cursor:
    """A place in the data that moves on with each value that is taken."""

    def __init__(self, data: bytes, place: int) -> None:
        self.data = data
        self.place = place

    def take(self, kind: str) -> Any:
        [value] = struct.unpack_from(f"<{kind}", self.data, self.place)
        self.place += struct.calcsize(f"<{kind}")
        return value

    def text(self) -> str:
        length = self.take("Q")
        self.place += length
        return self.data[self.place - length : self.place].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, length = self.take("I"), self.take("Q")
            return [self.value(inner) for _ in range(length)]
        return self.take(_SCALARS[kind])


def _describe(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Return a tensor's name, shape with rows first, type and place in the data."""
    name = cursor.text()
    lengths = [cursor.take("Q") for _ in range(cursor.take("I"))]
    return name, tuple(reversed(lengths)), cursor.take("I"), cursor.take("Q")


def _tensor(data: bytes, name: str, start: int, kind: int, shape: tuple[int, ...]) -> np.ndarray:
    if kind not in _TYPES:
        raise UserError(f"tensor {name} is of GGUF's type {kind}: only {sorted(_TYPES)} are read")
    layout, values_in_one, decode = _TYPES[kind]
    blocks = np.frombuffer(data, layout, prod(shape) // values_in_one, start)
    return decode(blocks).reshape(shape)


def _plain(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def _q4(blocks: np.ndarray) -> np.ndarray:
    """Return the 4-bit values of blocks, `[blocks, 32]`: the low halves of 16 bytes, then the high ones."""
    return np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], axis=1).astype(np.float32)


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    return blocks["scale"].astype(np.float32)[:, None] * (_q4(blocks) - 8)


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    return blocks["scale"].astype(np.float32)[:, None] * _q4(blocks) + blocks["least"].astype(np.float32)[:, None]


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    return blocks["scale"].astype(np.float32)[:, None] * blocks["q"].astype(np.float32)


_TYPES: dict[int, tuple[np.dtype, int, Callable[[np.ndarray], np.ndarray]]] = {
    0: (np.dtype("<f4"), 1, _plain),
    1: (np.dtype("<f2"), 1, _plain),
    2: (np.dtype([("scale", "<f2"), ("q", "u1", BLOCK // 2)]), BLOCK, _q4_0),
    3: (np.dtype([("scale", "<f2"), ("least", "<f2"), ("q", "u1", BLOCK // 2)]), BLOCK, _q4_1),
    8: (np.dtype([("scale", "<f2"), ("q", "i1", BLOCK)]), BLOCK, _q8_0),
}
"""Layout of one block, number of its values, and the function that decodes blocks, by GGUF's number of the type."""
