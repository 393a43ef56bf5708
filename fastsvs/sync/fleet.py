"""What the weight sync needs of rollout servers, which `rollout.vllm` keeps alive."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from fastsvs.errors import EngineFailure
from fastsvs.network import local_address


@dataclass(frozen=True)
class Endpoint:
    """One server as it runs now."""

    name: str
    url: str
    api_key: str = field(repr=False)
    incarnation: int
    """Number of its starts and wake-ups so far; after each it holds none of the trainer's weights."""


class ServerFleet(Protocol):
    """All rollout servers. The main rank alone calls the methods."""

    def endpoints(self, timeout: float) -> Sequence[Endpoint]:
        """Return all servers that are up and healthy. Waits up to `timeout` seconds for those that are being restarted,
        and raises when the limit of restarts is used up."""

    def report_failure(self, endpoint: Endpoint, reason: str) -> None:
        """Restart this server."""

    def weights_loaded(self, endpoint_names: Collection[str], version: int) -> None:
        """Note that these servers hold this version and may get requests again."""

    def stale(self) -> bool:
        """Return True when some healthy server does not hold the version that was loaded last."""


class WeightSyncError(EngineFailure):
    """The servers could not be given the weights."""


def reached_address(endpoints: Sequence[Endpoint], further: Sequence[str]) -> str:
    """Return this machine's address that all servers and the addresses `further` reach: a private interface's as soon
    as one of them is on another machine."""
    hosts = [urlsplit(endpoint.url).hostname or "127.0.0.1" for endpoint in endpoints]
    addresses = [local_address(host) for host in (*hosts, *further)]
    return next((address for address in addresses if not address.startswith("127.")), addresses[0])
