"""The sync for servers that read the weights themselves when they start: nothing is sent."""

from __future__ import annotations

from fastsvs import distributed
from fastsvs.sync.fleet import ServerFleet


class LoadedSync:
    """A sync that lets servers have requests once they are up. It is collective like any `WeightSync`; the main rank
    alone acts."""

    def __init__(self, fleet: ServerFleet, timeout_seconds: float) -> None:
        """Wait at most `timeout_seconds` for servers that are being restarted while others are up."""
        self._fleet = fleet
        self._timeout = timeout_seconds

    def publish(self, version: int) -> None:
        if distributed.is_main():
            names = [endpoint.name for endpoint in self._fleet.endpoints(self._timeout)]
            self._fleet.weights_loaded(names, version)

    def metrics(self) -> dict[str, float]:
        return {}

    def close(self) -> None: ...
