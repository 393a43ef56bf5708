"""Registry of the samplers, which choose the problems that a step asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from fastsvs.config import SamplerConfig
from fastsvs.data import EpochSampler, Problem
from fastsvs.registry import Registry
from fastsvs.seeding import derive_seed
from fastsvs.selfplay.stages import Encode
from fastsvs.selfplay.types import Experience


@dataclass(frozen=True, slots=True)
class Draw:
    """A problem to be asked."""

    index: int
    """Index of the problem in the data set."""
    samples: int
    prefix: str = ""
    """Text that the response begins with. The policy continues it, and learns only from what it writes itself."""


class Sampler(Protocol):
    """A sampler. Its state is what it knows of earlier steps; its draws follow from that, its seed and the step."""

    reads_verdicts: bool
    """True for a sampler that goes by which responses are correct. Rewards that need no right answer refuse it."""

    def draw(self, step: int) -> list[Draw]:
        """Return the problems of a step, counted from 0, in the order of their keys."""

    def spare(self, step: int, draws: Sequence[Draw], most: int) -> list[Draw]:
        """Return up to `most` other problems than `draws`, those of the step, to be asked where one of these teaches
        nothing. Only `sampler.refills` needs it: see `gives_spares`."""

    def observe(self, experience: Experience) -> Experience:
        """Learn how the step went, and return what of it is trained on."""

    def state_dict(self) -> Any:
        """Return JSON that later steps do not change. Every checkpoint holds it."""

    def load_state_dict(self, state: Any) -> None:
        """Restore what `state_dict` gave."""


@dataclass(frozen=True, slots=True)
class SamplerTools:
    """The settings that a sampler is built from, besides its configuration."""

    problems: Sequence[Problem]
    prompts_per_step: int
    samples_per_prompt: int
    seed: int
    encode: Encode
    max_response_tokens: int
    """Longest response in tokens, prefix included."""


SamplerFactory = Callable[[SamplerConfig, SamplerTools], Sampler]
SAMPLERS = Registry[SamplerFactory](
    "sampler",
    takes=("config", "tools"),
    makes=("reads_verdicts", "draw", "observe", "state_dict", "load_state_dict"),
)


@SAMPLERS.register("epochs")
class ShuffledEpochs:
    """Sampler that asks every problem equally often. Other samplers derive from it and override what they do
    otherwise."""

    reads_verdicts = False

    def __init__(self, config: SamplerConfig, tools: SamplerTools) -> None:
        self.config = config
        self.tools = tools
        self._epochs = EpochSampler(len(tools.problems), tools.prompts_per_step, tools.seed)

    def draw(self, step: int) -> list[Draw]:
        return [Draw(index, self.tools.samples_per_prompt) for index in self._epochs.select(step)]

    def spare(self, step: int, draws: Sequence[Draw], most: int) -> list[Draw]:
        drawn = {draw.index for draw in draws}
        others = [index for index in range(len(self.tools.problems)) if index not in drawn]
        chosen = Random(derive_seed(self.tools.seed, "refill", step)).sample(others, min(most, len(others)))
        return [Draw(index, self.tools.samples_per_prompt) for index in chosen]

    def observe(self, experience: Experience) -> Experience:
        return experience

    def state_dict(self) -> Any:
        return None

    def load_state_dict(self, state: Any) -> None:
        pass


def gives_spares(sampler: Sampler) -> bool:
    """Return whether the sampler's spare problems are drawn as those of its steps are: one that draws in a way of its
    own and inherits `spare` has none."""
    for made in type(sampler).__mro__:
        if "spare" in vars(made):
            return True
        if "draw" in vars(made):
            return False
    return False
