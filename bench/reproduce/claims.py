"""The claims of the papers, each as a difference that these runs can decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.experiments.plan import BASE
from bench.experiments.statistics import Difference
from bench.reproduce.plan import RLVR, SFT, Reproduction
from bench.reproduce.results import Results, Side

PAPER, CHAE, REVIEWS = "SvS", "Chae et al.", "asked of SvS"
PAPER_K = 32
"""Value of k for which the SvS paper prints its tables."""
Expected = Literal["higher", "not higher", "lower", "not lower"]
Verdict = Literal["agrees", "does not agree", "undecided"]


@dataclass(frozen=True, slots=True)
class Claim:
    text: str
    source: str
    metric: str
    left: Side
    right: Side
    expected: Expected
    """Expected result of the left side compared with the right one."""


def claims(plan: Reproduction, results: Results, self_play: str) -> list[Claim]:
    """Return the claims in the order of the page, with `self_play` for SvS.

    At equal cost, RLVR is taken where it has sampled about as many responses.
    """
    base, svs, rlvr, sft = Side(BASE, 0), *(Side(method, plan.compared) for method in (self_play, RLVR, SFT))
    matched = same_cost(plan, results, self_play)
    some, many = min(PAPER_K, plan.samples), plan.samples
    few, lots = f"pass@{some}", f"pass@{many}"
    return [
        Claim("RLVR raises pass@1 above the base's", PAPER, "pass@1", rlvr, base, "higher"),
        Claim("RLVR lowers the policy's entropy", PAPER, "entropy", rlvr, base, "lower"),
        Claim(f"RLVR does not solve more within {many} tries", PAPER, lots, rlvr, base, "not higher"),
        Claim("SvS keeps more entropy than RLVR", PAPER, "entropy", svs, rlvr, "higher"),
        Claim("SvS keeps the base's entropy", PAPER, "entropy", svs, base, "not lower"),
        Claim("SvS solves more than RLVR in one try", PAPER, "pass@1", svs, rlvr, "higher"),
        Claim(f"SvS solves more than RLVR within {some} tries", PAPER, few, svs, rlvr, "higher"),
        Claim(f"SvS solves more than RLVR within {many} tries", PAPER, lots, svs, rlvr, "higher"),
        Claim("at equal cost too, SvS solves more in one try", REVIEWS, "pass@1", svs, matched, "higher"),
        Claim(f"at equal cost too, within {some} tries", REVIEWS, few, svs, matched, "higher"),
        Claim(f"at equal cost too, within {many} tries", REVIEWS, lots, svs, matched, "higher"),
        Claim("at equal cost too, SvS keeps more entropy", REVIEWS, "entropy", svs, matched, "higher"),
        Claim("self-play solves more than the base in one try", CHAE, "pass@1", svs, base, "higher"),
        Claim(f"the base solves as much within {many} tries", CHAE, lots, svs, base, "not higher"),
        Claim("self-play changes more weights than RLVR", CHAE, "sparsity/bf16", svs, rlvr, "lower"),
        Claim("self-play changes fewer weights than SFT", CHAE, "sparsity/bf16", svs, sft, "higher"),
    ]


def same_cost(plan: Reproduction, results: Results, self_play: str) -> Side:
    """Return RLVR at the step where its number of responses is nearest to that of `self_play` at `compared`."""
    target = results.mean(Side(self_play, plan.compared), "responses")
    return min(
        (Side(RLVR, step) for step in results.curve(RLVR, "responses")),
        key=lambda side: abs(results.mean(side, "responses") - target),
    )


def judge(expected: Expected, found: Difference) -> Verdict:
    """Decide a claim by the interval of left minus right alone."""
    match expected:
        case "higher":
            yes, no = found.low > 0, found.high <= 0
        case "not higher":
            yes, no = found.high <= 0, found.low > 0
        case "lower":
            yes, no = found.high < 0, found.low >= 0
        case "not lower":
            yes, no = found.low >= 0, found.high < 0
    return "agrees" if yes else "does not agree" if no else "undecided"
