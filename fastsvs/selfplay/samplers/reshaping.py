"""Head-tail re-balancing of what is learned from (arXiv 2510.26474, its two ways of distribution reshaping).

Problems that are solved often must not crowd out those that are solved rarely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from fastsvs.selfplay.samplers.registry import SAMPLERS, ShuffledEpochs
from fastsvs.selfplay.types import ORIGINAL, Experience, Group
from fastsvs.verify import Verdict

T = TypeVar("T")
Place = tuple[str, int]
"""A response: its group's key, and its index in the group."""


@SAMPLERS.register("threshold_clipping")
class ThresholdClipping(ShuffledEpochs):
    """Sampler that lets the policy learn from the first `most_correct` of each problem's correct responses only.

    Samples of one prompt have the same distribution, so the first are as good a choice as any. The rest is counted and
    logged as a group of its own, `<key>/clipped`, which is not trained on. Baselines are those of the group that stays:
    a response that is one of fewer correct ones is worth more.
    """

    reads_verdicts = True

    def observe(self, experience: Experience) -> Experience:
        kept: list[Group] = []
        clipped: list[Group] = []
        moved: dict[Place, Place] = {}
        for group in experience.groups:
            surplus = correct_samples(group)[self.config.most_correct :] if group.task.kind == ORIGINAL else []
            if not surplus:
                kept.append(group)
                continue
            key = group.task.key
            rest = pick(group, surplus, f"{key}/clipped")
            staying = [sample for sample in range(len(group.rollouts)) if sample not in surplus]
            kept.append(pick(group, staying, key))
            clipped.append(replace(rest, task=replace(rest.task, parent=key)))
            moved |= {(key, old): (key, new) for new, old in enumerate(staying)}
            moved |= {(key, old): (rest.task.key, new) for new, old in enumerate(surplus)}
        dropped = sum(len(group.rollouts) for group in clipped)
        return replace(
            experience,
            groups=[follow(group, moved) for group in kept],
            discarded=[follow(group, moved) for group in experience.discarded] + clipped,
            counters=recount(experience, -dropped, {"sampler/clipped": dropped}),
        )


@SAMPLERS.register("repeat_padding")
class RepeatPadding(ShuffledEpochs):
    """Sampler that repeats a problem's correct responses, in turn, until there are `padded_correct` of them.

    A copy is one more sample of its group, behind the others: it shares the group's number in the batch, and its
    tokens, log-probs and reward are those of the response that it repeats. So it counts in means, deviations and sizes
    of the group. With c of G correct, all advantages become those of a group with K of G - c + K correct. Each copy
    then earns less than the lone response did, together they weigh more, and wrong responses are compared with a higher
    mean. A leave-one-out baseline leaves one copy out, not the response. A group without a correct response stays as it
    is.
    """

    reads_verdicts = True

    def observe(self, experience: Experience) -> Experience:
        wanted = self.config.padded_correct or self.tools.samples_per_prompt
        groups = [pad(group, wanted) if group.task.kind == ORIGINAL else group for group in experience.groups]
        repeated = sum(len(group.rollouts) for group in groups) - sum(len(g.rollouts) for g in experience.groups)
        counters = recount(experience, repeated, {"sampler/repeated": repeated})
        return replace(experience, groups=groups, counters=counters)


def pad(group: Group, wanted: int) -> Group:
    """Return the group with its correct responses repeated in turn, behind all others, until there are `wanted`."""
    correct = correct_samples(group)
    if not 0 < len(correct) < wanted:
        return group
    copies = [correct[place % len(correct)] for place in range(wanted - len(correct))]
    return pick(group, [*range(len(group.rollouts)), *copies], group.task.key)


def correct_samples(group: Group) -> list[int]:
    return [sample for sample, verdict in enumerate(group.verdicts) if verdict is Verdict.CORRECT]


def pick(group: Group, samples: Sequence[int], key: str) -> Group:
    """Return a group of the given responses, in the given order."""

    def of(values: tuple[T, ...]) -> tuple[T, ...]:
        return tuple(values[sample] for sample in samples) if values else ()

    return Group(
        task=replace(group.task, key=key, samples=len(samples)),
        rollouts=of(group.rollouts),
        texts=of(group.texts),
        verdicts=of(group.verdicts),
        notes=of(group.notes),
        scores=of(group.scores),
        rewards=of(group.rewards),
    )


def follow(group: Group, moved: Mapping[Place, Place]) -> Group:
    """Return the group with its parent's new place, if it was made from a response that has moved."""
    task = group.task
    if task.parent is None or task.parent_sample is None or (task.parent, task.parent_sample) not in moved:
        return group
    parent, sample = moved[task.parent, task.parent_sample]
    return replace(group, task=replace(task, parent=parent, parent_sample=sample))


def recount(experience: Experience, more: int, counters: dict[str, float]) -> dict[str, float]:
    """Return the experience's counters with `counters` added, and with `more` added to the original responses learned
    from."""
    name = f"kept_samples/{ORIGINAL}"
    return experience.counters | counters | {name: experience.counters.get(name, 0) + more}
