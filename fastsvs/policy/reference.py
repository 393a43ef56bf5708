"""The reference model of a KL term, where the policy has adapters: the policy without them, in the same memory."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastsvs.algorithms import Batch
from fastsvs.policy.adapters import inactive
from fastsvs.policy.policy import Policy


@dataclass(frozen=True, slots=True)
class FrozenBase:
    """The frozen weights of a policy with adapters, as a policy of their own."""

    policy: Policy

    def log_probs(self, batch: Batch, temperature: float) -> Tensor:
        """Return the log-probs of the response tokens without adapters, [response_tokens] fp32 on the CPU.
        Collective."""
        with inactive(self.policy.stage):
            return self.policy.log_probs(batch, temperature)
