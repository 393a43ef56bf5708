"""Arrays of which each host of the job keeps one copy, whatever the number of its ranks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch

from fastsvs import distributed
from fastsvs.shared_memory import SharedMemory, open_memory

CPU = torch.device("cpu")
BOOT = Path("/proc/sys/kernel/random/boot_id")


def on_each_host(rows: Sequence[np.ndarray] | None) -> np.ndarray:
    """Return the main rank's `rows`, one after another, [sum of their lengths, ...], read-only; other ranks give None.
    Collective.

    The ranks of a host map the same memory, which has no name in any file system: it ends with the last process that
    maps it, however that ends. Hosts pass the bytes on from one to the next.

    Raises ValueError where `rows` is empty, or its arrays are.
    """
    kind = distributed.broadcast(None if rows is None else _kind(rows))
    assert kind is not None
    dtype, shape = kind
    hosts = distributed.gather(_host())
    leaders = [hosts.index(host) for host in dict.fromkeys(hosts)]
    memory: SharedMemory | None = None
    if distributed.rank() in leaders:
        memory = SharedMemory(prod(shape) * dtype.itemsize, CPU)
        if rows is not None:
            np.concatenate(rows, out=memory.tensor.numpy().view(dtype).reshape(shape))
        distributed.relay(memory.tensor, leaders)
    handles = distributed.gather(None if memory is None else memory.handle())
    handle = handles[hosts.index(hosts[distributed.rank()])]
    assert handle is not None
    found = open_memory(handle, CPU).numpy().view(dtype).reshape(shape)
    found.flags.writeable = False
    distributed.barrier()
    if memory is not None:
        memory.close()
    return found


def _kind(rows: Sequence[np.ndarray]) -> tuple[np.dtype, tuple[int, ...]]:
    """Return dtype and shape of the rows one after another."""
    shape = (sum(len(row) for row in rows), *rows[0].shape[1:]) if rows else (0,)
    if not prod(shape):
        raise ValueError("there is nothing to share")
    return rows[0].dtype, shape


def _host() -> tuple[str, str]:
    """Return what processes have in common that can map each other's memory: machine and process namespace."""
    return BOOT.read_text().strip(), os.readlink("/proc/self/ns/pid")
