"""The pieces in the files of a checkpoint: flat fp32 stretches of each shard, found, checked and read.

A piece is called `quantity/parameter/rank among its parts/start`; `training_state` says what the parts are. Only the
stretches that are asked for are read, whatever the layouts of writer and reader.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from fastsvs.architecture import Architecture
from fastsvs.errors import UserError
from fastsvs.policy import tensor_file
from fastsvs.policy.degrees import Degrees
from fastsvs.policy.learned import learned_entries, megatron_shapes
from fastsvs.policy.mapping import Entry, Shape
from fastsvs.policy.regions import Range, Region, shard_region, spans, tensor_region, whole_shapes
from fastsvs.policy.tensor_file import FLOAT_BYTES, Place, Read

MASTER = "master"
MOMENTS = ("exp_avg", "exp_avg_sq")
PIECE = re.compile(r"(?P<shard>.+/\d+)/(?P<start>\d+)")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a shard in a file."""

    start: int
    """Place of its first value in the flat shard."""
    size: int
    """Number of values."""
    file: int
    """Number of the file among those of the index."""
    key: str
    """Name in the file."""
    place: Place


class PieceIndex:
    """Index of where each stretch of each shard lies."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Read the headers of the files. Raises UserError for one that cannot be read, or for a tensor that is no
        piece."""
        self.files = list(files)
        self._pieces: dict[str, list[Piece]] = {}
        for number, file in enumerate(files):
            for key, place in tensor_file.read_header(file).items():
                match = PIECE.fullmatch(key)
                if match is None:
                    raise UserError(f"{file.name} holds {key!r}, which is no piece of a checkpoint")
                piece = Piece(int(match["start"]), prod(place.shape), number, key, place)
                self._pieces.setdefault(match["shard"], []).append(piece)
        for pieces in self._pieces.values():
            pieces.sort(key=lambda piece: piece.start)

    def check(self, architecture: Architecture, degrees: Degrees, updates: int) -> None:
        """Check that the pieces make up all shards, and nothing else, of a policy after `updates` updates that was
        written at these `degrees`. Reads headers alone. Raises UserError for what is missing or different."""
        if any(size % degrees.tensor for size in architecture.tensor_sizes.values()):
            raise UserError(f"tensor_parallel={degrees.tensor} does not divide this model")
        if architecture.experts and architecture.experts.ffn % degrees.expert_tensor:
            raise UserError(f"expert_tensor_parallel={degrees.expert_tensor} does not divide this model's experts")
        shards = dict(_shards(architecture, degrees))
        quantities = (MASTER, *MOMENTS) if updates else (MASTER,)
        expected = {f"{quantity}/{shard}": shape for quantity in quantities for shard, shape in shards.items()}
        for shard in sorted(self._pieces.keys() - expected.keys()):
            raise UserError(f"{shard} has no place in a policy of this model after {updates} updates")
        for shard, shape in expected.items():
            self._check_shard(shard, torch.Size(shape).numel())

    def reads(self, shard: str, start: int, into: memoryview) -> Iterator[tuple[int, Read]]:
        """Yield what to read, each with the number of its file, for the values of a shard from `start` on to fill
        `into`. The index must have been checked."""
        end = start + len(into) // FLOAT_BYTES
        pieces = self._pieces[shard]
        for piece in pieces[bisect_right(pieces, start, key=lambda piece: piece.start) - 1 :]:
            low, high = max(start, piece.start), min(end, piece.start + piece.size)
            if low >= high:
                return
            memory = into[(low - start) * FLOAT_BYTES : (high - start) * FLOAT_BYTES]
            yield piece.file, Read(piece.place.offset + (low - piece.start) * FLOAT_BYTES, memory)

    def _check_shard(self, shard: str, size: int) -> None:
        end = 0
        for piece in self._pieces.get(shard, []):
            shape, dtype = list(piece.place.shape), piece.place.dtype
            if dtype != "F32" or len(shape) != 1:
                raise UserError(f"{piece.key} is {dtype} of shape {shape}, it must be F32 in one dimension")
            if piece.start != end:
                raise UserError(f"{piece.key} begins at {piece.start} instead of {end}")
            end += piece.size
        if end != size:
            raise UserError(f"there are {end} of {size} values of {shard}")


class Quantity:
    """One quantity of a checkpoint, such as the masters, that was written at some degrees of parallelism."""

    def __init__(self, index: PieceIndex, name: str, architecture: Architecture, degrees: Degrees) -> None:
        self.index = index
        self._name = name
        self._architecture = architecture
        self._degrees = degrees
        self._shapes = whole_shapes(architecture)

    def reads(self, entry: Entry, region: Region, wanted: Range, into: memoryview) -> Iterator[tuple[int, Read]]:
        """Yield what to read, each with the number of its file, to bring the values `wanted` of a region to their
        places in `into`. The entry is one of the whole network."""
        parts = self._degrees.parts(entry)
        for rank in range(1 if entry.cut is None else parts):
            source = shard_region(self._architecture, entry, self._shapes[entry.name], parts, rank)
            for here, there, count in spans(region, wanted, source):
                place = (here - wanted[0]) * FLOAT_BYTES
                memory = into[place : place + count * FLOAT_BYTES]
                yield from self.index.reads(f"{self._name}/{entry.name}/{rank}", there, memory)


class SavedTensors:
    """One quantity of a checkpoint as a `WeightSource` of Hugging Face tensors."""

    def __init__(
        self,
        index: PieceIndex,
        quantity: str,
        architecture: Architecture,
        degrees: Degrees,
        check: Callable[[Path], None] | None = None,
    ) -> None:
        """Read the `quantity` from the files of `index`. `check` is called before a file is read, and raises an
        exception where the file must not be trusted."""
        self._name = quantity
        self._quantity = Quantity(index, quantity, architecture, degrees)
        self._architecture = architecture
        self._check = check
        self._shapes = whole_shapes(architecture)
        self._owners = {name: entry for entry in learned_entries(architecture, Degrees()) for name in entry.sources}

    def read(self, name: str, cut: int | None, start: int, end: int) -> Tensor:
        """Read a tensor or a part of it; see `WeightSource`."""
        entry = self._owners[name]
        shape = self._shapes[entry.name]
        region = tensor_region(self._architecture, entry, shape, name, cut, start, end)
        values = torch.empty(region.size)
        reads: dict[int, list[Read]] = {}
        for number, read in self._quantity.reads(entry, region, (0, region.size), memory_of(values)):
            reads.setdefault(number, []).append(read)
        for number, wanted in reads.items():
            file = self._quantity.index.files[number]
            if self._check:
                self._check(file)
            tensor_file.read(file, wanted)
        check_finite(values, f"{self._name}/{entry.name}")
        rest = shape[2:]
        return values.view(-1, region.width // prod(rest), *rest) if len(shape) > 1 else values


def state_bytes(architecture: Architecture, degrees: Degrees) -> int:
    """Return the number of bytes of masters and moments in a checkpoint that is written at these `degrees`. Headers
    and manifest come on top."""
    values = sum(prod(shape) for _, shape in _shards(architecture, degrees))
    return (1 + len(MOMENTS)) * values * FLOAT_BYTES


def check_finite(values: Tensor, shard: str) -> None:
    """Raise UserError for values that are not finite."""
    if not values.isfinite().all():
        raise UserError(f"the checkpoint holds values of {shard} that are NaN or infinite: take an earlier one")


def memory_of(tensor: Tensor) -> memoryview:
    """Return the memory of a flat CPU tensor as bytes."""
    return tensor.view(torch.uint8).numpy().data


def _shards(architecture: Architecture, degrees: Degrees) -> Iterator[tuple[str, Shape]]:
    """Yield `parameter/rank among its parts` and shape of every shard of what learns in the whole network."""
    cut = degrees.cuts()
    shapes = megatron_shapes(architecture, cut, 0)
    for entry in learned_entries(architecture, cut):
        for rank in range(1 if entry.cut is None else cut.parts(entry)):
            yield f"{entry.name}/{rank}", shapes[entry.name]
