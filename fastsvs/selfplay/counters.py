"""The numbers of one step's experience, by kind, before and after the filters."""

from __future__ import annotations

from collections.abc import Sequence

from fastsvs.selfplay.types import Group


def count(groups: Sequence[Group], kept: Sequence[Group]) -> dict[str, float]:
    """Return counters `<what>/<kind>` of rewarded `groups`, for `kept`, those of them that go to training.

    `groups`, `samples`: before the filters; `kept_groups`, `kept_samples`: after them. `response_tokens`,
    `response_tokens_max`: mean and longest length in tokens; `truncated`: responses that hit the token limit;
    `unverified`: answers whose check failed; `all_right`, `all_wrong`, `all_unverified`: judged groups whose verified
    responses all came out alike, or that have none. `solve_rate`: share of correct among verified answers; `reward`
    (also `reward/mean`, over all kinds): mean over samples. Both are taken before the filters, and are absent where
    there is nothing to take a mean of.
    """
    counters: dict[str, float] = {}
    for kind in dict.fromkeys(group.task.kind for group in groups):
        before = [group for group in groups if group.task.kind == kind]
        after = [group for group in kept if group.task.kind == kind]
        verified = sum(group.verified for group in before)
        tokens = [len(rollout.response_ids) for group in before for rollout in group.rollouts]
        counters |= {
            f"groups/{kind}": len(before),
            f"samples/{kind}": sum(len(group.rollouts) for group in before),
            f"kept_groups/{kind}": len(after),
            f"kept_samples/{kind}": sum(len(group.rollouts) for group in after),
            f"response_tokens/{kind}": sum(tokens) / len(tokens),
            f"response_tokens_max/{kind}": max(tokens),
            f"truncated/{kind}": sum(group.truncated for group in before),
            f"unverified/{kind}": sum(group.unverified for group in before),
            f"all_right/{kind}": sum(0 < group.verified == group.correct for group in before),
            f"all_wrong/{kind}": sum(group.correct == 0 < group.verified for group in before),
            f"all_unverified/{kind}": sum(bool(group.verdicts) and not group.verified for group in before),
        } | _mean_reward(kind, before)
        if verified:
            counters[f"solve_rate/{kind}"] = sum(group.correct for group in before) / verified
    return counters | _mean_reward("mean", groups)


def _mean_reward(name: str, groups: Sequence[Group]) -> dict[str, float]:
    rewards = [reward for group in groups for reward in group.rewards]
    return {f"reward/{name}": sum(rewards) / len(rewards)} if rewards else {}
