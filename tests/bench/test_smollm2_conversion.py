"""The reader of GGUF on files made by hand, and the weights of a Llama under their names."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.smollm2.convert import unpaired, weights
from bench.smollm2.gguf import Gguf, read_gguf
from fastsvs.errors import UserError

Tensors = Sequence[tuple[str, tuple[int, ...], int, bytes]]


def text(words: str) -> bytes:
    raw = words.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_file(pairs: Sequence[tuple[str, int, bytes]], tensors: Tensors, version: int = 3) -> bytes:
    """Return a file with metadata of (key, type, value) and tensors of (name, shape, type, data)."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    head += b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in pairs)
    data = b""
    for name, shape, kind, raw in tensors:
        head += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
        head += struct.pack("<IQ", kind, len(data))
        data += raw + bytes(-len(raw) % 32)
    return head + bytes(-len(head) % 32) + data


def nibbles(values: Sequence[int]) -> bytes:
    return bytes(low | high << 4 for low, high in zip(values[:16], values[16:], strict=True))


@given(st.lists(st.integers(0, 15), min_size=64, max_size=64), st.floats(-4, 4, width=16), st.floats(-4, 4, width=16))
def test_blocks_of_four_bits(values: list[int], scale: float, least: float) -> None:
    halves = values[:32], values[32:]
    with_least = b"".join(struct.pack("<ee", scale, least) + nibbles(half) for half in halves)
    without = b"".join(struct.pack("<e", scale) + nibbles(half) for half in halves)
    read = read_gguf(gguf_file([], [("a", (2, 32), 3, with_least), ("b", (2, 32), 2, without)])).tensors
    expected = np.array(values, np.float32).reshape(2, 32)
    np.testing.assert_allclose(read["a"], expected * np.float32(scale) + np.float32(least), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(read["b"], (expected - 8) * np.float32(scale), rtol=1e-6)


@given(st.lists(st.integers(-128, 127), min_size=32, max_size=32), st.floats(-4, 4, width=16))
def test_blocks_of_eight_bits(values: list[int], scale: float) -> None:
    raw = struct.pack("<e", scale) + struct.pack("<32b", *values)
    [read] = read_gguf(gguf_file([], [("a", (1, 32), 8, raw)])).tensors.values()
    np.testing.assert_allclose(read[0], np.array(values, np.float32) * np.float32(scale), rtol=1e-6)


def test_metadata_and_plain_tensors() -> None:
    words = struct.pack("<IQ", 8, 2) + text("one") + text("zwei ü")
    pairs = [("n", 4, struct.pack("<I", 7)), ("words", 9, words), ("e", 6, struct.pack("<f", 0.5))]
    values = np.arange(6, dtype="<f4")
    tensors = [("f", (2, 3), 0, values.tobytes()), ("h", (6,), 1, values.astype("<f2").tobytes())]
    read = read_gguf(gguf_file(pairs, tensors))
    assert read.metadata == {"n": 7, "words": ["one", "zwei ü"], "e": 0.5}
    assert read.tensors["f"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read.tensors["h"].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\3\4", "no GGUF"),
        (gguf_file([], [], version=1), "version 1 of GGUF"),
        (gguf_file([], [("w", (256,), 14, bytes(210))]), r"tensor w is of GGUF's type 14: only \[0, 1, 2, 3, 8\]"),
    ],
)
def test_other_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_gguf(data)


def test_rows_of_a_head_come_apart_into_halves() -> None:
    """Two heads of four rows: GGUF has 0, 2, 1, 3 of each."""
    rows = np.array([0, 2, 1, 3, 4, 6, 5, 7], np.float32)[:, None]
    assert unpaired(rows, 2)[:, 0].tolist() == list(range(8))


def test_a_tensor_without_a_place_is_refused() -> None:
    with pytest.raises(UserError, match=r"output\.weight has no place"):
        list(weights(Gguf({}, {"output.weight": np.zeros((2, 2), np.float32)})))
