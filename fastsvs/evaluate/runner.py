"""Sample every held-out problem n times, verify, and estimate pass@k."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastsvs.config import EvaluationConfig, RolloutConfig
from fastsvs.data.records import Problem
from fastsvs.evaluate.pass_at_k import Estimate, estimate
from fastsvs.rollout.engine import Engine, SamplingParams
from fastsvs.selfplay import Experience, Group, Task, collect, original_tasks
from fastsvs.verify import Verdict, Verifier


@dataclass(frozen=True)
class Evaluation:
    """Responses of one policy version to one problem set."""

    pass_at: dict[int, Estimate]
    groups: Sequence[Group]

    def as_dict(self) -> dict[str, Any]:
        rollouts = [rollout for group in self.groups for rollout in group.rollouts]
        verdicts = [verdict for group in self.groups for verdict in group.verdicts]
        return {
            **{f"pass@{k}": value.as_dict() for k, value in self.pass_at.items()},
            "problems": len(self.groups),
            "samples_per_problem": len(self.groups[0].rollouts),
            "response_tokens": sum(len(r.response_ids) for r in rollouts) / len(rollouts),
            "truncated": sum(r.finish_reason == "length" for r in rollouts) / len(rollouts),
            "unverified": sum(v is Verdict.UNVERIFIED for v in verdicts) / len(verdicts),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One object a problem: what was asked, what was written, what it was worth."""
        return [
            {
                "id": group.task.problem.id,
                "question": group.task.problem.question,
                "answer": group.task.problem.answer,
                "responses": list(group.texts),
                "verdicts": [str(verdict) for verdict in group.verdicts],
            }
            for group in self.groups
        ]


class _KeepAll:
    """An experience stage that derives nothing and filters nothing."""

    def expand(self, group: Group) -> list[Task]:
        return []

    def finish(self, groups: Sequence[Group]) -> Experience:
        return Experience(list(groups), counters={})


def evaluate(
    problems: Sequence[tuple[Problem, tuple[int, ...]]],
    engine: Engine,
    verifier: Verifier,
    decode: Callable[[Sequence[int]], str],
    config: EvaluationConfig,
    rollout: RolloutConfig,
    seed: int,
    cancelled: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """pass@k of the engine's weights on encoded problems. Unverified responses count as not correct, and are shown.

    Driven by all ranks or by the main rank alone, and cancelled, as `selfplay.collect`.
    """
    max_tokens = config.max_response_tokens or rollout.max_response_tokens
    sampling = SamplingParams(temperature=config.temperature, top_p=config.top_p, max_tokens=max_tokens)
    tasks = original_tasks(problems, config.samples)
    groups = collect(_KeepAll(), tasks, engine, verifier, decode, sampling, seed, cancelled=cancelled).groups
    counts = [(len(group.verdicts), sum(v is Verdict.CORRECT for v in group.verdicts)) for group in groups]
    return Evaluation({k: estimate(counts, k) for k in config.k}, groups)
