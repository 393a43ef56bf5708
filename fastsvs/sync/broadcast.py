"""Transfer of weights from the policy to vLLM servers: HTTP for control, and a process group of its own for the bytes.

Every rank sends its shards to the workers that load them, or the main rank gathers whole tensors and broadcasts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from fastsvs import distributed
from fastsvs.buckets import Bucket, TensorSpec, plan_buckets
from fastsvs.config import SyncConfig
from fastsvs.shared_memory import device_key
from fastsvs.sync.deltas import Traffic, busiest, shares
from fastsvs.sync.fleet import ServerFleet, WeightSyncError
from fastsvs.sync.outcome import Outcome
from fastsvs.sync.sender import Sender
from fastsvs.sync.shards import BlockSource, Shards
from fastsvs.sync.transports import Slots, TransportName, slot_bytes

CPU_BUCKET_BYTES = 64 << 20
"""Largest bucket on a CPU, in bytes: a larger one does not stay in the caches."""


def bucket_limit(config: SyncConfig, device_type: str) -> int:
    """Return the bytes from which a bucket is full, on devices of the type `cpu` or `cuda`."""
    return min(config.bucket_bytes, CPU_BUCKET_BYTES) if device_type == "cpu" else config.bucket_bytes


class BucketSource(Protocol):
    """Source of weights that are sent in buckets, by the main rank or by all."""

    def weight_specs(self) -> list[TensorSpec]:
        """Return the specs of all tensors to send, in order."""

    def stream_weights(self, buckets: Sequence[Bucket], slots: Sequence[Tensor]) -> Iterator[list[Tensor] | None]:
        """Yield each bucket's pieces on the main rank, and None on the others. Collective. Pieces lie in one of the two
        `slots`, or stay valid for as long."""

    def weight_blocks(self) -> BlockSource | None:
        """Return what this rank holds of the tensors; None where its parts of them are no blocks, on all ranks."""


class BroadcastSync:
    """A sync that keeps all servers of `fleet` at the version of `source`.

    `transport` is "broadcast" (gloo on CPUs, NCCL on GPUs), or "ipc" for servers on the trainer's own GPUs or CPU.
    """

    def __init__(
        self,
        source: BucketSource,
        fleet: ServerFleet,
        config: SyncConfig,
        transport: TransportName = "broadcast",
        *,
        staged: bool = False,
    ) -> None:
        """Send from `source` to `fleet`. With `staged`, and by broadcast or from shard to shard, servers go on while
        weights arrive, and pause to load them."""
        self._source = source
        self._config = config
        self._transport: TransportName = transport
        self._device = distributed.device()
        config = config.model_copy(update={"bucket_bytes": bucket_limit(config, self._device.type)})
        self._buckets = plan_buckets(source.weight_specs(), config.bucket_bytes)
        self._slots: Slots | None = None
        self._shards: Shards | None = None
        several = distributed.world_size() > 1
        if config.shard_to_shard and transport == "broadcast" and (several or config.sparse != "never"):
            blocks = source.weight_blocks()
            if blocks is not None:
                self._shards = Shards(blocks, source.weight_specs(), config, self._device)
        self._sender: Sender | None = None
        if distributed.is_main():
            staged = staged and transport == "broadcast"
            self._sender = Sender(fleet, self._buckets, config, transport, self._device, self._shards, staged)
        self._version = 0
        self._traffic: list[Traffic] = []
        self._metrics: dict[str, float] = {}

    def publish(self, version: int) -> None:
        """Send the weights to the servers that do not hold this version. All ranks call it together.

        Raises WeightSyncError, with the reasons, when the servers could not be brought to it, and RuntimeError when a
        rank of the trainer was lost.
        """
        begin, self._version = perf_counter(), version
        for attempt in range(self._config.attempts):
            outcome = self._attempt(version, retry=attempt > 0)
            if outcome.kind == "current":
                return
            if outcome.kind == "done":
                self._measure(perf_counter() - begin, attempt)
                return
            if outcome.kind == "fatal":
                break
        raise WeightSyncError(f"weights of version {version} did not reach the rollout servers: {outcome.reason}")

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the last publish that sent something, on the main rank."""
        return dict(self._metrics)

    def close(self) -> None:
        if self._sender is not None:
            self._sender.close()
        if self._shards is not None:
            self._shards.close()
        self._close_slots()

    def _attempt(self, version: int, *, retry: bool) -> Outcome:
        self._traffic = []
        if self._shares_gpus():  # a server that wakes needs the memory that the update's activations lay in
            torch.cuda.empty_cache()
            distributed.barrier()  # on every rank, before the first server wakes
        outcome = self._told(lambda sender: sender.prepare(version, retry))
        if self._shards is not None and outcome.shards:
            outcome = self._by_shards(self._shards, version, outcome)
            if outcome.kind != "done":
                self._shards.close()
            return outcome
        if outcome.kind != "ready":
            return outcome
        with self._open_slots() as slots:
            handles = self._handles(slots)
            outcome = self._told(lambda sender: sender.begin(handles))
            if outcome.kind != "ready":
                return outcome
            for index, pieces in enumerate(self._source.stream_weights(self._buckets, slots.buffers)):
                if self._transport == "ipc":
                    self._offer(index, slots, pieces)
                if self._sender is not None:
                    assert pieces is not None
                    self._sender.send(index, pieces)
            return self._told(lambda sender: sender.finish(version))

    def _by_shards(self, shards: Shards, version: int, prepared: Outcome) -> Outcome:
        """Have every rank send what it holds."""
        outcome, faults, invitation = prepared, [], prepared.invitation
        if invitation is not None:
            faults = self._on_every_rank(lambda check: shards.join(invitation, check))
        outcome = self._told(lambda sender: sender.begin({}, faults))
        if outcome.kind == "ready":
            faults = self._on_every_rank(lambda check: shards.send(outcome.update, check))
            return self._told(lambda sender: sender.finish(version, faults))
        return outcome

    def _on_every_rank(self, step: Callable[[Callable[[], None]], None]) -> list[str]:
        """Run `step` with what it must check while it waits, and return the faults of other ranks than the main rank,
        which keeps its own. The first fault ends the update for all."""
        assert self._shards is not None
        fault = ""
        if self._sender is not None:
            with self._sender.failing():
                step(self._sender.check)
        else:
            try:
                step(lambda: None)
            except (OSError, RuntimeError) as error:
                fault = f"rank {distributed.rank()}: {error}"
                self._shards.give_up(fault)
        with self._together(fault):
            told = distributed.gather((fault, self._shards.traffic))
        self._traffic = [traffic for _, traffic in told if traffic is not None]
        return [fault for fault, _ in told if fault]

    @contextmanager
    def _together(self, reason: str) -> Iterator[None]:
        """Say what went on, and the `reason` for its end that this rank knows, where a collective fails: then a rank is
        lost, and no attempt can succeed."""
        try:
            yield
        except RuntimeError as error:
            self.close()
            lost = f"a rank of the trainer was lost while weights of version {self._version} were sent"
            raise RuntimeError("; ".join(filter(None, [lost, reason, str(error)]))) from error

    @contextmanager
    def _open_slots(self) -> Iterator[Slots]:
        """Open the slots for one update. On a GPU they are freed afterwards, because others need the memory; on a CPU
        they are kept, because new memory costs more than sending."""
        holds_buffers = self._sender is not None or self._shares_gpus()
        if self._slots is None:
            size = slot_bytes(self._buckets) if holds_buffers else 0
            self._slots = Slots(size, self._transport, self._device)
        try:
            yield self._slots
        finally:
            if self._device.type == "cuda":
                self._close_slots()

    def _close_slots(self) -> None:
        if self._slots is not None:
            self._slots.close()
            self._slots = None

    def _told(self, step: Callable[[Sender], Outcome]) -> Outcome:
        """Run `step` on the main rank, and return its outcome on every rank. An exception there ends the other ranks
        too."""
        outcome, error = Outcome("done"), None
        if self._sender is not None:
            try:
                outcome = step(self._sender)
            except Exception as raised:
                outcome, error = Outcome("fatal", str(raised)), raised
        with self._together(outcome.reason):
            outcome = distributed.broadcast(outcome)
        if error is not None:
            raise error
        return outcome

    def _shares_gpus(self) -> bool:
        """Return True where every rank's GPU may have workers that read its memory; on CPUs workers read the main
        rank's memory."""
        return self._transport == "ipc" and self._device.type == "cuda"

    def _handles(self, slots: Slots) -> dict[str, list[dict[str, Any]]]:
        """Return the handles of the shared slots by device, on the main rank."""
        if self._transport != "ipc" or not slots.buffers[0].numel():
            return {}
        own = {device_key(self._device): slots.handles()}
        if not self._shares_gpus() or distributed.world_size() == 1:
            return own
        parts: list[dict[str, list[dict[str, Any]]]] = [{} for _ in range(distributed.world_size())]
        dist.all_gather_object(parts, own)
        return {key: handles for part in parts for key, handles in part.items()}

    def _offer(self, index: int, slots: Slots, pieces: Sequence[Tensor] | None) -> None:
        """Put the whole bucket into the slot that workers read: the main rank's slot, and on GPUs also those of all
        other ranks."""
        if pieces is not None:
            slot = slots.buffers[index % 2][: self._buckets[index].nbytes]
            for place, piece in zip(slot.split([len(piece) for piece in pieces]), pieces, strict=True):
                if place.data_ptr() != piece.data_ptr():
                    place.copy_(piece)
        if self._shares_gpus() and distributed.world_size() > 1:
            dist.broadcast(slots.buffers[index % 2][: self._buckets[index].nbytes], src=0)
            torch.cuda.synchronize()
            dist.barrier()

    def _measure(self, seconds: float, retries: int) -> None:
        if self._sender is not None:
            senders, nbytes = self._sender.traffic
            nbytes = busiest(self._traffic) if self._traffic else nbytes
            self._metrics = shares(self._traffic) | {
                "sync/seconds": seconds,
                "sync/transfer_seconds": self._sender.transfer_seconds,
                "sync/pause_seconds": self._sender.pause_seconds,
                "sync/bytes": float(nbytes),
                "sync/gigabytes_per_second": nbytes / seconds / 1e9,
                "sync/servers": float(self._sender.servers),
                "sync/senders": float(senders),
                "sync/retries": float(retries),
            }
