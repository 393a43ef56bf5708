"""Head-tail re-balancing of what is sampled (arXiv 2510.26474, its two ways of trajectory resampling).

Problems that fail get more attempts, or attempts that begin further on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate
from math import floor
from random import Random
from typing import Any

from fastsvs.config import SamplerConfig
from fastsvs.data import Problem
from fastsvs.seeding import derive_seed
from fastsvs.selfplay.samplers.history import History, originals
from fastsvs.selfplay.samplers.registry import SAMPLERS, Draw, SamplerTools, ShuffledEpochs
from fastsvs.selfplay.stages import Encode
from fastsvs.selfplay.types import Experience
from fastsvs.verify import Verdict

LEAST_SAMPLES = 2
"""Fewest samples of a problem: one response alone has nothing to be compared with."""
_ANSWER = re.compile(r"\\(?:boxed|fbox|framebox)\b|####")


@SAMPLERS.register("adaptive_resampling")
class AdaptiveResampling(ShuffledEpochs):
    """Sampler that gives more samples to problems that fail, with the same number of samples in each step.

    Each problem gets two samples. The others are shared out in proportion to the failure rates of when the problems
    were last asked (smoothed, see `History.failure_rate`).
    """

    reads_verdicts = True

    def __init__(self, config: SamplerConfig, tools: SamplerTools) -> None:
        super().__init__(config, tools)
        self._history = History()

    def draw(self, step: int) -> list[Draw]:
        draws = super().draw(step)
        rates = [self._history.failure_rate(self.tools.problems[draw.index].id) for draw in draws]
        counts = apportion(
            sum(draw.samples for draw in draws), rates, min(LEAST_SAMPLES, self.tools.samples_per_prompt)
        )
        return [replace(draw, samples=count) for draw, count in zip(draws, counts, strict=True)]

    def observe(self, experience: Experience) -> Experience:
        self._history.take(experience)
        sizes = [len(group.rollouts) for group in originals(experience)]
        if not sizes:
            return experience
        counters = {"sampler/samples_least": min(sizes), "sampler/samples_most": max(sizes)}
        return replace(experience, counters=experience.counters | counters)

    def state_dict(self) -> Any:
        return self._history.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self._history.load_state_dict(state)


@SAMPLERS.register("guided_resampling")
class GuidedResampling(ShuffledEpochs):
    """Sampler that begins the response for the policy when the problem was never solved the last time it was asked.

    The beginning is the first steps of the problem's solution or, without one, of the policy's own latest correct
    response. The number of steps is drawn at random. The beginning belongs to the prompt: it is not learned from, and
    all samples of the group share it. A problem that was solved in this way is next asked from its start again.
    """

    reads_verdicts = True

    def __init__(self, config: SamplerConfig, tools: SamplerTools) -> None:
        super().__init__(config, tools)
        self._history = History()
        self._responses: dict[str, str] = {}
        """Latest correct response to each problem without a solution, by problem id."""
        self._unguided = 0

    def draw(self, step: int) -> list[Draw]:
        draws = super().draw(step)
        failed = [self._history.failed(self.tools.problems[draw.index].id) for draw in draws]
        guided = [
            replace(draw, prefix=self._prefix(self.tools.problems[draw.index], step)) if fails else draw
            for draw, fails in zip(draws, failed, strict=True)
        ]
        self._unguided = sum(fails and not draw.prefix for draw, fails in zip(guided, failed, strict=True))
        return guided

    def observe(self, experience: Experience) -> Experience:
        self._history.take(experience)
        groups = originals(experience)
        for group in groups:
            if not group.task.problem.solution and Verdict.CORRECT in group.verdicts:
                self._responses[group.task.problem.id] = group.texts[group.verdicts.index(Verdict.CORRECT)]
        guided = [group for group in groups if group.task.prefix]
        counters = {
            "sampler/guided": len(guided),
            "sampler/guided_solved": sum(group.correct > 0 for group in guided),
            "sampler/unguided": self._unguided,
        }
        return replace(experience, counters=experience.counters | counters)

    def state_dict(self) -> Any:
        return {"history": self._history.state_dict(), "responses": dict(self._responses)}

    def load_state_dict(self, state: Any) -> None:
        self._history.load_state_dict(state["history"])
        self._responses = dict(state["responses"])

    def _prefix(self, problem: Problem, step: int) -> str:
        """Return the beginning of a response, or an empty text where there is nothing to begin with."""
        solution = problem.solution or self._responses.get(problem.id, "")
        prefixes = beginnings(solution, self.tools.encode, self.tools.max_response_tokens // 2)
        random = Random(derive_seed(self.tools.seed, "guide", step, problem.id))
        return random.choice(prefixes) if prefixes else ""


def beginnings(solution: str, encode: Encode, most_tokens: int) -> list[str]:
    """Return the beginnings of a solution that a response may start with, each of one line or more.

    They have neither the last line nor any from the first answer on (a box, GSM8K's ####), and at most `most_tokens`
    tokens.
    """
    lines = solution.splitlines(keepends=True)
    answer = next((place for place, line in enumerate(lines) if _ANSWER.search(line)), len(lines))
    lines = lines[: min(answer, len(lines) - 1)] if lines else []
    sizes = accumulate(len(encode(line)) for line in lines)
    whole = accumulate(lines)
    return [text for text, line, size in zip(whole, lines, sizes, strict=True) if line.strip() and size <= most_tokens]


def apportion(total: int, weights: Sequence[Fraction], least: int) -> list[int]:
    """Return whole numbers that add up to `total`: `least` each, and the rest in proportion to the weights.

    Rounding is by largest remainder; among equal remainders the first comes first.
    """
    rest = total - least * len(weights)
    shares = [rest * weight / sum(weights) for weight in weights]
    counts = [floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda place: counts[place] - shares[place])
    for place in by_remainder[: rest - sum(counts)]:
        counts[place] += 1
    return [least + count for count in counts]
