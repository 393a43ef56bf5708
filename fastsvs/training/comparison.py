"""The comparison of responses that learning lives on: what is refused or advised against, and why a step had none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastsvs.algorithms import needs_labels
from fastsvs.config import TrainJob
from fastsvs.errors import UserError
from fastsvs.evaluate import greedy_repetitions
from fastsvs.selfplay import STAGES, Group, least_chance_to_inform

BY_GROUP = ("grpo", "rloo")
"""Advantages that compare a response with the others of its group."""
OUTCOMES = {"all_right": "all right", "all_wrong": "all wrong", "all_unverified": "not verified"}
"""Counters of groups in which all responses came out alike, and what the log calls them."""
CURES = {
    "all_right": "the problems are too easy for this policy: take harder ones",
    "all_wrong": "read the responses: do they end before rollout.max_response_tokens, in the form that data.suffix "
    "asks for, and are the answers of the data what you expect? Otherwise the problems are too hard for this policy",
    "all_unverified": "the verifier gave up on every answer: see verifier.timeout_seconds and verifier.workers",
}


def check_group_size(job: TrainJob) -> None:
    """Check that a group has responses to compare. Raises UserError where no step could ever learn."""
    stage = STAGES.get(job.selfplay.stage)
    filtered = ":" not in job.selfplay.stage and getattr(stage, "reads_problems", True)
    if job.rollout.samples_per_prompt == 1 and (filtered or not needs_labels(job.algorithm.reward)):
        raise UserError(
            f"rollout.samples_per_prompt=1: algorithm.advantage={job.algorithm.advantage} has nothing to compare the "
            "only response to a problem with, and groups whose rewards are all the same are left out, so nothing would "
            "ever be learned: set it to 2 or more (8 is usual)"
        )


def advice(job: TrainJob) -> list[str]:
    """Return what is allowed but will hardly be meant, a line each, for the run's log and its dry run."""
    lines = [*_lone_responses(job), *_unreachable_ranges(job), *_idle_budget(job), *_truncated_sampling(job)]
    if job.evaluation.path is not None:
        lines += greedy_repetitions("evaluation", job.evaluation)
    return [f"warning: {line}" for line in lines]


def why_nothing_was_learned(counters: Mapping[str, float], groups: Sequence[Group], samples: str) -> str | None:
    """Say why a step with these counters took nothing from its groups, and where to look; None where it took something
    or was not meant to. `samples` is the file of the step's samples."""
    if not groups or counters.get("sampler/surveyed") or _total(counters, "kept_samples"):
        return None
    counts = {outcome: _total(counters, outcome) for outcome in OUTCOMES}
    told = ", ".join(f"{counts[outcome]:g} {name}" for outcome, name in OUTCOMES.items())
    main = max(counts, key=lambda outcome: counts[outcome])
    line = (
        f"nothing was learned: the rewards within each of the {len(groups)} groups are all the same ({told}); see "
        f"{groups[0].task.key!r} and the others in {samples}"
    )
    return f"{line}; {CURES[main]}" if counts[main] else line


def lost_steps(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return how many of a run's steps took no update, and how the groups of these steps came out."""
    lost = [row for row in metrics if row.get("policy/updates") == 0 and not row.get("sampler/surveyed")]
    return {"steps": len(lost), **{outcome: sum(_total(row, outcome) for row in lost) for outcome in OUTCOMES}}


def describe_lost_steps(lost: Mapping[str, float], steps: int, root: str) -> str:
    """Say in a line what `lost_steps` found."""
    told = ", ".join(f"{lost[outcome]:g} {name}" for outcome, name in OUTCOMES.items())
    main = max(OUTCOMES, key=lambda outcome: lost[outcome])
    line = f"{lost['steps']:g} of {steps} steps learned nothing (groups {told}); read {root}/samples/"
    return f"{line}; {CURES[main]}" if lost[main] else line


def _total(counters: Mapping[str, float], name: str) -> float:
    return sum(value for counter, value in counters.items() if counter.startswith(f"{name}/"))


def _lone_responses(job: TrainJob) -> list[str]:
    """Advise where groups of one response are learned from without a baseline."""
    advantage, azr, stage = job.algorithm.advantage, job.selfplay.azr, job.selfplay.stage
    lone = []
    if stage == "azr":
        lone += [] if azr.freeze_proposer else ["its proposals, one to a prompt"]
        lone += ["selfplay.azr.samples_per_proposal=1"] if azr.samples_per_proposal == 1 else []
        lone += ["selfplay.azr.samples_from_buffer=1"] if azr.solve_from_buffer and azr.samples_from_buffer == 1 else []
    elif job.rollout.samples_per_prompt == 1:
        lone += ["rollout.samples_per_prompt=1"]
    compared = job.algorithm.verl.base if advantage == "verl" else advantage
    if not lone or compared not in BY_GROUP:
        return []
    return [
        f"algorithm.advantage={compared} compares within a group, and groups of one response ({', '.join(lone)}) keep "
        "their bare reward as advantage, without a baseline: algorithm.advantage=trr compares over all of a kind"
    ]


def _unreachable_ranges(job: TrainJob) -> list[str]:
    """Advise where no accuracy that a group can have lies in a range that decides what SvS learns from."""
    config = job.selfplay
    lines = []
    if config.stage == "svs":
        size = job.rollout.samples_per_prompt
        if not _reachable(config.context_range, size):
            lines.append(
                f"no accuracy of rollout.samples_per_prompt={size} responses above 0 lies in selfplay.context_range="
                f"{list(config.context_range)}: no problem will be written; widen the range or draw more samples"
            )
        size = config.samples_per_variant
        if size == 1:
            lines.append(
                "selfplay.samples_per_variant=1: a variant with one solution is all right or all wrong and is not "
                "learned from; set it to 2 or more (8 is usual)"
            )
        if config.shaping.rule == "band" and not _reachable(config.positive_range, size):
            lines.append(
                f"no accuracy of selfplay.samples_per_variant={size} solutions above 0 lies in selfplay.positive_range="
                f"{list(config.positive_range)}: writing is never rewarded; widen the range or draw more samples"
            )
    if config.stage == "rise" and config.rise.critiques_per_problem and config.rise.samples_per_critique == 1:
        lines.append(
            "selfplay.rise.samples_per_critique=1: a judgement alone is right or wrong and is not learned from; set it "
            "to 2 or more (8 is usual)"
        )
    return lines


def _idle_budget(job: TrainJob) -> list[str]:
    """Advise where the budget of self-play never stops the solving of a variant."""
    budget = job.selfplay.budget
    if not budget.first_samples:
        return []
    least = least_chance_to_inform(job.selfplay, job.rollout.samples_per_prompt)
    if least < budget.chance:
        return []
    return [
        f"selfplay.budget.first_samples={budget.first_samples} stops no variant: after so many answers the others "
        f"differ from them with a probability of {least:.2f} at least, from which on "
        f"selfplay.budget.chance={budget.chance:g} asks for them; raise either"
    ]


def _reachable(limits: tuple[float, float], size: int) -> bool:
    """Check whether a share of `size` answers, one at least, lies within the limits."""
    low, high = limits
    most = int(high * size)  # or a neighbour of it, by rounding
    return any(low <= right / size <= high for right in (most - 1, most, most + 1) if 1 <= right <= size)


def _truncated_sampling(job: TrainJob) -> list[str]:
    """Advise where responses come from another distribution than the one whose gradient is taken."""
    rollout, correction = job.rollout, job.algorithm.rollout_correction
    chosen = [f"rollout.top_p={rollout.top_p:g}"] if rollout.top_p < 1 else []
    chosen += [f"rollout.top_k={rollout.top_k}"] if rollout.top_k > 0 else []
    if not chosen:
        return []
    effect = (
        "the policy/rollout_ metrics show that difference, and the gradient is that of another distribution"
        if correction == "none"
        else f"algorithm.rollout_correction={correction} takes that difference for a mismatch and weights it away"
    )
    return [
        f"{' and '.join(chosen)} cut the distribution that training samples from: the engine's log-probs are those of "
        f"what is left, the trainer's those of all tokens; {effect}. Set rollout.top_p=1 and rollout.top_k=-1"
    ]
