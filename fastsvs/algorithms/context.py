"""What rewards and advantages may look at beside the batch: the policy as it is before the step's update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from fastsvs.algorithms.batch import Batch
from fastsvs.config import AlgorithmConfig


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """`[response_tokens]` fp32 each, on the CPU, at the sampling temperature."""

    logprobs: Tensor
    entropy: Tensor
    """Nats."""
    mean_logprobs: Tensor
    """Mean of log p(v) over the vocabulary."""


class Probe(Protocol):
    """The policy before the update. Collective: every rank asks for the same."""

    vocabulary: int
    """Entries of its vocabulary."""
    max_sequence_tokens: int
    """Longest prompt with response that it takes."""

    def tokens(self, batch: Batch) -> TokenStatistics:
        """Of every response token of `batch`, which need not be the step's own."""

    def ranks(self, batch: Batch, window: int, stride: int) -> Tensor:
        """`[samples, 3]` float64: effective rank, velocity and acceleration of each response's hidden states."""


class _NoPolicy:
    """Of a context without one."""

    vocabulary = 0
    max_sequence_tokens = 0

    def tokens(self, batch: Batch) -> TokenStatistics:
        raise ValueError("there is no policy here to ask for log-probs")

    def ranks(self, batch: Batch, window: int, stride: int) -> Tensor:
        raise ValueError("there is no policy here to ask for hidden states")


_NO_POLICY = _NoPolicy()


def _no_tokenizer(_: Any) -> Any:
    raise ValueError("there is no tokenizer here")


@dataclass(frozen=True)
class Context:
    """Of one step, the same on every rank."""

    config: AlgorithmConfig
    probe: Probe = _NO_POLICY
    decode: Callable[[Sequence[int]], str] = _no_tokenizer
    """Token ids to text, special tokens left out."""
    encode: Callable[[str], tuple[int, ...]] = _no_tokenizer
    """Text to token ids, nothing added."""
    memory: dict[str, Any] = field(default_factory=dict)
    """What the plug-in leaves for its next steps: JSON, comes with every checkpoint."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What the plug-in reports of this step, for metrics.jsonl."""
