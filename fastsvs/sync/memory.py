"""Memory that another process of this machine opens by a handle of plain JSON: CUDA IPC on GPUs, a memfd on CPUs.

Nothing of it outlives the processes that use it, however they end.
"""

from __future__ import annotations

import base64
import os
import socket
from typing import Any

import torch
from torch import Tensor


def device_key(device: torch.device) -> str:
    """Return a key of the device; processes with the same key can share memory on it."""
    if device.type == "cuda":
        return f"gpu {torch.cuda.get_device_properties(device).uuid}"
    return f"host {socket.gethostname()}"


class SharedMemory:
    """Memory of `tensor` [nbytes] uint8 on `device`; keep this object while others use it."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self._file: int | None = None
        if device.type == "cuda":
            self.tensor = torch.empty(nbytes, dtype=torch.uint8, device=device)
        else:
            self._file = os.memfd_create("fastsvs-weights")
            os.truncate(self._file, nbytes)
            self.tensor = torch.from_file(_path(os.getpid(), self._file), True, nbytes, dtype=torch.uint8)

    def handle(self) -> dict[str, Any]:
        """Return the handle for `open_memory` in another process."""
        if self._file is not None:
            return {"pid": os.getpid(), "file": self._file, "nbytes": self.tensor.numel()}
        shared = self.tensor.untyped_storage()._share_cuda_()
        _device, *rest = shared
        coded = [{"bytes": base64.b64encode(x).decode()} if isinstance(x, bytes) else x for x in rest]
        return {"cuda": coded, "start": self.tensor.storage_offset(), "nbytes": self.tensor.numel()}

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Pool:
    """Buffers that are used again and again, because on CPUs fresh memory costs more than the work that is done in
    it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._buffers: list[Tensor] = []

    def take(self, nbytes: int) -> Tensor:
        """Return a buffer [nbytes] uint8; nobody else holds a view of it."""
        if self.device.type != "cpu":  # torch's own allocator does it
            return torch.empty(nbytes, dtype=torch.uint8, device=self.device)
        free = [buffer for buffer in self._buffers if _references(buffer) == 1]
        fitting = [buffer for buffer in free if len(buffer) >= nbytes]
        if not fitting:
            self._buffers = [buffer for buffer in self._buffers if not any(buffer is other for other in free[:1])]
            fitting = [torch.empty(nbytes, dtype=torch.uint8)]
            self._buffers += fitting
        return min(fitting, key=len)[:nbytes]


def _references(buffer: Tensor) -> int:
    """Count the tensors that lie in this one's memory, itself included."""
    storage = buffer.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata) - 1


def open_memory(handle: dict[str, Any], device: torch.device) -> Tensor:
    """Return the other process's memory itself, not a copy: [nbytes] uint8."""
    if "file" in handle:
        return torch.from_file(_path(handle["pid"], handle["file"]), True, handle["nbytes"], dtype=torch.uint8)
    rest = [base64.b64decode(x["bytes"]) if isinstance(x, dict) else x for x in handle["cuda"]]
    storage = torch.UntypedStorage._new_shared_cuda(device.index, *rest)
    start = handle["start"]
    return torch.empty(0, dtype=torch.uint8, device=device).set_(storage, start, (handle["nbytes"],), (1,))


def _path(process: int, file: int) -> str:
    return f"/proc/{int(process)}/fd/{int(file)}"
