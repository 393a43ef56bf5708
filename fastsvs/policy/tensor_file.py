"""Safetensors files, written and read in pieces: every byte goes through memory once, and is hashed on its way.

The safetensors library writes and maps files, but neither hashes what it writes nor reads into memory that is there.
The format: the length of the header (8 bytes, little-endian), the header (JSON: name -> dtype, shape and place after
the header, padded with spaces), the values of all tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from fastsvs.errors import UserError
from fastsvs.policy.manifest import FileFacts

CHUNK_BYTES = 4 << 20
"""Bytes that are read and hashed at a time: they stay in the caches between the two."""
LONGEST_HEADER = 100_000_000
"""Longest header in bytes, the safetensors library's own limit."""
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Read:
    """One stretch of a file, and the memory that it is to be read into."""

    offset: int
    """Place of the first byte in the file."""
    into: memoryview
    """Memory of as many bytes as are to be read."""


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor in a file."""

    offset: int
    """Place of its first byte in the file."""
    dtype: str
    """Name of the dtype in this format, such as "F32"."""
    shape: tuple[int, ...]


def write(path: Path, sizes: Mapping[str, int], values: Iterable[memoryview]) -> FileFacts:
    """Write flat fp32 tensors of these `sizes`, sorted by name, whose `values` come in that order as bytes.

    Returns when the file is on the disk.
    """
    digest, size = hashlib.sha256(), 0
    with open(path, "wb") as file:
        for part in (_header(sizes), *_chunks(values)):
            digest.update(part)
            file.write(part)
            size += len(part)
        file.flush()
        os.fsync(file.fileno())
    return FileFacts(bytes=size, sha256=digest.hexdigest())


def size_of(sizes: Mapping[str, int]) -> int:
    """Return the size in bytes of the file that `write` makes of tensors of these `sizes`."""
    return len(_header(sizes)) + FLOAT_BYTES * sum(sizes.values())


def read_header(path: Path) -> dict[str, Place]:
    """Return where each tensor of a file lies. Raises UserError when the file is no safetensors file, or ends before
    its last value."""
    with open(path, "rb", buffering=0) as file:
        head, size = bytearray(8), os.fstat(file.fileno()).st_size
        _fill(file.fileno(), memoryview(head), 0)
        length = int.from_bytes(head, "little")
        try:
            if length > min(size, LONGEST_HEADER):
                raise ValueError
            text = bytearray(length)
            _fill(file.fileno(), memoryview(text), 8)
            tree = json.loads(text)
            tree.pop("__metadata__", None)
            return {name: _place(facts, 8 + length, size) for name, facts in tree.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path.name} is no safetensors file, or is cut off") from error


def read(path: Path, reads: Sequence[Read], sha256: str | None = None) -> None:
    """Read stretches of a file; no two may overlap. With `sha256` the rest of the file is read too, and UserError
    raised when the whole has another checksum; what `reads` were filled with is then worthless."""
    reads = sorted(reads, key=lambda one: one.offset)
    with open(path, "rb", buffering=0) as file:
        if sha256 is None:
            for one in reads:
                _fill(file.fileno(), one.into, one.offset)
            return
        digest = hashlib.sha256()
        for one in _cover(reads, os.fstat(file.fileno()).st_size):
            _fill(file.fileno(), one.into, one.offset)
            digest.update(one.into)
    if digest.hexdigest() != sha256:
        raise UserError(f"the contents of {path.name} do not have the checksum that was recorded")


def _header(sizes: Mapping[str, int]) -> memoryview:
    """Return the first bytes of the file, the same that the safetensors library writes."""
    header, end = {}, 0
    for name, size in sizes.items():
        start, end = end, end + size * FLOAT_BYTES
        header[name] = {"dtype": "F32", "shape": [size], "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return memoryview(len(text).to_bytes(8, "little") + text)


def _place(facts: Mapping[str, Any], first: int, size: int) -> Place:
    """Return the place that a header states. Raises ValueError, KeyError or TypeError for one that cannot be."""
    start, end = facts["data_offsets"]
    if facts["dtype"] == "F32" and prod(facts["shape"]) * FLOAT_BYTES != end - start:
        raise ValueError
    if not 0 <= start <= end <= size - first:
        raise ValueError
    return Place(first + start, str(facts["dtype"]), tuple(facts["shape"]))


def _cover(reads: Sequence[Read], size: int) -> Iterator[Read]:
    """Yield reads of the whole file in order and in chunks, those that were asked for among them."""
    scratch = memoryview(bytearray(min(CHUNK_BYTES, size)))
    end = 0
    for one in (*reads, Read(size, memoryview(b""))):
        assert end <= one.offset, "two reads overlap"
        for start in range(end, one.offset, CHUNK_BYTES):
            yield Read(start, scratch[: one.offset - start])
        offset = one.offset
        for chunk in _chunks([one.into]):
            yield Read(offset, chunk)
            offset += len(chunk)
        end = offset


def _chunks(parts: Iterable[memoryview]) -> Iterator[memoryview]:
    for part in parts:
        for start in range(0, len(part), CHUNK_BYTES):
            yield part[start : start + CHUNK_BYTES]


def _fill(descriptor: int, into: memoryview, offset: int) -> None:
    while len(into):
        count = os.preadv(descriptor, [into], offset)
        if not count:
            raise UserError(f"a file ends at byte {offset}, before its last value")
        into, offset = into[count:], offset + count
