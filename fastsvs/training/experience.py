"""One step's experience: it is begun, made on every rank or on the main one alone, wave by wave, and the batch of each
wave is brought to all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
import torch

from fastsvs import distributed
from fastsvs.algorithms import Batch, LeftOut, SampleName, make_batch, needs_labels, penalized
from fastsvs.errors import UserError
from fastsvs.rollout import Engine, Inference, Running
from fastsvs.seeding import derive_seed
from fastsvs.selfplay import (
    Budgeted,
    Experience,
    ExperienceStage,
    Portions,
    Refilling,
    SvsStage,
    Task,
    Waves,
    count,
    further_contexts,
    play,
)
from fastsvs.shared_arrays import on_each_host
from fastsvs.telemetry import Tally
from fastsvs.training import token_log
from fastsvs.training.comparison import why_nothing_was_learned
from fastsvs.training.session import Session
from fastsvs.training.summary import sample_rows


@dataclass(frozen=True, slots=True)
class Made:
    """The experience of one wave, and the batch that was made of it."""

    experience: Experience
    batch: Batch
    plugin_state: dict[str, Any]
    """State of stage and sampler, now that they know how the step went."""


Underway = Running[Made]
"""Experience of a step that is being made."""


def begin_due(session: Session, underway: dict[int, Underway], step: int, last: int) -> None:
    """Start the rollouts of the steps from `step` to `last` that are not among those `underway`, with the policy's
    weights as `step` steps have made them. Rollouts that are under way go on with these weights, where the engine can
    change them meanwhile. Collective."""
    due = [later for later in range(step, min(last + 1, session.job.run.steps)) if later not in underway]
    if due or session.updates_at_work:
        session.sync.publish(step)
    for later in due:
        underway[later] = begin(session, later)


def begin(session: Session, step: int) -> Underway:
    """Start the rollout of `step`. The engine serves earlier steps first, and in a step earlier waves."""
    most = session.job.run.prompts_per_step * session.job.rollout.samples_per_prompt
    further = session.savings.hold(step, most) if session.plays else 0

    def work(engine: Inference, cancelled: Callable[[], bool]) -> Iterator[Made]:
        with Tally(session.progress, f"step {step + 1}", "groups") as tally:
            seed = derive_seed(session.job.run.seed, "rollout", step)
            tasks, schedule = session.tasks(step), session.job.train
            for experience in play(
                stage_of(session, session.substitutes(step, tasks), further_contexts(further, tasks, seed)),
                tasks,
                engine,
                session.verifier,
                session.decode,
                session.sampling,
                seed,
                portions=Portions(session.job.selfplay.budget),
                waves=Waves(tasks, schedule.waves, schedule.wave_order, seed, first=step * schedule.waves),
                judges=session.judges,
                schedule=session.job.selfplay.schedule,
                progress=lambda group, asked: tally.add(sum(len(one.response_ids) for one in group.rollouts), asked),
                cancelled=cancelled,
            ):
                yield made_of(session, experience)

    return session.rollouts.start_parts(work)


def stage_of(session: Session, substitutes: Mapping[str, Task], further: Mapping[str, int]) -> ExperienceStage:
    """Return the run's stage, with these `substitutes` for what teaches nothing under `sampler.refills`, and so many
    `further` contexts under `selfplay.budget`. Its `finish` needs neither."""
    stage: ExperienceStage = session.stage
    if session.job.selfplay.budget.first_samples:
        assert isinstance(stage, SvsStage)
        stage = Budgeted(stage, further)
    return Refilling(stage, substitutes) if session.job.sampler.refills else stage


def made_of(session: Session, experience: Experience) -> Made:
    if not needs_labels(session.job.algorithm.reward):
        experience = experience.unfiltered()
    experience = session.sampler.observe(experience)
    experience = penalized(experience, session.job.algorithm, session.job.rollout.max_response_tokens)
    plugin_state = {"stage": session.stage.state_dict(), "sampler": session.sampler.state_dict()}
    watched = token_log.watched(session.job, [*experience.groups, *experience.discarded])
    batch = make_batch(experience.groups, experience.discarded, watched)
    if session.job.policy.router_replay == "rollout" and len(batch) and batch.experts is None:
        raise UserError(
            f"policy.router_replay=rollout, and rollout.engine={session.job.rollout.engine} does not say which experts "
            "computed the tokens of its responses: set the former to none"
        )
    return Made(experience, batch, plugin_state)


def together(session: Session, waves: Sequence[Made]) -> Made:
    """Return a step's experience as one, with the plug-ins' newest state and an empty batch: its waves have theirs."""
    if len(waves) == 1:
        return waves[0]
    experiences = [made.experience for made in waves]
    groups, discarded = (
        sorted([group for part in parts for group in part], key=lambda group: group.task.key)
        for parts in ([one.groups for one in experiences], [one.discarded for one in experiences])
    )
    everything = sorted([*groups, *discarded], key=lambda group: group.task.key)
    counters = stage_of(session, {}, {}).finish(everything).counters | count(everything, groups)
    whole = Experience(groups, counters, discarded, sum(one.idle_seconds for one in experiences))
    whole = penalized(whole, session.job.algorithm, session.job.rollout.max_response_tokens)
    return replace(waves[-1], experience=whole, batch=make_batch([]))


def next_wave(session: Session, rollout: Underway, step: int, last: bool) -> tuple[Made | None, Batch]:
    """Return the next wave and its batch, as soon as it is complete. Where rollouts and learning take turns, all waves
    are played before the first is given. Collective. `last` is True for the last wave."""
    if last or not session.rolls_out_beside:
        rollout.wait(version=step)
    made = rollout.part(version=step)
    return made, share(made, session.engine)


def share(made: Made | None, engine: Engine) -> Batch:
    """Return the batch on every rank. Collective. With an engine that the main rank drives, that rank alone has
    `made`."""
    if engine.collective or distributed.world_size() == 1:
        assert made is not None
        return made.batch
    packed = distributed.broadcast(None if made is None else _Packed.of(made.batch))
    assert packed is not None
    batch = packed.batch() if made is None else made.batch
    if not packed.has_experts:
        return batch
    experts = on_each_host(None if made is None else made.batch.experts)
    return batch if made is not None else replace(batch, experts=packed.rows(experts))


def record(session: Session, step: int, waves: Sequence[Made]) -> Made:
    """Write the samples of a step, counted from 1, keep the state of the plug-ins, and say why nothing can be learned
    where that is so. Returns the step as one."""
    made = settled(session, step, together(session, waves))
    session.plugin_state.update(made.plugin_state)
    file = session.folder.write_samples(step, list(sample_rows(step, made.experience)))
    experience = made.experience
    groups = [*experience.groups, *experience.discarded]
    if reason := why_nothing_was_learned(experience.counters, groups, str(file)):
        session.progress.say(f"step {step}: {reason}")
    return made


def settled(session: Session, step: int, made: Made) -> Made:
    """Return the whole step, counted from 1, with what it leaves for further contexts under `selfplay.budget`."""
    if not session.job.selfplay.budget.first_samples:
        return made
    counters = made.experience.counters
    session.savings.settle(step - 1, counters)
    counters = counters | {"budget/left": session.savings.samples}
    plugin_state = made.plugin_state | {"budget": session.savings.state_dict()}
    return replace(made, experience=replace(made.experience, counters=counters), plugin_state=plugin_state)


def facts(made: Made, engine: Engine, version: int) -> dict[str, float]:
    """Return the experience's counters, the engine's metrics, and how much older than the policy's `version` the
    weights were that sampled what it learns from."""
    rollouts = [rollout for group in made.experience.groups for rollout in group.rollouts]
    found = made.experience.counters | engine.metrics()
    found["time/verification"] = made.experience.idle_seconds
    if rollouts:
        found["rollout/version_lag"] = fmean(version - rollout.weight_version for rollout in rollouts)
        found["rollout/mixed_versions"] = fmean(rollout.mixed_versions for rollout in rollouts)
    return found


def speeds(made: Made, trained: int, times: Mapping[str, float]) -> dict[str, float]:
    """Return the response tokens sampled per second of the step, and the `trained` ones, which are learned from, per
    second of its update."""
    played = [*made.experience.groups, *made.experience.discarded]
    sampled = sum(len(rollout.response_ids) for group in played for rollout in group.rollouts)
    return {
        "throughput/response_tokens_per_second": sampled / times["time/step"],
        "throughput/trained_tokens_per_second": trained / times["time/update"],
    }


@dataclass(frozen=True, slots=True)
class _Packed:
    """A batch as a few flat arrays, with a prompt once for all samples of its group."""

    prompts: np.ndarray
    prompt_lengths: np.ndarray
    responses: np.ndarray
    response_lengths: np.ndarray
    kinds: Sequence[str]
    groups: np.ndarray
    rewards: np.ndarray
    rollout_logprobs: np.ndarray
    penalties: np.ndarray | None
    has_experts: bool
    """True where the experts of the rollout come by themselves: they are many times as large as all else."""
    watched: Sequence[SampleName | None] | None
    left_out: LeftOut

    @classmethod
    def of(cls, batch: Batch) -> _Packed:
        groups = batch.groups.numpy()
        first_samples = np.unique(groups, return_index=True)[1]
        prompts, prompt_lengths = _flatten([batch.prompt_ids[sample] for sample in first_samples])
        responses, response_lengths = _flatten(batch.response_ids)
        return cls(
            prompts,
            prompt_lengths,
            responses,
            response_lengths,
            batch.kinds,
            groups.astype(np.int32),
            batch.rewards.numpy(),
            batch.rollout_logprobs.numpy(),
            None if batch.penalties is None else batch.penalties.numpy(),
            batch.experts is not None,
            batch.watched,
            batch.left_out,
        )

    def batch(self) -> Batch:
        prompts = _split(self.prompts, self.prompt_lengths)
        return Batch(
            prompt_ids=[prompts[number] for number in self._numbers()],
            response_ids=_split(self.responses, self.response_lengths),
            kinds=self.kinds,
            groups=torch.from_numpy(self.groups.astype(np.int64)),
            rewards=torch.from_numpy(self.rewards),
            advantages=torch.zeros(len(self.rollout_logprobs)),
            rollout_logprobs=torch.from_numpy(self.rollout_logprobs),
            penalties=None if self.penalties is None else torch.from_numpy(self.penalties),
            watched=self.watched,
            left_out=self.left_out,
        )

    def rows(self, experts: np.ndarray) -> list[np.ndarray]:
        """Return the part of each sample: all tokens of its prompt and response but the last."""
        ends = np.cumsum(self.prompt_lengths[self._numbers()] + self.response_lengths - 1)
        return np.split(experts, ends[:-1])

    def _numbers(self) -> np.ndarray:
        """Return the number of each sample's prompt, [samples]."""
        return np.unique(self.groups, return_inverse=True)[1]


def _flatten(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    return np.concatenate([np.zeros(0, np.int32), *(row.astype(np.int32) for row in rows)]), lengths


def _split(flat: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(flat.astype(np.int64), np.cumsum(lengths)[:-1]) if len(lengths) else []
