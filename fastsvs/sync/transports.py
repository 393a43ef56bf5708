"""The trainer's half of moving bytes: broadcast in a group with all rollout workers, or memory shared with them."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from fastsvs.buckets import Bucket
from fastsvs.shared_memory import SharedMemory
from fastsvs.sync.calls import wait_until
from fastsvs.sync.group import (
    Group,
    announced,
    forget_staged,
    give_up,
    given_up,
    missing,
    route_key,
    serve_store,
    staged_workers,
)
from fastsvs.sync.messages import Message, settle
from fastsvs.sync.moves import Move, describe_moves

TransportName = Literal["broadcast", "ipc"]
Check = Callable[[], None]
"""Function that raises what must end a wait: a deadline that passed, a server that failed."""


class Transport(Protocol):
    """Way to move bytes to a set of receivers; it lives as long as the set. After an exception only `close` is
    allowed."""

    def init_info(self) -> dict[str, Any]:
        """Return what workers need to join, except for their ranks."""

    def join(self, check: Check) -> None:
        """Wait until the workers, which have announced themselves, have joined."""

    def begin(self, index: int, pieces: Sequence[Tensor]) -> None:
        """Start to send bucket `index`; its pieces must stay as they are until all workers have it."""

    def wait(self, check: Check, under_way: int) -> None:
        """Wait until all workers have all buckets but the last `under_way`."""

    def send_sums(self, sums: Sequence[int]) -> None: ...

    def close(self) -> None:
        """Close the transport, and tell workers that still wait for something to give up."""


class _Store:
    """Base of both transports: the store that workers join."""

    def __init__(self, address: str, workers: int, timeout: float, device: torch.device) -> None:
        self.address, self._size, self._timeout, self._device = address, workers + 1, timeout, device
        self._store, self.port = serve_store(address, timeout)
        self._given_up = given_up(self._store)
        self._update = 0

    def init_info(self) -> dict[str, Any]:
        return {
            "master_address": self.address,
            "master_port": self.port,
            "world_size": self._size,
            "timeout_seconds": self._timeout,
        }

    def seats(self, check: Check) -> list[tuple[int, int]]:
        """Wait until all workers have come, and return the (rank, size) in tensor parallelism of each. Raises
        ValueError where one tells what is none."""
        wait_until(lambda: not missing(self._store, self._size), check)
        seats = [tuple(facts) for facts in announced(self._store, self._size)]
        for seat in seats:
            if len(seat) != 2 or not all(isinstance(n, int) for n in seat) or not 0 <= seat[0] < seat[1]:
                raise ValueError(f"a worker cannot be rank and size {seat} of tensor parallelism")
        return seats

    def tell_routes(self, moves: Sequence[Move] | None) -> None:
        """Tell each worker what it gets from whom: its share of `moves`, or None for whole tensors."""
        for worker in range(self._size - 1):
            own = None if moves is None else describe_moves([move for move in moves if move.worker == worker])
            self._store.set(route_key(worker + 1), json.dumps(own))

    def join(self, check: Check) -> None:
        pass

    def number_update(self) -> int:
        """Return a new number for the update that begins."""
        self._store.delete_key(f"sums/{self._update}")
        forget_staged(self._store, self._update)
        self._update += 1
        return self._update

    def wait_staged(self, check: Check) -> None:
        """Wait until the update waits at all workers."""
        wait_until(lambda: staged_workers(self._store, self._update) == self._size - 1, check)

    def check(self) -> None:
        """Raise ConnectionAbortedError where a worker or a rank has given the update up."""
        self._given_up()

    def send_sums(self, sums: Sequence[int]) -> None:
        self._store.set(f"sums/{self._update}", json.dumps(list(sums)))

    def close(self) -> None:
        give_up(self._store)


class BroadcastTransport(_Store):
    """Transport by broadcast: gloo on CPUs, NCCL on GPUs."""

    def __init__(self, address: str, workers: int, timeout: float, device: torch.device) -> None:
        super().__init__(address, workers, timeout, device)
        self._group: Group | None = None
        self._works: deque[list[Message]] = deque()

    def join(self, check: Check) -> None:
        self._group = Group(self._store, 0, self._size, self.address, self._timeout, self._device, check)

    def begin(self, index: int, pieces: Sequence[Tensor]) -> None:
        assert self._group is not None
        self._works.append([self._group.broadcast(piece) for piece in pieces])

    def wait(self, check: Check, under_way: int) -> None:
        while len(self._works) > under_way:
            settle(self._works[0], check)
            self._works.popleft()

    def close(self) -> None:
        super().close()
        self._works.clear()
        if self._group is not None:
            self._group.abandon()
            self._group = None


class MemoryTransport(_Store):
    """Transport by shared memory: workers copy each bucket out of memory that lies ready for them."""

    def __init__(self, address: str, workers: int, timeout: float, device: torch.device) -> None:
        super().__init__(address, workers, timeout, device)
        self._offered: deque[int] = deque()

    def begin(self, index: int, pieces: Sequence[Tensor]) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._store.set(f"ready/{self._update}/{index}", "")
        self._offered.append(index)

    def wait(self, check: Check, under_way: int) -> None:
        while len(self._offered) > under_way:
            place = f"{self._update}/{self._offered[0]}"
            wait_until(lambda taken=f"taken/{place}": self._store.check([taken]), check)  # type: ignore[misc]
            for key in ("ready", "count", "taken"):
                self._store.delete_key(f"{key}/{place}")
            self._offered.popleft()


TRANSPORTS: Mapping[TransportName, type[BroadcastTransport] | type[MemoryTransport]] = {
    "broadcast": BroadcastTransport,
    "ipc": MemoryTransport,
}


def slot_bytes(buckets: Sequence[Bucket]) -> int:
    return max(bucket.nbytes for bucket in buckets)


class Slots:
    """The two buffers of the main rank, for the time of one update; those of shared memory have handles."""

    def __init__(self, nbytes: int, transport: TransportName, device: torch.device) -> None:
        self._shared = [SharedMemory(nbytes, device) for _ in range(2)] if transport == "ipc" else []
        self.buffers = [shared.tensor for shared in self._shared] or [
            torch.empty(nbytes, dtype=torch.uint8, device=device) for _ in range(2)
        ]

    def handles(self) -> list[dict[str, Any]]:
        return [shared.handle() for shared in self._shared]

    def close(self) -> None:
        for shared in self._shared:
            shared.close()
        self.buffers = []
