"""Turns of policy and rollout servers in the memory of the GPUs that they share.

Before weights are published, which wakes the servers, all state but the weights leaves the device; the weights follow
when they are published, because sending reads them. Everything comes back when the servers sleep again.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastsvs.policy import Offload
from fastsvs.sync import WeightSync


class OffloadingSync:
    """A sync that makes room on the device before it publishes. Restarted servers get the weights in the same way."""

    def __init__(self, sync: WeightSync, published: Offload, others: Sequence[Offload]) -> None:
        """Publish the policy of `published`. `others` are frozen policies, whose weights are not needed meanwhile."""
        self._sync = sync
        self._published = published
        self._others = others

    def publish(self, version: int) -> None:
        self._published.leave()
        for other in self._others:
            other.leave_weights()
        self._published.return_weights()
        self._sync.publish(version)
        self._published.leave_weights()

    def metrics(self) -> dict[str, float]:
        return self._sync.metrics()

    def close(self) -> None:
        self._sync.close()
