"""The GPU's memory as everybody on it takes it, looked at while something runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import torch

GIB = 1024**3
LOOK_SECONDS = 0.05


class MemoryWatch:
    """The memory in use on GPU 0, by all processes, in GiB; nothing on a machine without a GPU."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float]] = []
        """(seconds of the monotonic clock, GiB)."""

    def between(self, begin: float, end: float) -> list[float]:
        """Return the GiB from `begin` to `end` seconds of the monotonic clock."""
        return [used for moment, used in self.samples if begin <= moment <= end]


@contextmanager
def memory_watch() -> Iterator[MemoryWatch]:
    """Look at the memory until the block ends."""
    watch, over = MemoryWatch(), threading.Event()

    def look() -> None:
        import pynvml

        pynvml.nvmlInit()
        device = pynvml.nvmlDeviceGetHandleByIndex(0)
        while not over.wait(LOOK_SECONDS):
            watch.samples.append((monotonic(), pynvml.nvmlDeviceGetMemoryInfo(device).used / GIB))

    thread = threading.Thread(target=look, daemon=True)
    if torch.cuda.is_available():
        thread.start()
    try:
        yield watch
    finally:
        over.set()
        if thread.is_alive():
            thread.join()
