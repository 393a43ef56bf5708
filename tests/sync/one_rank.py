"""A policy on one rank, whose tensors a fleet is held to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from receiving_fleet import Fleet
from torch import Tensor

from fastsvs.blocks import Block
from fastsvs.buckets import Bucket, TensorSpec
from fastsvs.config import SyncConfig

NAMES = ["embedding", "norm", "layer.0", "layer.1", "layer.2", "head"]
CONFIG = SyncConfig(bucket_bytes=4000, timeout_seconds=20.0)


@dataclass
class Rows:
    """All values on one rank, and neighbouring rows of them on a server's workers."""

    tensors: dict[str, Tensor]

    def held(self) -> dict[str, Block]:
        return self.served(1, 0)

    def values(self, names: Collection[str]) -> dict[str, Tensor]:
        return {name: self.tensors[name] for name in names}

    def served(self, tensor_parallel: int, rank: int) -> dict[str, Block]:
        cut = {
            name: [len(tensor) * r // tensor_parallel for r in (rank, rank + 1)]
            for name, tensor in self.tensors.items()
        }
        return {name: Block.whole(tuple(self.tensors[name].shape)).along(0, *rows) for name, rows in cut.items()}


class Tensors:
    """A policy on one rank."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.values = {name: torch.randn(50 + 7 * i, 11, generator=generator) for i, name in enumerate(NAMES)}

    def weight_specs(self) -> list[TensorSpec]:
        return [TensorSpec(name, tuple(value.shape), value.dtype) for name, value in self.values.items()]

    def stream_weights(self, buckets: Sequence[Bucket], slots: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        for index, bucket in enumerate(buckets):
            buffer = slots[index % 2][: bucket.nbytes]
            for name, view in bucket.views(buffer):
                view.copy_(self.values[name])
            yield list(buffer.split([piece.nbytes for piece in bucket.pieces()]))

    def weight_blocks(self) -> Rows:
        return Rows(self.values)

    def train(self) -> None:
        for value in self.values.values():
            value += 1


def assert_holds(fleet: Fleet, source: Tensors, folder: Path) -> None:
    for name in fleet.running:
        for worker in fleet.tensors(name, folder):
            assert list(worker) == NAMES
            assert all(torch.equal(worker[tensor], source.values[tensor]) for tensor in NAMES)
