"""The easy curriculum of SRT (arXiv 2505.21444), which needs no labels.

Training on majority votes collapses later when it uses only the third of the problems whose majorities are largest.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from statistics import fmean
from typing import Any

from fastsvs.config import SamplerConfig
from fastsvs.data import EpochSampler
from fastsvs.seeding import derive_seed
from fastsvs.selfplay.samplers.history import originals
from fastsvs.selfplay.samplers.registry import SAMPLERS, Draw, SamplerTools, ShuffledEpochs
from fastsvs.selfplay.types import Experience
from fastsvs.verify import canonical_answer, majority_share


@SAMPLERS.register("consensus_curriculum")
class ConsensusCurriculum(ShuffledEpochs):
    """Sampler that trains on the `easiest_share` of the problems, those with the largest majorities.

    Every problem is first asked once and nothing is learned, so that all majorities are the first policy's. From then
    on only the easiest problems are asked, in epochs of their own.
    """

    def __init__(self, config: SamplerConfig, tools: SamplerTools) -> None:
        super().__init__(config, tools)
        self._shares: dict[str, float] = {}
        """Share of each problem's responses that gave its most frequent answer; complete after the first pass."""
        self._surveys = True

    def draw(self, step: int) -> list[Draw]:
        problems, per_step = len(self.tools.problems), self.tools.prompts_per_step
        first_pass = ceil(problems / per_step)
        self._surveys = step < first_pass
        if self._surveys:
            return super().draw(step)[: problems - step * per_step]
        easiest = self.easiest()
        epochs = EpochSampler(len(easiest), per_step, derive_seed(self.tools.seed, "easiest"))
        return [Draw(easiest[place], self.tools.samples_per_prompt) for place in epochs.select(step - first_pass)]

    def observe(self, experience: Experience) -> Experience:
        shares = {
            group.task.problem.id: majority_share([canonical_answer(text) for text in group.texts])
            for group in originals(experience)
        }
        counters = experience.counters | {"sampler/surveyed": len(experience.groups) if self._surveys else 0}
        if shares:
            counters["sampler/majority_share"] = fmean(shares.values())
        if not self._surveys:
            return replace(experience, counters=counters)
        self._shares |= shares
        aside = {name: 0 for name in counters if name.startswith(("kept_groups/", "kept_samples/"))}
        return replace(
            experience,
            groups=[],
            discarded=[*experience.groups, *experience.discarded],
            counters=counters | aside,
        )

    def easiest(self) -> list[int]:
        """Return the indices of the easiest problems, easiest first. A seed, not the order of the data, decides among
        equals."""
        problems = self.tools.problems

        def difficulty(index: int) -> tuple[float, int]:
            problem = problems[index].id
            return -self._shares.get(problem, 0.0), derive_seed(self.tools.seed, "equals", problem)

        return sorted(range(len(problems)), key=difficulty)[: ceil(self.config.easiest_share * len(problems))]

    def state_dict(self) -> Any:
        return dict(self._shares)

    def load_state_dict(self, state: Any) -> None:
        self._shares = dict(state)
