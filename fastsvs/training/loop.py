"""SvS training: the algorithm box of arXiv 2508.14029 over a policy, a rollout engine and a verifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import fmean
from time import perf_counter
from typing import Any

from fastsvs import preemption
from fastsvs.algorithms import Metric, Update, joined, over_step, updates_of
from fastsvs.config import TrainJob
from fastsvs.errors import EngineFailure, Preempted
from fastsvs.policy import TokenWatch
from fastsvs.seeding import derive_seed
from fastsvs.telemetry import peak_memory, training_facts
from fastsvs.training import credit, diagnostics, experience, token_log
from fastsvs.training.experience import Made, Underway
from fastsvs.training.held_out import evaluate_held_out
from fastsvs.training.session import Session, open_session
from fastsvs.training.summary import conclude, sample_rows


def train(job: TrainJob) -> dict[str, Any]:
    """Run the job to its last step, resuming what its run folder holds, and return the summary that `summary.json`
    keeps."""
    with open_session(job) as session:
        for _ in steps(session):
            pass
        return conclude(session)


def steps(session: Session) -> Iterator[dict[str, Any]]:
    """Resume what the run folder holds, take the steps that are left, and yield the metrics of each when it is logged,
    saved where that is due, and evaluated. Collective."""
    with session.progress.phase("resume"):
        start = session.resume()
    underway: dict[int, Underway] = {}
    evaluate_held_out(session, start, underway)
    for step in range(start, session.job.run.steps):
        session.saver.check()
        with saved_on_failure(session, step):
            preemption.check()
            row, cut = train_step(session, step, underway)
        session.folder.log(row)
        session.progress.advance(step + 1, training_facts(row))
        with saved_on_failure(session, step + 1):
            if cut:
                raise cut
        if session.save_schedule.is_due(step + 1):
            with session.progress.phase("save"):
                session.save(step + 1)
        with saved_on_failure(session, step + 1):
            evaluate_held_out(session, step + 1, underway)
        yield row
    with session.progress.phase("save"):
        session.saver.finish()


def train_step(session: Session, step: int, underway: dict[int, Underway]) -> tuple[dict[str, Any], Exception | None]:
    """Publish weights, roll out, play and learn, wave by wave, and return the step's row of metrics, where steps count
    from 1.

    `underway` holds the rollouts that have begun, by step; those of up to `train.staleness` steps after this one are
    put in, and this one's is taken out when it is over. They use the weights from before this step's last wave was
    learned from, and later ones as soon as there are any. The second value is what ended a step that had learned from
    some of its waves, and None for a whole step.
    """
    saved = session.saver.take_times()
    times = {name: seconds for name, seconds in saved.items() if name == "time/save"}
    last_ahead = step + session.job.train.staleness
    with clock(session, times, "sync"):
        experience.begin_due(session, underway, step, last_ahead if session.updates_at_work else step)
    rollout = underway[step]
    cut, idle = None, 0.0
    waves: list[Made] = []
    whole: Made | None = None
    learning = Learning()
    for wave in range(session.job.train.waves):
        last = wave + 1 == session.job.train.waves
        try:
            with clock(session, times, "rollout"):
                made, batch = experience.next_wave(session, rollout, step, last)
        except (EngineFailure, Preempted) as error:
            if not wave:
                raise
            cut = error
            break
        if last:
            idle = session.rollouts.idle_share()
        with clock(session, times, "sync"):
            if not session.job.train.staleness:
                if not wave:
                    session.put_engine_to_sleep()
            elif last:
                experience.begin_due(session, underway, step, last_ahead)
        with clock(session, times, "credit"):
            credited = credit.assign(session, batch)
        if made:
            waves.append(replace(made, experience=credited.record(made.experience)))
        if last and waves:
            whole = experience.record(session, step + 1, waves)
        if not wave and diagnostics.is_due(session.job, step):
            with clock(session, times, "diagnostics"):
                rows = [row for one in waves for row in sample_rows(step + 1, one.experience)]
                learning.seen = diagnostics.measure(session.job, session.policy, step, credited.batch, rows)
        with clock(session, times, "update"):
            learn(session, learning, credited, step, wave)
    times["time/step"] = sum(times.values())
    played: dict[str, float] = {}
    if cut and waves:
        whole = experience.record(session, step + 1, waves)
    token_log.record(session, step + 1, whole.experience if whole else None, learning.watch)
    if whole:
        played = experience.facts(whole, session.engine, version=step)
        played |= experience.speeds(whole, learning.tokens, times)
    times |= saved | session.offloads[0].take_metrics()
    times |= {"time/generation": rollout.seconds, "time/engine_idle": idle}
    row = joined({"step": step + 1}, played, learning.metrics(), session.sync.metrics(), peak_memory(), times)
    del underway[step]
    return row, cut


@dataclass
class Learning:
    """Sum of what a step has learned so far, wave by wave."""

    updates: list[Mapping[str, Metric]] = field(default_factory=list)
    """Metrics of each optimizer step."""
    idle: int = 0
    """Number of samples that count in a mean and are not computed."""
    tokens: int = 0
    """Number of response tokens learned from."""
    credits: list[Mapping[str, float]] = field(default_factory=list)
    """Metrics of the rewards and advantages of each wave."""
    seen: Mapping[str, float] = field(default_factory=dict)
    """Figures of the policy before the first update."""
    watch: TokenWatch = field(default_factory=TokenWatch)
    """Figures of the tokens that are logged."""

    def metrics(self) -> dict[str, float]:
        counts = {"updates": len(self.updates), "idle_samples": self.idle}
        policy = {f"policy/{name}": value for name, value in joined(counts, over_step(self.updates)).items()}
        names = dict.fromkeys(name for wave in self.credits for name in wave)
        credits = {name: fmean(wave[name] for wave in self.credits if name in wave) for name in names}
        return joined(credits, policy, self.seen)


def learn(session: Session, learning: Learning, credited: credit.Credited, step: int, wave: int) -> None:
    """Take as many optimizer steps as `samples_per_update` asks for, and note them in `learning`. Takes none without
    samples."""
    algorithm, temperature, batch = session.job.algorithm, session.job.rollout.temperature, credited.batch
    learning.credits.append(credited.metrics)
    learning.tokens += int(batch.response_lengths.sum())
    if session.reference and len(batch):
        own_routing = replace(batch, experts=None)  # the reference is what it is by its own router
        batch = replace(batch, reference_logprobs=session.reference.log_probs(own_routing, temperature))
    seed = derive_seed(session.job.run.seed, "updates", step * session.job.train.waves + wave)
    updates = updates_of(batch, algorithm, session.job.rollout.max_response_tokens, seed)
    if batch.old_logprobs is None:
        updates = [*updates[:1], *(with_old_logprobs(update, session) for update in updates[1:])]
    learning.idle += sum(update.idle for update in updates)
    for number, update in enumerate(updates, 1):
        session.progress.within("update", f"{number}/{len(updates)}")
        learning.updates.append(
            session.policy.update(
                update.batch,
                session.loss,
                algorithm,
                update.weights,
                temperature,
                schedule_step=step,
                watch=learning.watch,
            )
        )


def with_old_logprobs(update: Update, session: Session) -> Update:
    """Return the update with the log-probs of the policy as it is now. The first update of a step needs none: its own
    are the same, and the ratio is 1."""
    old = session.policy.log_probs(update.batch, session.job.rollout.temperature)
    return replace(update, batch=replace(update.batch, old_logprobs=old))


@contextmanager
def saved_on_failure(session: Session, step: int) -> Iterator[None]:
    """Save the `step` steps that are done when the engine fails for good or the job is told to end early, wait until
    they are on the disk, and pass the exception on."""
    try:
        yield
    except (EngineFailure, Preempted):
        if step:
            session.save(step)
            session.saver.finish()
        raise


@contextmanager
def clock(session: Session, times: dict[str, float], name: str) -> Iterator[None]:
    """Show the phase `name` of a step while it lasts, and add its seconds to `times`."""
    began = perf_counter()
    with session.progress.phase(name):
        yield
    times[f"time/{name}"] = times.get(f"time/{name}", 0.0) + perf_counter() - began
