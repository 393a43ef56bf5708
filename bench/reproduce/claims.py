"""Hypotheses that were stated beforehand, each as a difference that these runs can decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.experiments.plan import BASE
from bench.experiments.statistics import Difference, holm
from bench.reproduce.plan import AGAIN, ON_POLICY, RLVR, SVS, SVS_BUDGET, SVS_UNFILTERED, UNFILTERED, Reproduction
from bench.reproduce.results import GAP, Results, Side

SOME_K = 32
"""Value of k for which the SvS paper prints its tables."""
Expected = Literal["higher", "lower"]
Verdict = Literal["agrees", "does not agree", "undecided"]


@dataclass(frozen=True, slots=True)
class Claim:
    number: int
    """Number of the hypothesis in the text of the regime."""
    metric: str
    left: Side
    right: Side
    expected: Expected
    """Expected result of the left side compared with the right one."""


def claims(plan: Reproduction, results: Results) -> list[Claim]:
    """Return all differences between methods of the plan, in the order of the hypotheses."""
    stated = [
        *_of_rlvr(plan),
        *(
            claim
            for method in (ON_POLICY, SVS)
            if method in plan.steps
            for claim in _of_self_play(plan, results, method)
        ),
        *_of_options(plan),
    ]
    known = {BASE, *plan.steps}
    among = [claim for claim in stated if known >= {claim.left.method, claim.right.method}]
    return sorted(among, key=lambda claim: claim.number)


def _of_rlvr(plan: Reproduction) -> list[Claim]:
    rlvr, base, unfiltered = Side(RLVR, plan.compared), Side(BASE, 0), Side(UNFILTERED, plan.compared)
    many = f"pass@{min(SOME_K, plan.samples)}"
    return [
        Claim(1, "pass@1", Side(RLVR, plan.steps[RLVR]), Side(RLVR, None), "lower"),
        Claim(1, many, rlvr, base, "lower"),
        Claim(1, "entropy", rlvr, base, "lower"),
        *(Claim(2, metric, unfiltered, rlvr, "higher") for metric in ("pass@1", many)),
    ]


def _of_self_play(plan: Reproduction, results: Results, method: str) -> list[Claim]:
    ours, rlvr, again = (Side(name, plan.compared) for name in (method, RLVR, AGAIN))
    few, many = (f"pass@{min(k, plan.samples)}" for k in (8, SOME_K))
    all_four = tuple(dict.fromkeys(("pass@1", few, many, "entropy")))
    same = same_cost(results, ours)
    return [
        *(Claim(3, metric, ours, rlvr, "higher") for metric in all_four),
        *(Claim(4, metric, ours, same, "higher") for metric in all_four),
        *(Claim(5, metric, Side(method, None), Side(RLVR, None), "higher") for metric in ("pass@1", many)),
        *(Claim(6, metric, ours, again, "higher") for metric in ("pass@1", many, "entropy")),
        Claim(7, GAP, ours, rlvr, "lower"),
    ]


def _of_options(plan: Reproduction) -> list[Claim]:
    unfiltered, budget, ours, rlvr = (
        Side(name, plan.compared) for name in (SVS_UNFILTERED, SVS_BUDGET, ON_POLICY, UNFILTERED)
    )
    few, many = (f"pass@{min(k, plan.samples)}" for k in (8, SOME_K))
    all_four = tuple(dict.fromkeys(("pass@1", few, many, "entropy")))
    return [
        *(Claim(8, metric, unfiltered, rlvr, "higher") for metric in all_four),
        *(Claim(9, metric, budget, ours, "higher") for metric in ("pass@1", many)),
    ]


def same_cost(results: Results, side: Side) -> Side:
    """Return RLVR at the step where its number of responses is nearest to that of `side`."""
    target = results.mean(side, "responses")
    return min(
        (Side(RLVR, step) for step in results.curve(RLVR, "responses")),
        key=lambda rlvr: abs(results.mean(rlvr, "responses") - target),
    )


def judge(expected: Expected, found: Difference) -> Verdict:
    """Decide a claim by the interval of left minus right alone."""
    above, below = found.low > 0, found.high < 0
    yes, no = (above, below) if expected == "higher" else (below, above)
    return "agrees" if yes else "does not agree" if no else "undecided"


def corrected(stated: list[Claim], results: Results) -> list[float]:
    """Return the p-values of all claims after Holm's correction."""
    return holm([results.chance(claim.left, claim.right, claim.metric) for claim in stated])
