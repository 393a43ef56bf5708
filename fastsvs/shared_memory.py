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
            self._file = os.memfd_create("fastsvs")
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
        """Give the handle up. The memory stays for those who have opened it, and for this object's own tensor."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


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
