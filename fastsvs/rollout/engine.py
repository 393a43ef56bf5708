"""What the trainer asks of an inference engine: token ids in, token ids and sampled log-probs out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    max_tokens: int = 8192
    """Longest response, the end-of-sequence token included."""


@dataclass(frozen=True, slots=True)
class Request:
    """`samples` responses to one prompt. Sample i depends on (seed, i) and the weights alone, not on its company."""

    key: str
    prompt_ids: tuple[int, ...]
    samples: int
    sampling: SamplingParams
    seed: int


@dataclass(frozen=True, slots=True)
class Rollout:
    """One response. `logprobs[t]` is log p(response_ids[t]) under the distribution it was sampled from."""

    response_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]
    weight_version: int


class Engine(Protocol):
    """Several ranks call every method together, with the same arguments, and see the same results."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; keys must be unique among those not yet completed."""

    def completed(self) -> Iterator[tuple[str, list[Rollout]]]:
        """Finished groups as (key, its `samples` rollouts in sample order), until nothing submitted is left."""

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Replace all weights, given under their Hugging Face names."""

    def close(self) -> None: ...
