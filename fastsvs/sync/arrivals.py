"""Arrivals at a rollout worker: whole buckets by broadcast, or the worker's blocks of them from several ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fastsvs.buckets import Bucket
from fastsvs.sync.group import Group
from fastsvs.sync.memory import Pool
from fastsvs.sync.messages import Message
from fastsvs.sync.moves import Move, Packet, packet_bytes, packets, pieces

Named = list[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A bucket on its way."""

    works: Sequence[Message]
    """Operations that have to end first."""
    buffers: Sequence[Tensor]
    """Memory that it arrives in, [bytes] uint8 each."""
    build: Callable[[Sequence[Tensor]], Tensor]
    """Function from what has arrived to the bucket, [bytes] uint8."""

    def lay_out(self) -> Tensor:
        """Return the bucket in memory that nobody else has a view of."""
        return self.build(self.buffers)

    def with_buffers(self, buffers: Sequence[Tensor]) -> Arrival:
        """Return the same bucket, which has arrived, in other memory."""
        return Arrival((), buffers, self.build)


@dataclass(frozen=True, slots=True)
class Checked:
    """Values whose checksum the sender knows."""

    source: str
    """Who sent them: the end of the store's key for the checksums."""
    name: str
    """Name of their tensor."""
    values: Tensor


class Arrivals(Protocol):
    """Way in which buckets arrive."""

    def prepare(self, buckets: Sequence[Bucket]) -> None:
        """Expect these buckets from now on."""

    def begin(self, index: int) -> Arrival:
        """Begin to receive a bucket. Buckets begin in order."""

    def checked(self, index: int, tensors: Named) -> Iterator[Checked]:
        """Yield what has a checksum, of the tensors of a bucket, in the order in which it was sent."""

    def close(self) -> None: ...


class Whole:
    """Whole tensors, which the main rank sends to all workers."""

    def __init__(self, group: Group, pool: Pool) -> None:
        self._group, self._pool = group, pool
        self._buckets: Sequence[Bucket] = ()

    def prepare(self, buckets: Sequence[Bucket]) -> None:
        self._buckets = buckets

    def begin(self, index: int) -> Arrival:
        bucket = self._buckets[index]
        buffer = self._pool.take(bucket.nbytes)
        places = buffer.split([piece.nbytes for piece in bucket.pieces()])
        return Arrival([self._group.broadcast(place) for place in places], [buffer], self._build)

    def checked(self, index: int, tensors: Named) -> Iterator[Checked]:
        return (Checked("", name, tensor) for name, tensor in tensors)

    def close(self) -> None:
        self._group.abandon()

    def _build(self, buffers: Sequence[Tensor]) -> Tensor:
        return buffers[0].to(self._pool.device)


class Blocks:
    """The blocks of tensors that a worker loads, from the ranks of the trainer that hold them.

    A bucket is laid out with whole tensors, of which only the worker's blocks are filled: its engine takes no more of
    them. Until `trusted` is set the rest is NaN, which shows in the engine's weights if it takes more after all.
    """

    def __init__(self, group: Group, pool: Pool, moves: Sequence[Move]) -> None:
        self._group, self._pool, self._moves = group, pool, moves
        self._buckets: Sequence[Bucket] = ()
        self._packets: list[list[Packet]] = []
        self.trusted = False

    def prepare(self, buckets: Sequence[Bucket]) -> None:
        if buckets != self._buckets:
            self._buckets, self._packets = buckets, packets(self._moves, buckets)

    def begin(self, index: int) -> Arrival:
        bucket, of_bucket = self._buckets[index], self._packets[index]
        buffers = [self._pool.take(packet_bytes(packet, bucket)) for packet in of_bucket]
        works = [self._group.receive(b, packet.sender) for packet, b in zip(of_bucket, buffers, strict=True)]
        return Arrival(works, buffers, lambda arrived: self._lay_out(bucket, of_bucket, arrived))

    def checked(self, index: int, tensors: Named) -> Iterator[Checked]:
        for packet in self._packets[index]:
            for place, block in packet.blocks:
                name, tensor = tensors[place]
                yield Checked(f"/{packet.sender}/{packet.worker}", name, block.of(tensor))

    def close(self) -> None:
        self._group.abandon()

    def _lay_out(self, bucket: Bucket, of_bucket: Sequence[Packet], buffers: Sequence[Tensor]) -> Tensor:
        whole = self._pool.take(bucket.nbytes)
        tensors = [tensor for _, tensor in bucket.views(whole)]
        if not self.trusted:
            for tensor in tensors:
                tensor.fill_(torch.nan)
        for packet, buffer in zip(of_bucket, buffers, strict=True):
            for (place, block), values in zip(packet.blocks, pieces(buffer, packet, bucket), strict=True):
                block.of(tensors[place]).copy_(values)
        return whole
