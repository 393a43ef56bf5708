"""Experience stages by name, what they are built from, and the plainest of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fastsvs.config import SelfPlayConfig
from fastsvs.registry import Registry
from fastsvs.selfplay.counters import count
from fastsvs.selfplay.shaping import informative, solving_rewards
from fastsvs.selfplay.types import Experience, ExperienceStage, Group, Task

Encode = Callable[[str], tuple[int, ...]]
"""Text to token ids."""


@dataclass(frozen=True, slots=True)
class StageTools:
    """What a stage may need beside its configuration."""

    encode_question: Encode
    """To a prompt, through the same PromptFn and suffix as the data's own questions."""
    encode_message: Encode
    """To a prompt of which the text is the only user message."""
    max_prompt_tokens: int
    """Longer prompts are not to be run, and are to be counted."""
    max_response_tokens: int
    seed: int = 0
    """For what a stage draws at random: from this and a task's key or the step, so that it is drawn again."""
    needs_labels: bool = True
    """False where the rewards come from the responses alone: what is correct must not decide what is learned from."""


class Stage(ExperienceStage, Protocol):
    """A stage as a training run plays it. What it carries from step to step is its memory."""

    judges: Sequence[str]
    """Names in JUDGES of those that its tasks ask for, beside the answer verifier."""
    reads_problems: bool
    """False for one that makes all of its tasks itself."""

    def begin(self, step: int, originals: Sequence[Task]) -> list[Task]:
        """The step's first tasks, given those that the data set offers."""

    def memory(self) -> Any:
        """JSON that later steps do not alter; comes with every checkpoint."""

    def recall(self, memory: Any) -> None:
        """Go on from what `memory` gave."""


StageFactory = Callable[[SelfPlayConfig, StageTools], Stage]
STAGES = Registry[StageFactory]("experience stage")


@STAGES.register("none")
class PlainStage:
    """Plain RLVR: nothing is derived; groups that are all correct or all wrong are left out. Without labels all stay.

    What other stages build on: they override what they do otherwise.
    """

    judges: Sequence[str] = ()
    reads_problems = True

    def __init__(self, config: SelfPlayConfig, tools: StageTools) -> None:
        self.config = config
        self.tools = tools

    def begin(self, step: int, originals: Sequence[Task]) -> list[Task]:
        return list(originals)

    def expand(self, group: Group) -> list[Task]:
        return []

    def finish(self, groups: Sequence[Group]) -> Experience:
        rewarded = [replace(group, rewards=solving_rewards(group)) for group in groups]
        return conclude(rewarded, informative if self.tools.needs_labels else lambda group: True)

    def memory(self) -> Any:
        return None

    def recall(self, memory: Any) -> None:
        pass


def conclude(groups: Sequence[Group], keep: Callable[[Group], bool]) -> Experience:
    """The experience of rewarded `groups` under the filter `keep`, with the counters that every stage has."""
    kept: list[Group] = []
    discarded: list[Group] = []
    for group in groups:
        (kept if keep(group) else discarded).append(group)
    return Experience(kept, count(groups, kept), discarded)
