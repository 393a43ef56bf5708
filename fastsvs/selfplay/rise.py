"""RISE: the policy learns to solve problems and to judge its own solutions in the same steps (arXiv 2505.13445).

For every problem the policy gets some of its own responses again, with the question whether they are right. The
verifier's verdict on the response is the answer to that question. The policy learns from both kinds of prompts
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from fastsvs.config import SelfPlayConfig
from fastsvs.seeding import derive_seed
from fastsvs.selfplay.stages import STAGES, PlainStage, StageTools
from fastsvs.selfplay.templates import fill, read_template, shown
from fastsvs.selfplay.types import ORIGINAL, Experience, Group, Task
from fastsvs.verify import Verdict

VERIFICATION = "verification"
ANSWERS = {Verdict.CORRECT: "1", Verdict.WRONG: "0"}


def load_verification_template(path: str | None) -> str:
    """Load the verification prompt at `path`, or the built-in one. Raises UserError when it cannot be used."""
    return read_template(path, "verification.txt", ("question", "response"), "verification template")


def verification_prompt(template: str, question: str, response: str) -> str:
    """Return the text that asks whether the response answers the question."""
    return fill(template, {"question": question, "response": response})


@STAGES.register("rise")
class RiseStage(PlainStage):
    """The stage that solves, then verifies some of the solutions. A right verdict earns what a right answer earns: 1,
    else 0."""

    def __init__(self, config: SelfPlayConfig, tools: StageTools) -> None:
        super().__init__(config, tools)
        self.template = load_verification_template(config.rise.template)

    def expand(self, group: Group) -> list[Task]:
        if group.task.kind != ORIGINAL:
            return []
        return [task for sample in self._chosen(group) if self._fits(task := self._verification_task(group, sample))]

    def finish(self, groups: Sequence[Group]) -> Experience:
        experience = super().finish(groups)
        chosen = [len(self._chosen(group)) for group in groups if group.task.kind == ORIGINAL]
        asked = [group.task.problem.answer for group in groups if group.task.kind == VERIFICATION]
        counters = {
            "critiques": len(asked),
            "critiques_of_right": asked.count(ANSWERS[Verdict.CORRECT]),
            "critiques_too_long": sum(chosen) - len(asked),
        }
        return replace(experience, counters=experience.counters | counters)

    def _chosen(self, group: Group) -> list[int]:
        """Return the responses to ask about, drawn at random among those that the verifier could judge."""
        judged = [sample for sample, verdict in enumerate(group.verdicts) if verdict in ANSWERS]
        random = Random(derive_seed(self.tools.seed, VERIFICATION, group.task.key, group.task.problem.id))
        return sorted(random.sample(judged, min(self.config.rise.critiques_per_problem, len(judged))))

    def _verification_task(self, group: Group, sample: int) -> Task:
        parent, key = group.task, group.task.child_key(sample)
        question = verification_prompt(self.template, parent.problem.question, shown(group.texts[sample], self.config))
        answer = ANSWERS[group.verdicts[sample]]
        return Task(
            key=key,
            kind=VERIFICATION,
            problem=replace(
                parent.problem, id=f"{parent.problem.id}:{key}", question=question, answer=answer, system=None
            ),
            prompt_ids=self.tools.encode_message(question),
            samples=self.config.rise.samples_per_critique,
            parent=parent.key,
            parent_sample=sample,
        )

    def _fits(self, task: Task) -> bool:
        return len(task.prompt_ids) <= self.tools.max_prompt_tokens
