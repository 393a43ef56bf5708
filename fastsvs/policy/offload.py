"""State that leaves the device while rollouts run, and comes back for the update: moments, masters, gradients, weights.

Gradients are not copied: each update makes them anew. What is away is in host memory; see `policy.away`.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

from fastsvs.policy.parallel import megatron_device
from fastsvs.policy.policy import Policy
from fastsvs.policy.training_state import MOMENTS, owned_by_rank


class Offload:
    """Movement of one policy's state between its device and host memory, as its configuration's `offload` says. What is
    done already is not done again; nothing is collective."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._learns = hasattr(policy, "optimizer")
        self._what = policy.config.offload
        self._seconds = 0.0
        self._bytes = 0

    def leave(self) -> None:
        """Free the device of moments, masters and gradients. The weights stay, to be published."""
        if self._what != "none" and self._learns:
            with megatron_device():
                self._policy.model.offload_grad_buffers()
            self._move(lambda: self._policy.away.take("state", self._state()))

    def leave_weights(self) -> None:
        """Free the device of the weights, where `offload` says so."""
        if self._what == "all":
            self._move(lambda: self._policy.away.take("weights", self._policy.stage.parameters()))

    def return_weights(self) -> None:
        """Bring the weights back to the device."""
        self._move(lambda: self._policy.away.give_back("weights"))

    def return_all(self) -> None:
        """Bring everything back to the device, for log-probs and updates."""
        self.return_weights()
        if self._what != "none" and self._learns:
            self._move(lambda: self._policy.away.give_back("state"))
            with megatron_device():
                self._policy.model.restore_grad_buffers()

    def take_metrics(self) -> dict[str, float]:
        """Return the seconds of copying since the last call and the rate of it, under their names in the metrics
        file."""
        seconds, moved, self._seconds, self._bytes = self._seconds, self._bytes, 0.0, 0
        if not moved:
            return {}
        return {"time/offload": seconds, "throughput/offload_gigabytes_per_second": moved / seconds / 1e9}

    def _state(self) -> list[Tensor]:
        """Return the masters, unless they are the weights, and the moments."""
        weights = {parameter.untyped_storage()._cdata for parameter in self._policy.stage.parameters()}
        owned = list(owned_by_rank(self._policy))
        masters = [part.master for part in owned if part.master.untyped_storage()._cdata not in weights]
        return [*masters, *(part.state[moment] for part in owned if part.state for moment in MOMENTS)]

    def _move(self, move: Callable[[], int]) -> None:
        began = perf_counter()
        moved = move()
        if moved:
            self._seconds += perf_counter() - began
            self._bytes += moved
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # for the servers, which are processes of their own
