"""Weights that arrive at a worker while its engine goes on: a thread receives them into spare memory."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from fastsvs.sync.arrivals import Arrival
from fastsvs.sync.calls import wait_until

SPARE_BYTES = 1 << 30
"""GPU memory that stays free of weights that wait, in bytes: the engine's own needs while it goes on."""
log = logging.getLogger(__name__)


class Staging:
    """Arrivals of one update, which a thread waits for from now on."""

    def __init__(
        self,
        update: int,
        arriving: Iterator[Arrival],
        device: torch.device,
        lay_out: bool,
        done: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        """Receive what `arriving` yields, and with `lay_out` lay it out. On the thread `done` is told that all is
        there, or `failed` why not."""
        self.update = update
        self._arriving, self._device, self._lays_out = arriving, device, lay_out
        self._done, self._failed = done, failed
        self._arrived: deque[Arrival] = deque()
        self._error: Exception | None = None
        self._over = threading.Event()
        threading.Thread(target=self._run, name="weight-staging", daemon=True).start()

    def arrived(self, check: Callable[[], None]) -> Iterator[Arrival]:
        """Yield the arrivals, which are forgotten then, once all are there. Raises what went wrong, or what `check`
        raises."""
        wait_until(self._over.is_set, check)
        if self._error is not None:
            raise self._error
        while self._arrived:
            yield self._arrived.popleft()

    def _run(self) -> None:
        gpu = self._device.type == "cuda"
        try:
            # On a stream of its own, as the engine's must not wait.
            with torch.cuda.stream(torch.cuda.Stream(self._device)) if gpu else nullcontext():
                for arrival in self._arriving:
                    if gpu:
                        torch.cuda.current_stream(self._device).synchronize()
                    self._arrived.append(self._kept(arrival))
            self._done()
        except Exception as error:  # whoever asks for the arrivals hears of it
            self._error = error
            self._arrived.clear()
            self._failed(f"{type(error).__name__}: {error}")
        self._over.set()

    def _kept(self, arrival: Arrival) -> Arrival:
        """Return the arrival as it waits: in the host's memory where the GPU's is short."""
        if self._device.type != "cuda":
            return arrival.laid_out() if self._lays_out else arrival
        free, _ = torch.cuda.mem_get_info(self._device)
        if free > SPARE_BYTES + 2 * sum(len(buffer) for buffer in arrival.buffers):
            return arrival
        if all(buffer.is_cuda for kept in self._arrived for buffer in kept.buffers):
            log.warning("%.1f GB of the GPU are free: further weights wait in the host's memory", free / 1e9)
        return arrival.with_buffers([_on_host(buffer) for buffer in arrival.buffers])


def _on_host(buffer: Tensor) -> Tensor:
    return torch.empty(buffer.shape, dtype=buffer.dtype, pin_memory=True).copy_(buffer)
