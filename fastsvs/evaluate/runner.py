"""The sampling of an evaluation: every problem of a set n times, with the verdicts of the verifier.

Where it is wanted, the model verifies its responses too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastsvs.config import RolloutConfig, SamplingPlan
from fastsvs.data import Problem
from fastsvs.evaluate.answered import Answered
from fastsvs.evaluate.gap import read_vote
from fastsvs.evaluate.self_verification import SelfVerification
from fastsvs.rollout import Inference, SamplingParams
from fastsvs.selfplay import Experience, Group, Task, collect, original_tasks
from fastsvs.verify import AnswerVerifier


def evaluate(
    problems: Sequence[tuple[Problem, tuple[int, ...]]],
    engine: Inference,
    verifier: AnswerVerifier,
    decode: Callable[[Sequence[int]], str],
    plan: SamplingPlan,
    rollout: RolloutConfig,
    seed: int,
    cancelled: Callable[[], bool] = lambda: False,
    done: Sequence[Answered] = (),
    progress: Callable[[Answered, Group], None] = lambda answered, group: None,
    self_verification: SelfVerification | None = None,
) -> list[Answered]:
    """Return what the engine's weights answer to the encoded problems, in the order of the problems.

    `progress` is called with each problem once it is verified, with the votes of `self_verification` if there is one,
    and with the group of its responses. Problems that are `done` are not asked again: a problem's samples depend on its
    place and `seed`, not on the problems beside it. As with `selfplay.collect`, all ranks or the main rank alone call
    it, and `cancelled` stops it.
    """
    max_tokens = plan.max_response_tokens or rollout.max_response_tokens
    sampling = SamplingParams(temperature=plan.temperature, top_p=plan.top_p, max_tokens=max_tokens)
    keys = {problem.key for problem in done}
    tasks = [task for task in original_tasks(problems, plan.samples) if task.key not in keys]
    answered = list(done)
    families = _Families(self_verification)

    def take(group: Group, asked: int) -> None:
        complete = families.add(group)
        if complete is not None:
            answered.append(complete[0])
            progress(*complete)

    collect(
        self_verification or _KeepAll(),
        tasks,
        engine,
        verifier,
        decode,
        sampling,
        seed,
        progress=take,
        cancelled=cancelled,
    )
    return sorted(answered, key=lambda problem: problem.key)


def greedy_repetitions(section: str, plan: SamplingPlan) -> list[str]:
    """Return a line where one problem is answered several times at temperature 0."""
    if plan.temperature > 0 or plan.samples == 1:
        return []
    return [
        f"{section}.temperature=0 is greedy: the {plan.samples} responses to a problem are the same; "
        f"{section}.samples=1 and {section}.k=[1] make one"
    ]


class _KeepAll:
    """An experience stage that derives nothing and filters nothing."""

    def expand(self, group: Group) -> list[Task]:
        return []

    def finish(self, groups: Sequence[Group]) -> Experience:
        return Experience(list(groups), counters={})


class _Families:
    """The problems whose responses or votes are not all there; the votes come as groups of their own."""

    def __init__(self, self_verification: SelfVerification | None) -> None:
        self._stage = self_verification
        self._originals: dict[str, Group] = {}
        self._votes: dict[str, dict[int, list[int | None]]] = {}
        self._due: dict[str, int] = {}

    def add(self, group: Group) -> tuple[Answered, Group] | None:
        """Take in a group and return the problem that it completes, with the group of its responses; else None."""
        if self._stage is None:
            return Answered.of(group), group
        key = group.task.parent or group.task.key
        if group.task.parent is None:
            self._originals[key], self._votes[key] = group, {}
            self._due[key] = len(self._stage.expand(group))
        else:
            assert group.task.parent_sample is not None
            self._votes[key][group.task.parent_sample] = [read_vote(text) for text in group.texts]
        if len(self._votes[key]) < self._due[key]:
            return None
        original, votes = self._originals.pop(key), self._votes.pop(key)
        judgements = [votes.get(sample, []) for sample in range(len(original.texts))]
        return Answered.of(original, judgements), original
