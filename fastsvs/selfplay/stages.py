"""Experience stages by name, what they are built from, and the plainest of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from fastsvs.config import SelfPlayConfig
from fastsvs.registry import Registry
from fastsvs.selfplay.counters import count
from fastsvs.selfplay.shaping import informative, solving_rewards
from fastsvs.selfplay.types import Experience, ExperienceStage, Group, Task

Encode = Callable[[str], tuple[int, ...]]
"""Text to prompt token ids, chat template and generation prompt included."""


class StageFactory(Protocol):
    def __call__(
        self,
        config: SelfPlayConfig,
        *,
        encode_question: Encode,
        encode_synthesis: Encode,
        max_prompt_tokens: int,
        max_response_tokens: int,
    ) -> ExperienceStage:
        """`encode_question` goes through the same PromptFn and suffix as the data's own questions;
        `encode_synthesis` makes its text the only user message. Longer prompts than `max_prompt_tokens` are not to
        be run, and are to be counted."""


STAGES = Registry[StageFactory]("experience stage")


@STAGES.register("none")
class PlainStage:
    """Plain RLVR: nothing is derived; groups that are all correct or all wrong are left out."""

    def __init__(
        self,
        config: SelfPlayConfig,
        *,
        encode_question: Encode,
        encode_synthesis: Encode,
        max_prompt_tokens: int,
        max_response_tokens: int,
    ) -> None:
        pass

    def expand(self, group: Group) -> list[Task]:
        return []

    def finish(self, groups: Sequence[Group]) -> Experience:
        return conclude([replace(group, rewards=solving_rewards(group)) for group in groups], informative)


def conclude(groups: Sequence[Group], keep: Callable[[Group], bool]) -> Experience:
    """The experience of rewarded `groups` under the filter `keep`, with the counters that every stage has."""
    kept: list[Group] = []
    discarded: list[Group] = []
    for group in groups:
        (kept if keep(group) else discarded).append(group)
    return Experience(kept, count(groups, kept), discarded)
