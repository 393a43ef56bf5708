"""The rollout worker's half of an update, whatever engine it lives in: join, receive buckets, load them, check sums."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastsvs.buckets import Bucket, TensorSpec, checksum, plan_buckets, read_specs
from fastsvs.network import local_address
from fastsvs.sync.calls import Deadline, wait_until
from fastsvs.sync.group import Group, announce, given_up, join_store
from fastsvs.sync.memory import Pool, device_key, open_memory

Load = Callable[[list[tuple[str, Tensor]]], object]
MISMATCH = "checksums differ between trainer and server:"


@dataclass(kw_only=True)
class InitInfo:
    """The facts by which a worker finds the trainer. Its rank is `rank_offset` + its own number among its server's
    workers."""

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int
    bucket_bytes: int
    timeout_seconds: float


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
    """A receiver of buckets by broadcast: the next one arrives while one is loaded."""

    def __init__(self, info: InitInfo, worker: int, device: torch.device) -> None:
        self._join(info, worker, device)
        address = local_address(info.master_address)
        self._group = Group(
            self._store, self._rank, info.world_size, address, info.timeout_seconds, device, self._check
        )

    def receive(self, info: UpdateInfo, load: Load) -> None:
        """Receive all buckets and load them. Raises ValueError when a tensor did not arrive as it was sent,
        TimeoutError or ConnectionError when not all came; then the group is of no more use."""
        specs = read_specs(info.names, info.dtype_names, info.shapes)
        deadline = Deadline(self._info.timeout_seconds)

        def check() -> None:
            deadline.check()
            self._check()

        buckets = plan_buckets(specs, self._info.bucket_bytes)
        sums = load_buckets(buckets, self._buffers(info, buckets, check), load, info.verify)
        if info.verify:
            key = f"sums/{info.update}"
            wait_until(lambda: self._store.check([key]), check)
            compare(specs, sums, json.loads(self._store.get(key)))

    def close(self) -> None:
        self._group.abandon()

    def _join(self, info: InitInfo, worker: int, device: torch.device) -> None:
        self._info, self._rank, self._device = info, info.rank_offset + worker, device
        self._pool = Pool(device)
        self._store = join_store(info.master_address, info.master_port, info.timeout_seconds)
        self._check = given_up(self._store)
        announce(self._store, self._rank)

    def _buffers(self, info: UpdateInfo, buckets: Sequence[Bucket], check: Callable[[], None]) -> Iterator[Tensor]:
        """Yield each bucket in memory that no view is left of: an engine may keep views until it has a layer's other
        tensors."""
        incoming = self._begin(buckets[0])
        for following in [*buckets[1:], None]:
            works, buffer = incoming
            if following is not None:
                incoming = self._begin(following)
            for work in works:
                wait_until(work.is_completed, check)
                work.wait()
            yield buffer

    def _begin(self, bucket: Bucket) -> tuple[list[torch.distributed.Work], Tensor]:
        buffer = self._pool.take(bucket.nbytes)
        places = buffer.split([piece.nbytes for piece in bucket.pieces()])
        return [self._group.broadcast(place) for place in places], buffer


class MemoryReceiver(BroadcastReceiver):
    """A receiver of buckets in memory that the trainer shares: on the same GPU, or on CPUs on the same machine."""

    def __init__(self, info: InitInfo, worker: int, device: torch.device) -> None:
        self._join(info, worker, device)

    def close(self) -> None:
        pass

    def _buffers(self, info: UpdateInfo, buckets: Sequence[Bucket], check: Callable[[], None]) -> Iterator[Tensor]:
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
            yield buffer


def load_buckets(buckets: Sequence[Bucket], buffers: Iterator[Tensor], load: Load, verify: bool) -> list[int]:
    """Hand the tensors of each bucket to `load`, and return their checksums if `verify`, else []."""
    sums = []
    for bucket, buffer in zip(buckets, buffers, strict=True):
        tensors = bucket.views(buffer)
        sums += [checksum(tensor) for _, tensor in tensors] if verify else []
        load(tensors)
    return sums


def compare(specs: Sequence[TensorSpec], found: Sequence[int], expected: Sequence[int]) -> None:
    """Raise ValueError with the names of the tensors whose checksums differ."""
    differing = [spec.name for spec, a, b in zip(specs, found, expected, strict=True) if a != b]
    if differing:
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise ValueError(f"{MISMATCH} {', '.join(differing[:5])}{more}")
