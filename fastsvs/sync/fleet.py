"""What the weight sync needs of rollout servers; `rollout.vllm` keeps them alive."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

from fastsvs.errors import EngineFailure


class Endpoint(Protocol):
    """One server as it runs now."""

    @property
    def name(self) -> str: ...

    @property
    def url(self) -> str: ...

    @property
    def api_key(self) -> str: ...

    @property
    def incarnation(self) -> int:
        """Counts its restarts: after one it holds no weights of ours."""


@runtime_checkable
class ServerFleet(Protocol):
    """Called on the main rank alone."""

    def endpoints(self, timeout: float) -> Sequence[Endpoint]:
        """All servers that are up and healthy; waits up to `timeout` seconds for those that are being restarted. Raises
        when the limit of restarts is used up."""

    def report_failure(self, endpoint: Endpoint, reason: str) -> None:
        """Restart this server."""

    def weights_loaded(self, endpoint_names: Collection[str], version: int) -> None:
        """These servers hold this version and may get requests again."""

    def stale(self) -> bool:
        """Some healthy server does not hold the version that was loaded last."""


class WeightSyncError(EngineFailure):
    """The servers could not be given the weights."""
