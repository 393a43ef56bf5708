"""Figures of the runs of a provider: pure functions of what their folders hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean
from typing import Any

from fastsvs.selfplay import VARIANT
from fastsvs.selfplay.svs.shaping import rate_of_variants
from fastsvs.stored_run import StoredRun

LAST = 5
"""Number of last steps over which the figures of a trained policy are taken."""
RULES = [(first, chance) for first in (4, 6) for chance in (0.5, 1.0)]
"""Budgets (`first_samples`, `chance`) that runs without one are judged by."""

Metrics = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Figure:
    metric: str
    value: float
    unit: str
    limit: float | None = None


Describe = Callable[[Sequence[StoredRun]], Iterator[Figure]]
"""Function from runs of one provider that differ in their seed to figures."""


def of_refills(runs: Sequence[StoredRun]) -> Iterator[Figure]:
    steps = [row for run in runs for row in run.metrics()]
    asked, learned = _mean(steps, "groups/original"), _mean(steps, "kept_groups/original")
    yield Figure("problems asked a step", asked, "count")
    yield Figure("problems learned from a step", learned, "count", limit=asked - _mean(steps, "refill/asked"))
    yield Figure("problems asked for one learned from", asked / learned, "ratio")
    for kind in ("synthesis", "variant"):
        if any(f"groups/{kind}" in row for row in steps):
            yield Figure(f"{kind} groups learned from a step", _mean(steps, f"kept_groups/{kind}"), "count")
    yield Figure("response tokens sampled a step", fmean(map(_sampled_tokens, steps)), "count")


def of_budget(runs: Sequence[StoredRun]) -> Iterator[Figure]:
    steps = [row for run in runs for row in run.metrics()]
    sampled = fmean(_total(row, "samples/") for row in steps)
    solutions, saved = _mean(steps, "samples/variant"), _mean(steps, "budget/saved")
    yield Figure("responses sampled a step", sampled, "count")
    yield Figure("solutions of variants sampled a step", solutions, "count")
    yield Figure("solutions of variants saved", saved / (solutions + saved), "share")
    yield Figure("variants stopped a step", _mean(steps, "budget/stopped"), "count")
    yield Figure("contexts a step", _mean(steps, "contexts") + _mean(steps, "budget/contexts"), "count")
    yield Figure("further contexts a step", _mean(steps, "budget/contexts"), "count")
    for kind in ("original", "synthesis", "variant"):
        yield Figure(f"{kind} groups learned from a step", _mean(steps, f"kept_groups/{kind}"), "count")
    learned = fmean(_total(row, "kept_groups/") for row in steps)
    yield Figure("responses sampled for a group learned from", sampled / learned, "ratio")
    for name in ("pass@1", "pass@8"):
        if results := [run.summary()["after"][name]["mean"] for run in runs if name in run.summary()["after"]]:
            yield Figure(f"held-out {name} after training", fmean(results), "share")
    if not saved:
        yield from _foreseen([variant for run in runs for variant in _variants(run)])


def of_overlong(runs: Sequence[StoredRun]) -> Iterator[Figure]:
    first, last = ([row for run in runs for row in run.metrics()[part]] for part in (slice(LAST), slice(-LAST, None)))
    for when, steps in (("first", first), ("last", last)):
        answers = _mean(steps, "samples/original")
        yield Figure(f"length of an answer, {when} {LAST} steps", _mean(steps, "response_tokens/original"), "tokens")
        yield Figure(f"answers cut off, {when} {LAST} steps", _mean(steps, "truncated/original") / answers, "share")
        yield Figure(f"answers solved, {when} {LAST} steps", _mean(steps, "solve_rate/original"), "share")


@dataclass(frozen=True, slots=True)
class _Variant:
    """A variant that was solved to the end."""

    right: Sequence[bool]
    """Verdicts of the solutions, [samples]: True for a right one."""
    original: tuple[Fraction, int]
    """Accuracy and number of the answers to its original."""

    def chance(self, first: int) -> float:
        """Return the probability, after so many solutions, that all of them will differ."""
        right = sum(self.right[:first])
        return rate_of_variants(*self.original).chance_to_differ(right, first - right, len(self.right) - first)

    @property
    def informative(self) -> bool:
        return len(set(self.right)) > 1


def _variants(run: StoredRun) -> Iterator[_Variant]:
    """Yield the variants of a run whose answers, and those to their originals, were all verified."""
    for step in run.sample_files():
        groups: dict[str, Any] = {row["key"]: row for row in run.samples(step)}
        for row in groups.values():
            if row["kind"] == VARIANT:
                answers = groups[groups[row["parent"]]["parent"]]["verdicts"]
                if "unverified" not in (*row["verdicts"], *answers):
                    accuracy = Fraction(answers.count("correct"), len(answers))
                    yield _Variant([verdict == "correct" for verdict in row["verdicts"]], (accuracy, len(answers)))


def _foreseen(variants: Sequence[_Variant]) -> Iterator[Figure]:
    """Yield what budgets would have saved and lost, and how well the posterior foresees which groups are
    informative."""
    informative = sum(variant.informative for variant in variants)
    for first, chance in [rule for rule in RULES if rule[0] < len(variants[0].right)]:
        stopped = [variant for variant in variants if variant.chance(first) < chance]
        lost = sum(variant.informative for variant in stopped)
        case = f"first {first} and chance {chance:g}"
        yield Figure(f"{case}: solutions of variants saved", _share(len(stopped), first, variants), "share")
        yield Figure(f"{case}: informative groups lost", lost / informative, "share")
    for first in sorted({first for first, _ in RULES if first < len(variants[0].right)}):
        for answer in ("wrong", "right"):
            alike = [variant for variant in variants if set(variant.right[:first]) == {answer == "right"}]
            if alike:
                case = f"informative after {first} {answer} answers"
                yield Figure(f"{case}, foreseen", fmean(variant.chance(first) for variant in alike), "share")
                yield Figure(f"{case}, found", fmean(variant.informative for variant in alike), "share")


def _share(stopped: int, first: int, variants: Sequence[_Variant]) -> float:
    size = len(variants[0].right)
    return stopped * (size - first) / (len(variants) * size)


def _mean(steps: Sequence[Metrics], name: str) -> float:
    return fmean(row.get(name, 0) for row in steps)


def _total(row: Metrics, beginning: str) -> float:
    return sum(value for name, value in row.items() if name.startswith(beginning))


def _sampled_tokens(row: Metrics) -> float:
    """Return the number of tokens in all responses of a step."""
    kinds = [name.partition("/")[2] for name in row if name.startswith("samples/")]
    return sum(row[f"samples/{kind}"] * row[f"response_tokens/{kind}"] for kind in kinds)
