"""Arrays of which each host of the job keeps one copy, whatever the number of its ranks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
import torch

from fastsvs import distributed

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
    memory: int | None = None
    if distributed.rank() in leaders:
        memory = os.memfd_create("fastsvs")
        os.ftruncate(memory, prod(shape) * dtype.itemsize)
        filled = np.frombuffer(mmap(memory, 0), dtype).reshape(shape)
        if rows is not None:
            np.concatenate(rows, out=filled)
        distributed.relay(torch.from_numpy(filled.reshape(-1).view(np.uint8)), leaders)
    places = distributed.gather((os.getpid(), memory))
    process, file = places[hosts.index(hosts[distributed.rank()])]
    with open(f"/proc/{process}/fd/{file}", "rb") as shared:
        mapped = mmap(shared.fileno(), 0, access=ACCESS_READ)
    distributed.barrier()
    if memory is not None:
        os.close(memory)
    return np.frombuffer(mapped, dtype).reshape(shape)


def _kind(rows: Sequence[np.ndarray]) -> tuple[np.dtype, tuple[int, ...]]:
    """Return dtype and shape of the rows one after another."""
    shape = (sum(len(row) for row in rows), *rows[0].shape[1:]) if rows else (0,)
    if not prod(shape):
        raise ValueError("there is nothing to share")
    return rows[0].dtype, shape


def _host() -> tuple[str, str]:
    """Return what processes have in common that can map each other's memory: machine and process namespace."""
    return BOOT.read_text().strip(), os.readlink("/proc/self/ns/pid")
