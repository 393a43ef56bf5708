"""What the trainer asks of an inference engine: token ids in, token ids and sampled log-probs out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from torch import Tensor

from fastsvs.sync import ServerFleet


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample a response, and how long it may be."""

    temperature: float = 1.0
    """Sampling temperature; 0 takes the most likely token each time, with log-prob 0."""
    top_p: float = 1.0
    top_k: int = -1
    max_tokens: int = 8192
    """Longest response in tokens, the end-of-sequence token included."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request for `samples` responses to one prompt. Sample i depends on (seed, i) and the weights alone, not on
    other requests."""

    key: str
    prompt_ids: tuple[int, ...]
    samples: int
    sampling: SamplingParams
    seed: int
    priority: int = 0
    """Rank among waiting requests: lower ones are served first, equal ones in the order in which they came."""
    first_sample: int = 0
    """Number i of the first sample, so that two requests with one seed can share the samples of a group."""

    @property
    def numbers(self) -> range:
        """Return the numbers of the samples."""
        return range(self.first_sample, self.first_sample + self.samples)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One response. `logprobs[t]` is log p(response_ids[t]) under the distribution it was sampled from."""

    response_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]
    weight_version: int
    """Version of the weights that sampled the first token."""
    mixed_versions: bool = False
    """True where later tokens come from newer weights."""
    experts: np.ndarray | None = field(default=None, compare=False, repr=False)
    """Numbers of the experts that computed each token of prompt and response but the last, [tokens - 1, layers, active]
    int16; None where the engine does not say."""


class Inference(Protocol):
    """The part of an engine that answers requests."""

    collective: bool
    """True where all ranks call every method together, with the same arguments, and see the same results; False where
    the main rank alone calls any method but `load_weights` and `close`."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; keys must be unique among those pending."""

    def abort(self, keys: Collection[str]) -> None:
        """Give up those of these requests that are pending; `poll` will not return their groups."""

    def poll(self, timeout: float) -> list[tuple[str, list[Rollout]]]:
        """Return the groups finished since the last call, each as (key, its `samples` rollouts in sample order).

        Waits up to `timeout` seconds for the first one; returns [] also when nothing is pending. A collective engine
        does not count seconds, which ranks would count differently: it decodes until a group is finished, or only for a
        short while if `timeout` is 0.
        """

    def pending(self) -> int:
        """Count the submitted requests whose groups `poll` has not returned yet."""


class Engine(Inference, Protocol):
    """An inference engine: in the processes of the ranks, or on servers, which may be restarted at any time."""

    @property
    def fleet(self) -> ServerFleet | None:
        """Return the servers that the weights are sent to, whatever they are at work on; None where `load_weights`
        takes them."""

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Replace all weights, given under their Hugging Face names. Collective in every engine; nothing may be
        pending."""

    def stale(self) -> bool:
        """Return True when a healthy server does not hold the current weights and waits for them. Raises EngineFailure
        when a server failed for good."""

    def sleep(self) -> None:
        """Have servers that share the trainer's GPUs free their memory until the next weights come; other servers do
        nothing."""

    def metrics(self) -> dict[str, float]:
        """Return figures of the time since the last call, under their names in the metrics file."""

    def close(self) -> None: ...


def drain(engine: Inference, timeout: float = 60.0) -> Iterator[tuple[str, list[Rollout]]]:
    """Yield all pending groups as they finish."""
    while engine.pending():
        yield from engine.poll(timeout)
