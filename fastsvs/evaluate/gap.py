"""The generation-verification gap: how much better a model's responses get when its own judgement chooses among them.

Definition 2.1 of "Mind the Gap" (arXiv 2412.02674): the expected utility of responses re-weighted by the model's own
score, minus the expected utility of the responses as sampled. Here a response's utility is 1 when its answer is right,
else 0, and its score is the share of `verify.samples` votes that call it right.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from fastsvs.evaluate.pass_at_k import Estimate, bootstrap, resampled
from fastsvs.verify import canonical_answer

Judgements = Sequence[Sequence[int | None]]
"""Votes on the responses to one problem, [samples][votes]: 1 right, 0 wrong, None neither.

A response has no votes where its question was too long for a prompt.
"""
Judged = tuple[Sequence[float], Judgements]
"""Utilities [samples] of one problem's responses, and the votes on them."""


def read_vote(response: str) -> int | None:
    """Return the vote in the last box of a verification: 1 right, 0 wrong, None neither."""
    return {"1": 1, "0": 0}.get(canonical_answer(response) or "")


def own_scores(judgements: Judgements) -> list[float]:
    """Return the share of each response's votes that say right, [samples]; 0 where there is no vote."""
    return [sum(vote == 1 for vote in votes) / max(len(votes), 1) for votes in judgements]


def reweighted(utilities: Sequence[float], scores: Sequence[float]) -> float:
    """Return sum_i s_i u_i / sum_i s_i, or the plain mean where every score is 0 and so prefers nothing."""
    total = sum(scores)
    return sum(s * u for s, u in zip(scores, utilities, strict=True)) / total if total else fmean(utilities)


def filtered(utilities: Sequence[float], scores: Sequence[float]) -> float:
    """Return the mean over the responses that more than half of the votes call right, or over all where there are
    none."""
    return fmean([u for s, u in zip(scores, utilities, strict=True) if s > 0.5] or utilities)


def vote_accuracy(utilities: Sequence[float], judgements: Judgements) -> float | None:
    """Return the share of a problem's votes that agree with the utility, or None without votes.

    An unreadable vote does not agree.
    """
    agree = [vote == utility for utility, votes in zip(utilities, judgements, strict=True) for vote in votes]
    return fmean(agree) if agree else None


def relative(gaps: Sequence[float], means: Sequence[float]) -> Estimate:
    """Return mean gap / (1 - mean utility) over problems, with its interval.

    Problems are drawn with both of their values. The ratio is 0 where every response is right: nothing is left to gain.
    """

    def ratio(gap: np.ndarray, mean: np.ndarray) -> np.ndarray:
        room = 1 - mean
        return np.divide(gap, room, out=np.zeros_like(gap), where=room > 1e-12)

    return resampled(np.array([gaps, means]), lambda values: ratio(values[0], values[1]))


def gap_figures(problems: Sequence[Judged]) -> dict[str, Estimate | float]:
    """Return the figures of the gap over problems.

    `gap` (re-weighted), `gap_filtered`, `relative_gap`, `verification_accuracy`: with intervals over problems.
    `called_right`: share of the votes that say right; `unread_votes`: share of the votes that say neither; `unjudged`:
    share of the responses without votes.
    """
    scored = [(utilities, own_scores(judgements)) for utilities, judgements in problems]
    means = [fmean(utilities) for utilities, _ in scored]
    gaps = [reweighted(*problem) - mean for problem, mean in zip(scored, means, strict=True)]
    accuracies = [accuracy for problem in problems if (accuracy := vote_accuracy(*problem)) is not None]
    responses = [votes for _, judgements in problems for votes in judgements]
    votes = [vote for response in responses for vote in response]
    figures: dict[str, Estimate | float] = {
        "gap": bootstrap(gaps),
        "gap_filtered": bootstrap([filtered(*problem) - mean for problem, mean in zip(scored, means, strict=True)]),
        "relative_gap": relative(gaps, means),
        "unjudged": fmean(not votes for votes in responses),
    }
    if votes:
        figures |= {
            "verification_accuracy": bootstrap(accuracies),
            "called_right": fmean(vote == 1 for vote in votes),
            "unread_votes": fmean(vote is None for vote in votes),
        }
    return figures
