"""The rollout worker's half of an update, whatever engine it lives in: join, receive buckets, load them, check sums."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from fastsvs.buckets import Bucket, checksum, plan_buckets, read_specs
from fastsvs.network import local_address
from fastsvs.shared_memory import device_key, open_memory
from fastsvs.sync.arrivals import Arrival, Arrivals, Blocks, Checked, Named, Whole, laid_out, tensors_of
from fastsvs.sync.calls import Deadline, wait_until
from fastsvs.sync.deltas import Decoder
from fastsvs.sync.group import Group, announce, give_up, given_up, join_store, route_key, tell_staged
from fastsvs.sync.memory import Pool
from fastsvs.sync.moves import Move, read_moves
from fastsvs.sync.staging import Staging

Load = Callable[[Named], object]
Sums = dict[str, list[tuple[str, int]]]
"""Names and checksums by who sent the values, in the order in which they were sent."""
MISMATCH = "checksums differ between trainer and server:"


@dataclass(frozen=True)
class Seat:
    """Place of a worker in its server, which says what part of each tensor it has."""

    worker: int
    """Number of the worker among its server's workers."""
    tensor_rank: int = 0
    """Rank in the server's tensor parallelism."""
    tensor_parallel: int = 1
    """Number of ranks of the server's tensor parallelism."""


@dataclass(kw_only=True)
class InitInfo:
    """The facts by which a worker finds the trainer. Its rank is `rank_offset` + its own number among its server's
    workers, in a group of the trainer's main rank and all workers."""

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int
    bucket_bytes: int
    timeout_seconds: float
    senders: int = 0
    """Number of ranks that may send what they hold. The store then says whether they do, and what to this worker, whose
    rank follows theirs; 0 where the main rank sends whole tensors in any case."""
    sparse: bool = False
    """True where ranks may send changes of what they sent before."""


@dataclass(kw_only=True)
class UpdateInfo:
    """Description of the tensors that are about to be sent."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    update: int
    """Number of the update within the group."""
    verify: bool = False
    handles: dict[str, list[dict]] = field(default_factory=dict)
    """Handles of the sender's two slots by device, for shared memory alone."""


class BroadcastReceiver:
    """A receiver of whole tensors from the trainer's main rank, or of blocks of them from all its ranks.

    The next bucket arrives while one is loaded.
    """

    _staging: Staging | None = None

    def __init__(self, info: InitInfo, seat: Seat, device: torch.device) -> None:
        self._join(info, seat, device)
        self._arrivals = self._connect()

    @property
    def blocks(self) -> Blocks | None:
        """Return the receiver of blocks, where this worker does not get whole tensors."""
        return self._arrivals if isinstance(self._arrivals, Blocks) else None

    def receive(self, info: UpdateInfo, load: Load) -> None:
        """Receive all buckets, or take those that `stage` received, and load them. Raises ValueError when a tensor did
        not arrive as it was sent, TimeoutError or ConnectionError when not all came; then the group is of no more
        use."""
        buckets, check = self._cut(info), self._checks()
        staging, self._staging = self._staging, None
        staged = staging is not None and staging.update == info.update
        arrivals = staging.arrived(check) if staging and staged else self._arrivals_of(info, buckets, check)
        for arrival, bucket in zip(arrivals, buckets, strict=True):
            load(bucket.views(arrival.lay_out()))

    def stage(self, info: UpdateInfo) -> None:
        """Begin to receive all buckets into spare memory, on a thread. The trainer hears of the end, and of a
        failure."""
        arriving = self._arrivals_of(info, self._cut(info), self._checks())
        done = partial(tell_staged, self._store, info.update)
        self._staging = Staging(info.update, arriving, self._device, self._lays_out_ahead, done, self._give_up)

    def close(self) -> None:
        self._closed = True
        self._arrivals.close()

    def _join(self, info: InitInfo, seat: Seat, device: torch.device) -> None:
        self._info, self._rank, self._device = info, info.rank_offset + seat.worker, device
        self._pool = Pool(device)
        self._store = join_store(info.master_address, info.master_port, info.timeout_seconds)
        self._given_up = given_up(self._store)
        self._closed = False
        announce(self._store, self._rank, [seat.tensor_rank, seat.tensor_parallel])

    def _connect(self) -> Arrivals:
        info, address = self._info, local_address(self._info.master_address)
        common = (address, info.timeout_seconds, self._device, self._given_up)
        moves = self._route()
        if moves is None:
            return Whole(Group(self._store, self._rank, info.world_size, *common), self._pool)
        further = info.senders - 1
        peers = sorted({move.sender for move in moves})
        group = Group(self._store, self._rank + further, info.world_size + further, *common, peers=peers)
        return Blocks(group, self._pool, moves, Decoder(self._device) if info.sparse else None)

    def _route(self) -> list[Move] | None:
        """Return the moves to this worker; None where the main rank sends whole tensors."""
        if not self._info.senders:
            return None
        key = route_key(self._rank)
        wait_until(lambda: self._store.check([key]), self._checks())
        told = json.loads(self._store.get(key))
        return None if told is None else read_moves(told, self._rank - 1)

    @property
    def _lays_out_ahead(self) -> bool:
        """Return True where buckets that wait lie there as they are loaded. On a GPU that takes the memory of the whole
        model, and copying takes little time; on a CPU it takes as much only where the rest is to be NaN."""
        return self._device.type == "cpu" and (self.blocks is None or self.blocks.trusted)

    def _arrivals_of(self, info: UpdateInfo, buckets: Sequence[Bucket], check: Callable[[], None]) -> Iterator[Arrival]:
        """Yield each bucket when it has arrived, and compare checksums at the end where the update says so."""
        sums: Sums = defaultdict(list)
        for index, arrival in enumerate(self._arriving(info, buckets, check)):
            for part in self._checked(index, buckets[index], arrival.buffers) if info.verify else ():
                sums[part.source].append((part.name, checksum(part.values)))
            yield arrival
        for source, found in sums.items():
            key = f"sums/{info.update}{source}"
            wait_until(lambda key=key: self._store.check([key]), check)  # type: ignore[misc]
            compare(found, json.loads(self._store.get(key)))

    def _arriving(self, info: UpdateInfo, buckets: Sequence[Bucket], check: Callable[[], None]) -> Iterator[Arrival]:
        """Yield each bucket when it has arrived; the next one is on its way then."""
        self._arrivals.prepare(buckets)
        check()
        incoming = self._arrivals.begin(0, check)
        for following in [*range(1, len(buckets)), None]:
            arrival = incoming
            check()
            if following is not None:
                incoming = self._arrivals.begin(following, check)
            yield arrival.complete(check)

    def _cut(self, info: UpdateInfo) -> list[Bucket]:
        return plan_buckets(read_specs(info.names, info.dtype_names, info.shapes), self._info.bucket_bytes)

    def _checks(self) -> Callable[[], None]:
        """Return a check for an operation that begins now."""
        deadline = Deadline(self._info.timeout_seconds)

        def check() -> None:
            deadline.check()
            self._given_up()
            if self._closed:
                raise ConnectionAbortedError("this rank has left the group")

        return check

    def _give_up(self, reason: str) -> None:
        with suppress(RuntimeError):  # the trainer is gone
            give_up(self._store, f"worker {self._rank}: {reason}")

    def _checked(self, index: int, bucket: Bucket, buffers: Sequence[Tensor]) -> Iterator[Checked]:
        return self._arrivals.checked(index, buffers)


class MemoryReceiver(BroadcastReceiver):
    """A receiver of buckets in memory that the trainer shares: on the same GPU, or on CPUs on the same machine."""

    def __init__(self, info: InitInfo, seat: Seat, device: torch.device) -> None:
        self._join(info, seat, device)

    @property
    def blocks(self) -> None:
        return None

    def close(self) -> None:
        pass

    def _checked(self, index: int, bucket: Bucket, buffers: Sequence[Tensor]) -> Iterator[Checked]:
        return tensors_of(bucket, buffers)

    def _arriving(self, info: UpdateInfo, buckets: Sequence[Bucket], check: Callable[[], None]) -> Iterator[Arrival]:
        key = device_key(self._device)
        if key not in info.handles:
            raise ValueError(f"no trainer process shares memory with {key}; there are: {', '.join(info.handles)}")
        slots = [open_memory(handle, self._device) for handle in info.handles[key]]
        for index, bucket in enumerate(buckets):
            place = f"{info.update}/{index}"
            wait_until(lambda ready=f"ready/{place}": self._store.check([ready]), check)  # type: ignore[misc]
            buffer = self._pool.take(bucket.nbytes).copy_(slots[index % 2][: bucket.nbytes])
            if buffer.is_cuda:
                torch.cuda.synchronize(buffer.device)
            if self._store.add(f"count/{place}", 1) == self._info.world_size - 1:
                self._store.set(f"taken/{place}", "")
            yield laid_out(buffer)


def compare(found: Sequence[tuple[str, int]], expected: Sequence[int]) -> None:
    """Raise ValueError with the names of the tensors whose checksums differ."""
    differing = list(dict.fromkeys(name for (name, a), b in zip(found, expected, strict=True) if a != b))
    if differing:
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise ValueError(f"{MISMATCH} {', '.join(differing[:5])}{more}")
