"""Dynamic sampling: where the answers to a problem teach nothing, another problem is asked in its place.

DAPO (arXiv 2503.14476, section 3.2) asks on until a batch has enough problems whose answers are neither all right nor
all wrong. Here each problem of a step has its own substitutes, chosen before anything is asked, so that the experience
does not depend on what is complete first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fastsvs.selfplay.stages import informative
from fastsvs.selfplay.types import ORIGINAL, Experience, ExperienceStage, Group, Task

_MARK = "/+"
"""Text between the key of the problem that was asked first and the number of its substitute."""


class Refilling:
    """A stage with substitutes for the problems that teach nothing, and otherwise as the stage that it wraps."""

    def __init__(self, stage: ExperienceStage, substitutes: Mapping[str, Task]) -> None:
        """Wrap `stage`. `substitutes` are what `substitutes_of` gives."""
        self._stage = stage
        self._substitutes = substitutes

    def expand(self, group: Group) -> list[Task]:
        tasks = self._stage.expand(group)
        substitute = self._substitutes.get(group.task.key)
        return tasks if substitute is None or informative(group) else [*tasks, substitute]

    def finish(self, groups: Sequence[Group]) -> Experience:
        experience = self._stage.finish(groups)
        return replace(experience, counters=experience.counters | refill_counters(groups))


def substitutes_of(roots: Sequence[Task], spares: Sequence[Task]) -> dict[str, Task]:
    """Return the task that is asked when a group teaches nothing, by the key of the group's task.

    The spare tasks are dealt to the `roots` in turn: with two for each, the second is asked when the first teaches
    nothing either. They belong to the families of their roots, as `000012/+001` to that of `000012`.
    """
    substitutes: dict[str, Task] = {}
    newest = [root.key for root in roots]
    for number, spare in enumerate(spares):
        turn, place = divmod(number, len(roots))
        task = replace(spare, key=f"{roots[place].key}{_MARK}{turn + 1:03d}")
        substitutes[newest[place]] = task
        newest[place] = task.key
    return substitutes


def refill_counters(groups: Sequence[Group]) -> dict[str, float]:
    """Return the number of substitutes that were asked, that of those which teach something, and that of families in
    which neither the first problem nor any substitute does."""
    asked: list[Group] = []
    taught: defaultdict[str, bool] = defaultdict(bool)
    for group in groups:
        task = group.task
        substitute = task.key.startswith(task.family + _MARK)
        if task.kind == ORIGINAL and (substitute or task.key == task.family):
            taught[task.family] |= informative(group)
            asked += [group] if substitute else []
    return {
        "refill/asked": len(asked),
        "refill/informative": sum(map(informative, asked)),
        "refill/given_up": len(taught) - sum(taught.values()),
    }
