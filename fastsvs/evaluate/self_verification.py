"""Self-verification: a model votes on its own responses, each asked about in a new prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from fastsvs.selfplay import ORIGINAL, VERIFICATION, Experience, Group, Task, verification_prompt


class SelfVerification:
    """An experience stage that derives `votes` verifications from every response, and filters nothing."""

    def __init__(
        self,
        template: str,
        votes: int,
        encode_message: Callable[[str], tuple[int, ...]],
        max_prompt_tokens: int,
        max_response_tokens: int,
    ) -> None:
        self._template = template
        self._votes = votes
        self._encode = encode_message
        self._max_prompt_tokens = max_prompt_tokens
        self._max_response_tokens = max_response_tokens

    def expand(self, group: Group) -> list[Task]:
        """Return one verification for each response. Prompts that are too long are left out: their responses get no
        votes."""
        if group.task.kind != ORIGINAL:
            return []
        tasks = [self._task(group, sample) for sample in range(len(group.texts))]
        return [task for task in tasks if len(task.prompt_ids) <= self._max_prompt_tokens]

    def finish(self, groups: Sequence[Group]) -> Experience:
        return Experience(list(groups), counters={})

    def _task(self, group: Group, sample: int) -> Task:
        prompt = verification_prompt(self._template, group.task.problem.question, group.texts[sample])
        return Task(
            key=group.task.child_key(sample),
            kind=VERIFICATION,
            problem=replace(group.task.problem, question=prompt, system=None),
            prompt_ids=self._encode(prompt),
            samples=self._votes,
            parent=group.task.key,
            parent_sample=sample,
            judge=None,
            max_tokens=self._max_response_tokens,
        )
