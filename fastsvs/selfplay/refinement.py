"""SELF: the model comments on its responses, refines them, and approves the result or not (arXiv 2310.00533).

Every response leads to a chain of three more tasks: feedback on it, a refinement with that feedback, feedback on the
refinement. A refinement that the last feedback calls right is an example to learn from. Answers are compared only to
report how often the model's judgement is right; the comparison decides nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from fastsvs.config import SelfConfig
from fastsvs.selfplay.counters import count
from fastsvs.selfplay.templates import fill, read_template
from fastsvs.selfplay.types import ANSWER, ORIGINAL, Experience, Group, Task
from fastsvs.verify import Verdict

FEEDBACK, REFINEMENT, APPROVAL = "feedback", "refinement", "approval"
FATES = ("kept", "disapproved", "truncated", "too_long")
"""Ways in which a chain can end. `truncated` means that the refinement was, `too_long` that a link's prompt was.

A refinement that several chains lead to is kept as many times: what the model agrees on with itself is more often
right.
"""


@dataclass(frozen=True, slots=True)
class Chain:
    """One response and what was made of it; fields are None from where the chain ended."""

    key: str
    """Key of the task that gives feedback on the response. Keys of the chain's later tasks begin with it."""
    problem: str
    question: str
    answer: str
    system: str | None
    """System message of the data set before the question."""
    response: str
    verdict: str
    feedback: str | None = None
    refinement: str | None = None
    refinement_verdict: str | None = None
    approval: str | None = None
    fate: str = "too_long"

    def as_row(self) -> dict[str, Any]:
        return asdict(self)


Children = dict[tuple[str | None, int | None], Group]
"""Groups by parent and the parent's sample."""


class SelfStage:
    """An experience stage for `collect`. Its experience has the groups of kept refinements; no group has rewards."""

    def __init__(self, config: SelfConfig, encode_message: Callable[[str], tuple[int, ...]], max_prompt_tokens: int):
        self._feedback = read_template(
            config.feedback_template, "feedback.txt", ("question", "response"), "evolution.feedback_template"
        )
        self._refinement = read_template(
            config.refinement_template,
            "refinement.txt",
            ("question", "response", "feedback"),
            "evolution.refinement_template",
        )
        self._approval = re.compile(config.approval)
        self._encode = encode_message
        self._max_prompt_tokens = max_prompt_tokens

    def expand(self, group: Group) -> list[Task]:
        """Return the next links of the group's chains whose prompts are not too long."""
        kind, said = group.task.kind, group.texts
        if kind == ORIGINAL:
            tasks = [self._task(group, sample, FEEDBACK, {"response": text}) for sample, text in enumerate(said)]
        elif kind == FEEDBACK:
            tasks = [self._task(group, 0, REFINEMENT, {**group.task.problem.extra, "feedback": said[0]})]
        elif kind == REFINEMENT and not group.truncated:
            tasks = [self._task(group, 0, APPROVAL, {"response": said[0]})]
        else:
            tasks = []
        return [task for task in tasks if len(task.prompt_ids) <= self._max_prompt_tokens]

    def finish(self, groups: Sequence[Group]) -> Experience:
        chains = self.chains(groups)
        kept = {f"{chain.key}/000" for chain in chains if chain.fate == "kept"}
        learned = [group for group in groups if group.task.key in kept]
        rest = [group for group in groups if group.task.key not in kept]
        return Experience(learned, count(groups, learned) | chain_figures(chains), rest)

    def ended(self, group: Group) -> int:
        """Return how many chains end with this group."""
        return (len(group.texts) if group.task.kind == ORIGINAL else 1) - len(self.expand(group))

    def chains(self, groups: Sequence[Group]) -> list[Chain]:
        """Return one chain for every response to an original problem."""
        children: Children = {(group.task.parent, group.task.parent_sample): group for group in groups}
        originals = [group for group in groups if group.task.kind == ORIGINAL]
        return [self._chain(group, sample, children) for group in originals for sample in range(len(group.texts))]

    def _task(self, parent: Group, sample: int, kind: str, said: Mapping[str, str]) -> Task:
        problem = parent.task.problem
        template = self._refinement if kind == REFINEMENT else self._feedback
        return Task(
            key=parent.task.child_key(sample),
            kind=kind,
            problem=replace(problem, extra=said),
            prompt_ids=self._encode(fill(template, {"question": problem.question, **said})),
            samples=1,
            parent=parent.task.key,
            parent_sample=sample,
            judge=ANSWER if kind == REFINEMENT else None,
        )

    def _chain(self, original: Group, sample: int, children: Children) -> Chain:
        problem = original.task.problem
        chain = Chain(
            key=original.task.child_key(sample),
            problem=problem.id,
            question=problem.question,
            answer=problem.answer,
            system=problem.system,
            response=original.texts[sample],
            verdict=str(original.verdicts[sample]),
        )
        feedback = children.get((original.task.key, sample))
        refinement = children.get((feedback.task.key, 0)) if feedback else None
        approval = children.get((refinement.task.key, 0)) if refinement else None
        if feedback:
            chain = replace(chain, feedback=feedback.texts[0])
        if refinement:
            fate = "truncated" if refinement.truncated else "too_long"
            verdict = str(refinement.verdicts[0])
            chain = replace(chain, refinement=refinement.texts[0], refinement_verdict=verdict, fate=fate)
        if approval:
            fate = "kept" if self._approval.search(approval.texts[0]) else "disapproved"
            chain = replace(chain, approval=approval.texts[0], fate=fate)
        return chain


def chain_figures(chains: Sequence[Chain]) -> dict[str, float]:
    """Return the number of chains of each fate, and two shares where there is something to take them of.

    `kept_right`: share of the kept refinements that are right; `approval_accuracy`: share of the last feedbacks whose
    judgement of a refinement agrees with the comparison of answers.
    """
    fates = Counter(chain.fate for chain in chains)
    figures: dict[str, float] = {fate: fates[fate] for fate in FATES}
    kept = [chain for chain in chains if chain.fate == "kept"]
    judged = [chain for chain in chains if chain.approval is not None]
    if kept:
        figures["kept_right"] = fmean(_is_right(chain) for chain in kept)
    if judged:
        figures["approval_accuracy"] = fmean((chain.fate != "disapproved") == _is_right(chain) for chain in judged)
    return figures


def _is_right(chain: Chain) -> bool:
    return chain.refinement_verdict == Verdict.CORRECT
