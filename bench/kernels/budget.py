"""The time budget of a suite: whether a case still fits into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

from bench.kernels.measure import LEAST_ROUNDS, Contender, quantiles
from bench.kernels.suites import Case, Suite

PASSES_BEFORE = 3
"""Number of untimed passes of every provider: the first compiles, the other two are compared."""
UNKNOWN_OVERHEAD = {True: 45.0, False: 8.0}
"""Time to compile and make inputs in an operator's first case, with and without peers, in seconds."""


@dataclass
class Budget:
    suite: Suite
    begun: float = field(default_factory=perf_counter)
    paces: dict[tuple[str, bool], float] = field(default_factory=dict)
    """Time of a round of all providers per unit of `size`, in seconds, from the last case with the same providers."""
    overheads: dict[tuple[str, bool], float] = field(default_factory=dict)
    """Time outside the rounds, in seconds."""

    def elapsed(self) -> float:
        return perf_counter() - self.begun

    def fits(self, case: Case) -> bool:
        return self.elapsed() + self.expected(case) <= self.suite.limit_seconds

    def expected(self, case: Case) -> float:
        """Return the expected time of a case in seconds.

        Compiling takes as long as before, and passes scale with size. A case not seen before takes all of its time.
        """
        key = case.operator, case.peers
        overhead = self.overheads.get(key, UNKNOWN_OVERHEAD[case.peers])
        if key not in self.paces:
            return overhead + self.suite.case_seconds
        round_seconds = self.paces[key] * size(case)
        timed = min(self.suite.rounds * round_seconds, self.suite.case_seconds + round_seconds)
        return overhead + PASSES_BEFORE * round_seconds + max(timed, LEAST_ROUNDS * round_seconds)

    def learn(self, case: Case, contenders: Sequence[Contender], seconds: float) -> None:
        """Learn the pace and the overhead from a case that took `seconds` in all."""
        times = [values for contender in contenders for values in contender.milliseconds.values()]
        if not times:
            return
        key = case.operator, case.peers
        round_seconds = sum(quantiles(values)[1] for values in times) / 1e3
        self.paces[key] = round_seconds / size(case)
        spent = sum(map(sum, times)) / 1e3 + PASSES_BEFORE * round_seconds
        self.overheads[key] = max(seconds - spent, 0.0)


def size(case: Case) -> float:
    per_logit = 1 if case.operator == "logprob_entropy" else case.shape.hidden
    return float(case.tokens) * case.shape.vocabulary * per_logit
