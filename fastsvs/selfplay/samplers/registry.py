"""Which problems a step asks, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastsvs.config import SamplerConfig
from fastsvs.data import EpochSampler, Problem
from fastsvs.registry import Registry
from fastsvs.selfplay.stages import Encode
from fastsvs.selfplay.types import Experience


@dataclass(frozen=True, slots=True)
class Draw:
    """A problem to be asked."""

    index: int
    """Of the problem in the data set."""
    samples: int
    prefix: str = ""
    """What the response begins with: the policy goes on from there, and learns only from what it writes itself."""


class Sampler(Protocol):
    """What a sampler knows of earlier steps is its memory; what it draws follows from that, its seed and the step."""

    def draw(self, step: int) -> list[Draw]:
        """The problems of a step, counted from 0, in the order of their keys."""

    def observe(self, experience: Experience) -> Experience:
        """Learn how the step went, and say what of it is trained on."""

    def memory(self) -> Any:
        """JSON that later steps do not alter; comes with every checkpoint."""

    def recall(self, memory: Any) -> None:
        """Go on from what `memory` gave."""


@dataclass(frozen=True, slots=True)
class SamplerTools:
    """What a sampler is built for."""

    problems: Sequence[Problem]
    prompts_per_step: int
    samples_per_prompt: int
    seed: int
    encode: Encode
    max_response_tokens: int
    """A prefix counts among them."""
    needs_labels: bool = True
    """False where the rewards come from the responses alone: what is correct must not decide what is learned from."""


SamplerFactory = Callable[[SamplerConfig, SamplerTools], Sampler]
SAMPLERS = Registry[SamplerFactory]("sampler")


@SAMPLERS.register("epochs")
class ShuffledEpochs:
    """Every problem equally often. What other samplers build on: they override what they do otherwise."""

    def __init__(self, config: SamplerConfig, tools: SamplerTools) -> None:
        self.config = config
        self.tools = tools
        self._epochs = EpochSampler(len(tools.problems), tools.prompts_per_step, tools.seed)

    def draw(self, step: int) -> list[Draw]:
        return [Draw(index, self.tools.samples_per_prompt) for index in self._epochs.select(step)]

    def observe(self, experience: Experience) -> Experience:
        return experience

    def memory(self) -> Any:
        return None

    def recall(self, memory: Any) -> None:
        pass
