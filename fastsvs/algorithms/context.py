"""Context that rewards and advantages may use beside the batch: the policy as it is before the step's update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from fastsvs.algorithms.batch import Batch
from fastsvs.config import AlgorithmConfig


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """Statistics of response tokens, `[response_tokens]` fp32 each, on the CPU, at the sampling temperature."""

    logprobs: Tensor
    """Log-probs of the tokens."""
    entropy: Tensor
    """Entropies in nats."""
    mean_logprobs: Tensor
    """Means of log p(v) over the vocabulary."""


class Probe(Protocol):
    """The policy before the update. Collective: every rank asks for the same."""

    vocabulary: int
    """Number of entries of its vocabulary."""
    max_sequence_tokens: int
    """Longest prompt + response that it takes, in tokens."""

    def tokens(self, batch: Batch) -> TokenStatistics:
        """Return the statistics of every response token of `batch`, which need not be the step's own batch."""

    def ranks(self, batch: Batch, window: int, stride: int) -> Tensor:
        """Return effective rank, velocity and acceleration of each response's hidden states, `[samples, 3]` float64."""


class _NoPolicy:
    """Probe of a context without a policy: it raises ValueError when it is asked."""

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
    """Context of one step, the same on every rank."""

    config: AlgorithmConfig
    probe: Probe = _NO_POLICY
    """Policy before the update."""
    decode: Callable[[Sequence[int]], str] = _no_tokenizer
    """Function from token ids to text, special tokens left out."""
    encode: Callable[[str], tuple[int, ...]] = _no_tokenizer
    """Function from text to token ids, nothing added."""
    state: dict[str, Any] = field(default_factory=dict)
    """State that the plug-in keeps for its next steps: JSON values, saved with every checkpoint."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Figures of this step that the plug-in reports, for metrics.jsonl."""
