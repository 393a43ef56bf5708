"""Answers of a model to the problems of a set, and every figure that follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter

from fastsvs.config import SamplingPlan
from fastsvs.evaluate.gap import Judgements, gap_figures
from fastsvs.evaluate.pass_at_k import Estimate, bootstrap, estimate
from fastsvs.majority import Votes, majority_at_k, votes
from fastsvs.selfplay import Group
from fastsvs.verify import Verdict


@dataclass(frozen=True, slots=True)
class Answered:
    """One problem with its samples. As a JSON object it is one line of the samples file."""

    key: str
    """Key of the problem's place in its set: sorted keys are the order of the set."""
    id: str
    question: str
    answer: str
    responses: Sequence[str]
    """Decoded responses, [samples]. The fields that follow are [samples] too."""
    verdicts: Sequence[str]
    finish: Sequence[str]
    """Reason why each response ended: `stop` or `length`."""
    tokens: Sequence[int]
    logprobs: Sequence[float]
    """Sum of the log-probs of each response's tokens, under the distribution that they were sampled from."""
    judgements: Judgements | None = None
    """Votes of the model on each of its responses; None where it was not asked."""

    @classmethod
    def of(cls, group: Group, judgements: Judgements | None = None) -> Answered:
        return cls(
            key=group.task.key,
            id=group.task.problem.id,
            question=group.task.problem.question,
            answer=group.task.problem.answer,
            responses=list(group.texts),
            verdicts=[str(verdict) for verdict in group.verdicts],
            finish=[rollout.finish_reason for rollout in group.rollouts],
            tokens=[len(rollout.response_ids) for rollout in group.rollouts],
            logprobs=[round(sum(rollout.logprobs), 4) for rollout in group.rollouts],
            judgements=judgements,
        )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Answered:
        """Return the problem that `as_row` made a row of. Raises pydantic's ValidationError for another row."""
        return _ROWS.validate_python(row)

    def as_row(self) -> dict[str, Any]:
        row = asdict(self)
        return row if self.judgements is not None else {name: row[name] for name in row if name != "judgements"}

    @property
    def correct(self) -> int:
        return sum(verdict == Verdict.CORRECT for verdict in self.verdicts)

    @property
    def votes(self) -> Votes:
        return votes(self.responses, self.verdicts)


_ROWS = TypeAdapter(Answered)


def pass_rates(answered: Sequence[Answered], ks: Sequence[int]) -> dict[str, Estimate]:
    """Return `pass@k` for every k. What could not be verified counts as not correct."""
    counts = [(len(problem.verdicts), problem.correct) for problem in answered]
    return {f"pass@{k}": estimate(counts, k) for k in ks}


def majority_rates(answered: Sequence[Answered], ks: Sequence[int]) -> dict[str, Estimate]:
    """Return `maj@k` for every k over 1."""
    ballots = [problem.votes for problem in answered]
    return {
        f"maj@{k}": bootstrap([majority_at_k(ballot, k, seed) for seed, ballot in enumerate(ballots)])
        for k in ks
        if k > 1
    }


def figures(answered: Sequence[Answered], plan: SamplingPlan) -> dict[str, Any]:
    """Return all figures of a set, a pure function of the samples. docs/metrics.md says what each means."""
    tokens = [count for problem in answered for count in problem.tokens]
    rates = pass_rates(answered, plan.k) | majority_rates(answered, plan.k)
    judged = [
        ([float(verdict == Verdict.CORRECT) for verdict in problem.verdicts], problem.judgements)
        for problem in answered
        if problem.judgements is not None
    ]
    own = gap_figures(judged) if judged else {}
    return {
        **{name: rate.as_dict() for name, rate in rates.items()},
        "problems": len(answered),
        "samples_per_problem": len(answered[0].responses),
        "response_tokens": fmean(tokens),
        "truncated": fmean(reason == "length" for problem in answered for reason in problem.finish),
        "unverified": fmean(verdict == Verdict.UNVERIFIED for problem in answered for verdict in problem.verdicts),
        "distinct_answers": fmean(problem.votes.distinct / len(problem.responses) for problem in answered),
        "entropy_estimate": -sum(logprob for problem in answered for logprob in problem.logprobs) / sum(tokens),
        **{name: value.as_dict() if isinstance(value, Estimate) else value for name, value in own.items()},
    }
