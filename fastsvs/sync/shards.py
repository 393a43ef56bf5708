"""The trainer's half of an update from shard to shard: every rank sends the blocks that it holds to the workers that
load them. The main rank plans; nothing is gathered there."""

from __future__ import annotations

import json
import os
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import torch
from torch import Tensor
from torch.distributed import TCPStore

from fastsvs import distributed
from fastsvs.blocks import Block
from fastsvs.buckets import TensorSpec, checksum, plan_buckets
from fastsvs.config import SyncConfig
from fastsvs.network import local_address
from fastsvs.sync.calls import Deadline
from fastsvs.sync.deltas import Encoder, Outgoing, Traffic
from fastsvs.sync.group import Group, give_up, given_up, join_store
from fastsvs.sync.memory import Pool
from fastsvs.sync.messages import Message, settle
from fastsvs.sync.moves import Blocks, Move, Packet, packet_bytes, packets, pays, pieces, plan_moves, spread_order

Check = Callable[[], None]
Sums = dict[int, list[int]]
"""Checksums by worker."""


class BlockSource(Protocol):
    """Weights of which each rank holds blocks."""

    def held(self) -> Mapping[str, Block]:
        """Return this rank's block of every tensor that it has a part of."""

    def values(self, names: Collection[str]) -> Mapping[str, Tensor]:
        """Return this rank's blocks of those of the tensors `names` that it has a part of, as they are now."""

    def served(self, tensor_parallel: int, rank: int) -> Mapping[str, Block]:
        """Return the block of every tensor that a worker loads which is `rank` of a server's tensor parallelism."""


@dataclass(frozen=True)
class Invitation:
    """Facts by which a rank joins the group of an update from shard to shard."""

    address: str
    port: int
    size: int
    """Number of ranks of the group: the trainer's, then the workers."""
    moves: Sequence[Move]


class Shards:
    """One rank's part in updates from shard to shard. All ranks create it together."""

    def __init__(
        self, source: BlockSource, specs: Sequence[TensorSpec], config: SyncConfig, device: torch.device
    ) -> None:
        self._source, self._config, self._device = source, config, device
        self._own = source.held()
        told = distributed.gather((self._own, local_address(os.environ.get("MASTER_ADDR", "127.0.0.1"))))
        self._held: list[Blocks] = [blocks for blocks, _ in told]
        self.addresses = [address for _, address in told]
        """Addresses of the ranks, which must reach the store of an update."""
        self.specs = spread_order(specs, self._held)
        self.buckets = plan_buckets(self.specs, config.bucket_bytes)
        self._pool = Pool(device)
        self._group: Group | None = None
        self._store: TCPStore | None = None
        self._packets: list[list[Packet]] = []
        self._encoder: Encoder | None = None

    @property
    def traffic(self) -> Traffic | None:
        """Return what this rank sent in the last update; None where packets always go whole."""
        return None if self._encoder is None else self._encoder.traffic

    def plan(self, seats: Sequence[tuple[int, int]]) -> list[Move] | None:
        """Return the moves to workers with these (rank, size) in tensor parallelism, or None where a broadcast is to be
        preferred."""
        wanted = [self._source.served(size, rank) for rank, size in seats]
        moves = plan_moves(self.specs, self._held, wanted)
        return moves if pays(moves, self.specs) else None

    def join(self, invitation: Invitation, check: Check) -> None:
        """Join the group, and wait until all its ranks have. Raises what `check` raises, OSError and RuntimeError."""
        self.close()
        rank = distributed.rank()
        moves = [move for move in invitation.moves if move.sender == rank]
        self._packets = packets(moves, self.buckets)
        if self._config.sparse != "never":
            self._encoder = Encoder(self._pool, always=self._config.sparse == "always")
        self._store = join_store(invitation.address, invitation.port, self._config.timeout_seconds)
        self._given_up = given_up(self._store)
        peers = sorted({distributed.world_size() + move.worker for move in moves})
        address, timeout = local_address(invitation.address), self._config.timeout_seconds
        self._group = Group(
            self._store, rank, invitation.size, address, timeout, self._device, self._checks(check), peers=peers
        )

    def send(self, update: int, check: Check) -> None:
        """Send this rank's blocks. Raises what `check` raises, and OSError or RuntimeError when they did not arrive."""
        began, check = perf_counter(), self._checks(check)
        sums: Sums | None = defaultdict(list) if self._config.verify else None
        under_way: deque[list[Message]] = deque()
        for messages in self._messages(update, sums):
            under_way.append([self._send(message, worker) for worker, message in messages])
            while len(under_way) > 1:
                settle(under_way.popleft(), check)
        settle(under_way.popleft(), check)
        if self._encoder is not None:
            self._encoder.end(perf_counter() - began)
        self._tell(update, sums or {})

    def give_up(self, reason: str) -> None:
        """Have the workers and the other ranks give the update up, and leave the group."""
        if self._store is not None:
            with suppress(RuntimeError):  # the store ends with the main rank's part in the update
                give_up(self._store, reason)
        self.close()

    def close(self) -> None:
        if self._group is not None:
            self._group.abandon()
        self._group = self._store = self._encoder = None

    def _messages(self, update: int, sums: Sums | None) -> Iterator[Iterable[tuple[int, Tensor]]]:
        """Yield messages that go at a time, with their workers: the packets of a bucket. Encoded ones come with the
        heads of the next bucket's before them, as a worker that waited for these would leave its link idle."""
        if self._encoder is None:
            for index in range(len(self.buckets)):
                yield ((packet.worker, packet.values) for packet in self._pack(index, sums))
            return
        self._encoder.begin(update)
        before: list[tuple[int, Tensor]] = []
        for index in range(len(self.buckets)):
            packets = list(self._pack(index, sums))
            workers, encoded = [packet.worker for packet in packets], self._encoder.encode(packets)
            heads = [head.written(self._device) for head, _ in encoded]
            yield [*zip(workers, heads, strict=True), *before]
            before = list(zip(workers, (message for _, message in encoded), strict=True))
        yield before

    def _pack(self, index: int, sums: Sums | None) -> Iterator[Outgoing]:
        """Yield the packets of a bucket."""
        bucket, of_bucket = self.buckets[index], self._packets[index]
        values = self._source.values({bucket.tensors[place].name for p in of_bucket for place, _ in p.blocks})
        for packet in of_bucket:
            buffer = self._pool.take(packet_bytes(packet, bucket))
            parts = {}
            for (place, block), piece in zip(packet.blocks, pieces(buffer, packet, bucket), strict=True):
                spec = bucket.tensors[place]
                found = values[spec.name]
                if found.dtype != spec.dtype:
                    raise ValueError(f"the weights do not match what was announced: {spec} is {found.dtype}")
                parts[spec.name, block] = piece.copy_(block.within(self._own[spec.name]).of(found))
                if sums is not None:
                    sums[packet.worker].append(checksum(piece))
            yield Outgoing(packet.worker, buffer, parts)

    def _send(self, message: Tensor, worker: int) -> Message:
        assert self._group is not None
        return self._group.send(message, distributed.world_size() + worker)

    def _tell(self, update: int, sums: Sums) -> None:
        assert self._store is not None
        for worker, found in sums.items():
            self._store.delete_key(_sums(update - 1, worker))
            self._store.set(_sums(update, worker), json.dumps(found))

    def _checks(self, check: Check) -> Check:
        deadline = Deadline(self._config.timeout_seconds)

        def all_checks() -> None:
            deadline.check()
            check()
            self._given_up()

        return all_checks


def _sums(update: int, worker: int) -> str:
    return f"sums/{update}/{distributed.rank()}/{worker}"
