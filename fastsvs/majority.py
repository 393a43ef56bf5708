"""maj@k: the chance that the answer most often given by k samples is correct (self-consistency, arXiv 2203.11171)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fastsvs.verify import Verdict, canonical_answer

DRAWS = 1000
"""Number of subsets of k samples that are drawn for each problem when there is more than one subset."""


@dataclass(frozen=True, slots=True)
class Votes:
    """The samples of one problem, counted by their answers."""

    correct: int
    """Number of correct samples. They all count as one answer, whatever its form."""
    wrong: tuple[int, ...]
    """Number of samples of each wrong answer, the largest first."""
    silent: int = 0
    """Number of samples without an answer: they have no vote."""

    @property
    def samples(self) -> int:
        return self.correct + sum(self.wrong) + self.silent

    @property
    def distinct(self) -> int:
        """Return the number of different answers."""
        return len(self.wrong) + (self.correct > 0)


def votes(responses: Sequence[str], verdicts: Sequence[str]) -> Votes:
    """Count a problem's samples by answer. Wrong answers are the same when they are the same integer, or the same text
    in the box."""
    answers = [None if v == Verdict.CORRECT else canonical_answer(r) for r, v in zip(responses, verdicts, strict=True)]
    correct = sum(verdict == Verdict.CORRECT for verdict in verdicts)
    counts = Counter(answer for answer in answers if answer is not None)
    return Votes(correct, tuple(sorted(counts.values(), reverse=True)), len(answers) - correct - counts.total())


def majority_at_k(votes: Votes, k: int, seed: int = 0) -> float:
    """Return the expected correctness of the most frequent answer among k of the samples, drawn without replacement.

    A right answer that ties with others counts as one over the number of tied answers. The value is exact for k = 1 and
    for all samples, else the mean over `DRAWS` draws. Raises ValueError when k is not from 1 to the number of samples.
    """
    if not 1 <= k <= votes.samples:
        raise ValueError(f"maj@k needs 1 <= k <= {votes.samples} samples, got {k}")
    if k == 1:
        return votes.correct / votes.samples
    if votes.correct in (0, votes.samples):
        return float(votes.correct > 0)
    if k == votes.samples:
        tied = votes.wrong.count(votes.correct)
        return 1 / (1 + tied) if votes.correct >= max(votes.wrong, default=0) else 0.0
    return _mean_over_draws(votes, k, seed)


def _mean_over_draws(votes: Votes, k: int, seed: int) -> float:
    import numpy as np  # a report, which draws for some evaluations alone, begins without it

    colors = [votes.correct, *votes.wrong, votes.silent]
    draws = np.random.default_rng(seed).multivariate_hypergeometric(colors, k, size=DRAWS, method="marginals")
    right = draws[:, 0]
    rivals = draws[:, 1:-1]
    most = np.maximum(right, rivals.max(axis=1, initial=0))
    tied = (rivals == most[:, None]).sum(axis=1)
    return float(np.where((right == most) & (right > 0), 1 / (1 + tied), 0.0).mean())
