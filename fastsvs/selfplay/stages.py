"""Registry of the experience stages, what they are built from, and the plainest of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fastsvs.config import SelfPlayConfig
from fastsvs.data import Problem
from fastsvs.registry import Registry
from fastsvs.selfplay.counters import count
from fastsvs.selfplay.types import Experience, ExperienceStage, Group, Task

Encode = Callable[[str], tuple[int, ...]]
"""Function from text to token ids."""


@dataclass(frozen=True, slots=True)
class StageTools:
    """The settings that a stage is built from, besides its configuration."""

    encode_problem: Callable[[Problem], tuple[int, ...]]
    """Encoder of a problem into the prompt that asks it, with the PromptFn, suffix and system message of the data's
    own."""
    encode_message: Encode
    """Encoder of a text into a prompt that has the text as its only user message."""
    max_prompt_tokens: int
    """Longest prompt in tokens. A stage counts longer ones and does not run them."""
    max_response_tokens: int
    seed: int = 0
    """Seed of what a stage draws at random, with a task's key or the step, so that the draw can be repeated."""


class Stage(ExperienceStage, Protocol):
    """A stage as a training run uses it. What it carries from step to step is its state."""

    judges: Sequence[str]
    """Names in JUDGES of the judges that its tasks ask for, besides the answer verifier."""
    reads_problems: bool
    """False for a stage that makes all of its tasks itself."""

    def begin(self, step: int, originals: Sequence[Task]) -> list[Task]:
        """Return the step's first tasks, given those that the data set offers."""

    def state_dict(self) -> Any:
        """Return JSON that later steps do not change. Every checkpoint holds it."""

    def load_state_dict(self, state: Any) -> None:
        """Restore what `state_dict` gave."""


StageFactory = Callable[[SelfPlayConfig, StageTools], Stage]
STAGES = Registry[StageFactory](
    "experience stage",
    takes=("config", "tools"),
    makes=("judges", "reads_problems", "begin", "expand", "finish", "state_dict", "load_state_dict"),
)


@STAGES.register("none")
class PlainStage:
    """The stage of plain RLVR. Other stages derive from it and override what they do otherwise.

    It makes no new tasks. Groups that are all correct or all wrong are left out.
    """

    judges: Sequence[str] = ()
    reads_problems = True
    by_family = True
    """True where `finish` is pure and treats each family alone, so that a step can be learned from in waves."""

    def __init__(self, config: SelfPlayConfig, tools: StageTools) -> None:
        self.config = config
        self.tools = tools

    def begin(self, step: int, originals: Sequence[Task]) -> list[Task]:
        return list(originals)

    def expand(self, group: Group) -> list[Task]:
        return []

    def finish(self, groups: Sequence[Group]) -> Experience:
        rewarded = [replace(group, rewards=group.marks()) for group in groups]
        return conclude(rewarded, informative)

    def state_dict(self) -> Any:
        return None

    def load_state_dict(self, state: Any) -> None:
        pass


def conclude(groups: Sequence[Group], keep: Callable[[Group], bool]) -> Experience:
    """Return the experience of rewarded `groups` under the filter `keep`, with the counters that every stage has."""
    kept: list[Group] = []
    discarded: list[Group] = []
    for group in groups:
        (kept if keep(group) else discarded).append(group)
    return Experience(kept, count(groups, kept), discarded)


def informative(group: Group) -> bool:
    """Return whether answers that could be verified differ: some are known to be correct and some to be wrong, or their
    scores are not all the same."""
    return len(set(group.verified_scores())) > 1 if group.scores else 0 < group.correct < group.verified
