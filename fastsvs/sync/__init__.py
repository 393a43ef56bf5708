"""Transfer of weights from the policy to the rollout engines, once per policy version.

It must stay light: vLLM's workers import `fastsvs.sync.receiver`, and this package with it.
"""

from __future__ import annotations

import json
from typing import Protocol

import torch

from fastsvs.config import Placement
from fastsvs.sync.broadcast import BroadcastSync, bucket_limit
from fastsvs.sync.fleet import Endpoint, ServerFleet, WeightSyncError
from fastsvs.sync.loaded import LoadedSync
from fastsvs.sync.local import LocalSync
from fastsvs.sync.transports import TransportName

SERVER_ENVIRONMENT = {"VLLM_SERVER_DEV_MODE": "1"}
"""Environment variables of a server; without them vLLM has no routes for weights."""


class WeightSync(Protocol):
    """Way to bring the policy's weights to the engines. All ranks call every method together."""

    def publish(self, version: int) -> None:
        """Bring all engines to the policy's weights, which have this version; do nothing where they hold it already."""

    def metrics(self) -> dict[str, float]:
        """Return the metrics `sync/...` of the last publish, on the main rank."""

    def close(self) -> None: ...


def shares_gpus(placement: Placement, device: torch.device) -> bool:
    """Return True where servers of this placement use the same GPUs as a trainer on this device."""
    return placement == "colocated" and device.type == "cuda"


def transport_for(placement: Placement, device: torch.device) -> TransportName:
    """Choose the transport: shared memory where servers share the trainer's GPUs, because NCCL cannot connect two
    processes on one GPU."""
    return "ipc" if shares_gpus(placement, device) else "broadcast"


def server_arguments(transport: TransportName = "broadcast") -> list[str]:
    """Return the command-line options of a vLLM server that `BroadcastSync` with the same transport can reach."""
    backend = json.dumps({"backend": f"fastsvs_{transport}"})
    return ["--worker-extension-cls", "fastsvs.sync.receiver.Extension", "--weight-transfer-config", backend]


__all__ = [
    "SERVER_ENVIRONMENT",
    "BroadcastSync",
    "Endpoint",
    "LoadedSync",
    "LocalSync",
    "ServerFleet",
    "WeightSync",
    "WeightSyncError",
    "bucket_limit",
    "server_arguments",
    "shares_gpus",
    "transport_for",
]
