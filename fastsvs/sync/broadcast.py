"""Weights from the policy to vLLM servers, over HTTP for control and a group of their own for the bytes."""

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
from fastsvs.sync.fleet import ServerFleet, WeightSyncError
from fastsvs.sync.memory import device_key
from fastsvs.sync.sender import Outcome, Sender
from fastsvs.sync.transports import Slots, TransportName, slot_bytes

CPU_BUCKET_BYTES = 64 << 20
"""More only leaves the caches on a CPU."""


class BucketSource(Protocol):
    def weight_specs(self) -> list[TensorSpec]:
        """Every tensor to send, in order."""

    def stream_weights(self, buckets: Sequence[Bucket], slots: Sequence[Tensor]) -> Iterator[list[Tensor] | None]:
        """Collective: on the main rank each bucket's pieces, which lie in one of two `slots` or stay valid as long."""


class BroadcastSync:
    """Keeps all servers of `fleet` at the version of `source`.

    `transport`: "broadcast" (gloo on CPUs, NCCL on GPUs), or "ipc" for servers on the trainer's own GPUs or CPU.
    """

    def __init__(
        self, source: BucketSource, fleet: ServerFleet, config: SyncConfig, transport: TransportName = "broadcast"
    ) -> None:
        self._source = source
        self._config = config
        self._transport: TransportName = transport
        self._device = distributed.device()
        if self._device.type == "cpu":
            config = config.model_copy(update={"bucket_bytes": min(config.bucket_bytes, CPU_BUCKET_BYTES)})
        self._buckets = plan_buckets(source.weight_specs(), config.bucket_bytes)
        self._slots: Slots | None = None
        self._sender = Sender(fleet, self._buckets, config, transport, self._device) if distributed.is_main() else None
        self._metrics: dict[str, float] = {}

    def publish(self, version: int) -> None:
        """Send the weights to the servers that do not hold this version. All ranks together.

        Raises WeightSyncError when the servers could not be brought to it, with the reasons.
        """
        begin = perf_counter()
        for attempt in range(self._config.attempts):
            outcome = self._attempt(version)
            if outcome.kind == "current":
                return
            if outcome.kind == "done":
                self._measure(perf_counter() - begin, attempt)
                return
            if outcome.kind == "fatal":
                break
        raise WeightSyncError(f"weights of version {version} did not reach the rollout servers: {outcome.reason}")

    def metrics(self) -> dict[str, float]:
        """Of the last publish that sent something; on the main rank."""
        return dict(self._metrics)

    def close(self) -> None:
        if self._sender is not None:
            self._sender.close()
        self._close_slots()

    def _attempt(self, version: int) -> Outcome:
        if self._shares_gpus():  # a server that wakes needs the memory that the update's activations lay in
            torch.cuda.empty_cache()
            distributed.agree(None)  # on every rank, before the first server wakes
        outcome = self._told(lambda sender: sender.prepare(version))
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

    @contextmanager
    def _open_slots(self) -> Iterator[Slots]:
        """Given back afterwards on a GPU, whose memory others need; on a CPU new memory costs more than sending."""
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
        """What the step gave on the main rank, on every rank. An exception there ends the others too."""
        outcome, error = Outcome("done"), None
        if self._sender is not None:
            try:
                outcome = step(self._sender)
            except Exception as raised:
                outcome, error = Outcome("fatal", str(raised)), raised
        outcome = distributed.agree(outcome)
        if error is not None:
            raise error
        return outcome

    def _shares_gpus(self) -> bool:
        """Every rank's GPU may have workers that read its memory; on CPUs they read the main rank's."""
        return self._transport == "ipc" and self._device.type == "cuda"

    def _handles(self, slots: Slots) -> dict[str, list[dict[str, Any]]]:
        """By device, on the main rank."""
        if self._transport != "ipc" or not slots.buffers[0].numel():
            return {}
        own = {device_key(self._device): slots.handles()}
        if not self._shares_gpus() or distributed.world_size() == 1:
            return own
        parts: list[dict[str, list[dict[str, Any]]]] = [{} for _ in range(distributed.world_size())]
        dist.all_gather_object(parts, own)
        return {key: handles for part in parts for key, handles in part.items()}

    def _offer(self, index: int, slots: Slots, pieces: Sequence[Tensor] | None) -> None:
        """The whole bucket in the slot that workers read: the main rank's, and on GPUs also all others'."""
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
            nbytes = sum(bucket.nbytes for bucket in self._buckets)
            self._metrics = {
                "sync/seconds": seconds,
                "sync/bytes": float(nbytes),
                "sync/gigabytes_per_second": nbytes / seconds / 1e9,
                "sync/servers": float(self._sender.servers),
                "sync/retries": float(retries),
            }
