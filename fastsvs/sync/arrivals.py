"""Arrivals at a rollout worker: whole buckets by broadcast, or the worker's blocks of them from several ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Protocol

import torch
from torch import Tensor

from fastsvs.buckets import Bucket
from fastsvs.sync.deltas import HEAD_BYTES, Decoder, Head
from fastsvs.sync.group import Group
from fastsvs.sync.memory import Pool
from fastsvs.sync.messages import Message, settle
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
    """Function from packets to the bucket, [bytes] uint8."""
    decode: Callable[[Sequence[Tensor]], Sequence[Tensor]] = tuple
    """Function from what arrives to packets."""

    def complete(self, check: Callable[[], None]) -> Arrival:
        """Wait for it, and return it as packets. Raises what `settle` raises, and ValueError for what is none."""
        settle(self.works, check)
        return self.with_buffers(self.decode(self.buffers))

    def lay_out(self) -> Tensor:
        """Return the bucket in memory that nobody else has a view of."""
        return self.build(self.buffers)

    def laid_out(self) -> Arrival:
        """Return the same bucket, which has arrived and is laid out now."""
        return laid_out(self.lay_out())

    def with_buffers(self, buffers: Sequence[Tensor]) -> Arrival:
        """Return the same bucket, which has arrived, in other memory."""
        return Arrival((), buffers, self.build)


def laid_out(bucket: Tensor) -> Arrival:
    """Return the arrival of a bucket [bytes] uint8 that is there as it is loaded."""
    return Arrival((), [bucket], itemgetter(0))


@dataclass(frozen=True, slots=True)
class Checked:
    """Values whose checksum the sender knows."""

    source: str
    """Who sent them: the end of the store's key for the checksums."""
    name: str
    """Name of their tensor."""
    values: Tensor


def tensors_of(bucket: Bucket, buffers: Sequence[Tensor]) -> Iterator[Checked]:
    """Yield the whole tensors of a bucket that lies in one buffer, which the main rank sent."""
    return (Checked("", name, tensor) for name, tensor in bucket.views(buffers[0]))


class Arrivals(Protocol):
    """Way in which buckets arrive."""

    def prepare(self, buckets: Sequence[Bucket]) -> None:
        """Expect these buckets from now on."""

    def begin(self, index: int, check: Callable[[], None]) -> Arrival:
        """Begin to receive a bucket. Buckets begin in order. Raises what `settle` raises."""

    def checked(self, index: int, buffers: Sequence[Tensor]) -> Iterator[Checked]:
        """Yield what has a checksum, of a bucket that arrived in `buffers`, in the order in which it was sent."""

    def close(self) -> None: ...


class Whole:
    """Whole tensors, which the main rank sends to all workers."""

    def __init__(self, group: Group, pool: Pool) -> None:
        self._group, self._pool = group, pool
        self._buckets: Sequence[Bucket] = ()

    def prepare(self, buckets: Sequence[Bucket]) -> None:
        self._buckets = buckets

    def begin(self, index: int, check: Callable[[], None]) -> Arrival:
        bucket = self._buckets[index]
        buffer = self._pool.take(bucket.nbytes)
        places = buffer.split([piece.nbytes for piece in bucket.pieces()])
        return Arrival([self._group.broadcast(place) for place in places], [buffer], self._build)

    def checked(self, index: int, buffers: Sequence[Tensor]) -> Iterator[Checked]:
        return tensors_of(self._buckets[index], buffers)

    def close(self) -> None:
        self._group.abandon()

    def _build(self, buffers: Sequence[Tensor]) -> Tensor:
        return buffers[0].to(self._pool.device)


class Blocks:
    """The blocks of tensors that a worker loads, from the ranks of the trainer that hold them.

    A bucket is laid out with whole tensors, of which only the worker's blocks are filled: its engine takes no more of
    them. Until `trusted` is set the rest is NaN, which shows in the engine's weights if it takes more after all.
    """

    def __init__(self, group: Group, pool: Pool, moves: Sequence[Move], decoder: Decoder | None) -> None:
        """Receive what `moves` say; messages have heads, and hold changes, where there is a decoder."""
        self._group, self._pool, self._moves, self._decoder = group, pool, moves, decoder
        self._take = pool.take if decoder is None else decoder.take
        self._heads_coming: tuple[list[Message], list[Tensor]] = [], []
        self._buckets: Sequence[Bucket] = ()
        self._packets: list[list[Packet]] = []
        self.trusted = False

    def prepare(self, buckets: Sequence[Bucket]) -> None:
        if buckets != self._buckets:
            self._buckets, self._packets = buckets, packets(self._moves, buckets)

    def begin(self, index: int, check: Callable[[], None]) -> Arrival:
        bucket, of_bucket = self._buckets[index], self._packets[index]
        build = partial(self._lay_out, bucket, of_bucket)
        if self._decoder is None:
            return Arrival(*self._receive(index, [packet_bytes(packet, bucket) for packet in of_bucket]), build)
        heads = self._heads(index, check)
        decode = partial(self._decode, self._decoder, index, heads)
        return Arrival(*self._receive(index, [head.nbytes for head in heads]), build, decode)

    def checked(self, index: int, buffers: Sequence[Tensor]) -> Iterator[Checked]:
        bucket = self._buckets[index]
        for packet, buffer in zip(self._packets[index], buffers, strict=True):
            for (place, _), values in zip(packet.blocks, pieces(buffer, packet, bucket), strict=True):
                yield Checked(f"/{packet.sender}/{packet.worker}", bucket.tensors[place].name, values)

    def close(self) -> None:
        self._group.abandon()

    def _heads(self, index: int, check: Callable[[], None]) -> list[Head]:
        """Return the heads of a bucket's messages, and have those of the next one come before its messages."""
        if index == 0:
            self._heads_coming = self._receive(0, [HEAD_BYTES] * len(self._packets[0]))
        works, written = self._heads_coming
        settle(works, check)
        if index + 1 < len(self._packets):
            self._heads_coming = self._receive(index + 1, [HEAD_BYTES] * len(self._packets[index + 1]))
        return [Head.read(head) for head in written]

    def _receive(self, index: int, sizes: Sequence[int]) -> tuple[list[Message], list[Tensor]]:
        """Begin to receive a message of so many bytes from each sender of a bucket's packets."""
        buffers = [self._take(size) for size in sizes]
        senders = [packet.sender for packet in self._packets[index]]
        return [self._group.receive(b, sender) for b, sender in zip(buffers, senders, strict=True)], buffers

    def _decode(self, decoder: Decoder, index: int, heads: Sequence[Head], messages: Sequence[Tensor]) -> list[Tensor]:
        return [
            decoder.decode((index, packet.sender), head, message)
            for packet, head, message in zip(self._packets[index], heads, messages, strict=True)
        ]

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
