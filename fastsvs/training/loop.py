"""SvS training: the algorithm box of arXiv 2508.14029 over a policy, a rollout engine and a verifier."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any

from fastsvs import preemption
from fastsvs.algorithms import Batch, Update, joined, over_step, updates_of
from fastsvs.config import TrainJob
from fastsvs.errors import EngineFailure, Preempted
from fastsvs.seeding import derive_seed
from fastsvs.telemetry import peak_memory, training_facts
from fastsvs.training import credit, diagnostics, experience
from fastsvs.training.experience import Underway
from fastsvs.training.held_out import evaluate_held_out
from fastsvs.training.session import Session, open_session
from fastsvs.training.summary import conclude


def train(job: TrainJob) -> dict[str, Any]:
    """Run the job to its last step, resuming what its run folder holds, and return the summary that `summary.json`
    keeps."""
    with open_session(job) as session:
        with session.progress.phase("resume"):
            start, ahead = session.resume(), None
        evaluate_held_out(session, start)
        for step in range(start, job.run.steps):
            session.saver.check()
            with saved_on_failure(session, step):
                preemption.check()
                row, ahead = train_step(session, step, ahead)
            session.folder.log(row)
            session.progress.advance(step + 1, training_facts(row))
            if session.save_is_due(step + 1):
                with session.progress.phase("save"):
                    session.save(step + 1)
            with saved_on_failure(session, step + 1):
                evaluate_held_out(session, step + 1, ahead)
        with session.progress.phase("save"):
            session.saver.finish()
        return conclude(session)


def train_step(session: Session, step: int, begun: Underway | None) -> tuple[dict[str, Any], Underway | None]:
    """Publish weights, roll out, play and learn. `begun` is the step's rollout if it is under way.

    Returns the step's row of metrics, where steps count from 1. Under `train.staleness` it also returns the rollout of
    the next step, which uses the weights from before this step's update; otherwise None.
    """
    saved = session.saver.take_times()
    times = {name: seconds for name, seconds in saved.items() if name == "time/save"}
    overlaps = session.job.train.staleness and step + 1 < session.job.run.steps
    with clock(session, times, "sync"):
        rollout = begun or experience.begin(session, step, version=step)
    with clock(session, times, "rollout"):
        made = rollout.result(version=step)
        batch = experience.share(made, session.engine)
        idle = session.rollouts.idle_share()
    with clock(session, times, "sync"):
        ahead = experience.begin(session, step + 1, version=step) if overlaps else None
    if not ahead:
        with clock(session, times, "sync"):
            session.put_engine_to_sleep()
    with clock(session, times, "credit"):
        credited = credit.assign(session, batch)
    made = made and replace(made, experience=credited.record(made.experience))
    rows = experience.record(session, step + 1, made) if made else []
    with clock(session, times, "diagnostics"):
        due = diagnostics.is_due(session.job, step)
        seen = diagnostics.measure(session.job, session.policy, step, credited.batch, rows) if due else {}
    with clock(session, times, "update"):
        learned = learn(session, credited.batch, step)
    times["time/step"] = sum(times.values())
    played = (
        experience.facts(made, session.engine, version=step) | experience.speeds(made, credited.batch, times)
        if made
        else {}
    )
    times |= saved | session.offloads[0].take_metrics()
    times |= {"time/generation": rollout.seconds, "time/engine_idle": idle}
    row = joined(
        {"step": step + 1}, played, credited.metrics, learned, session.sync.metrics(), seen, peak_memory(), times
    )
    return row, ahead


def learn(session: Session, batch: Batch, step: int) -> dict[str, float]:
    """Take as many optimizer steps as `samples_per_update` asks for, and return their metrics. Takes none without
    samples."""
    algorithm, temperature = session.job.algorithm, session.job.rollout.temperature
    if session.reference and len(batch):
        batch = replace(batch, reference_logprobs=session.reference.log_probs(batch, temperature))
    seed = derive_seed(session.job.run.seed, "updates", step)
    updates = updates_of(batch, algorithm, session.job.rollout.max_response_tokens, seed)
    if batch.old_logprobs is None:
        updates = [*updates[:1], *(with_old_logprobs(update, session) for update in updates[1:])]
    rows = [
        session.policy.update(update.batch, session.loss, algorithm, update.weights, temperature, schedule_step=step)
        for update in updates
    ]
    counts = {"updates": len(updates), "idle_samples": sum(update.idle for update in updates)}
    return {f"policy/{name}": value for name, value in joined(counts, over_step(rows)).items()}


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
