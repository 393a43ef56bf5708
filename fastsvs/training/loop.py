"""SvS training: the algorithm box of arXiv 2508.14029 over a policy, a rollout engine and a verifier."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean
from time import perf_counter
from typing import Any

from fastsvs.algorithms import Batch, aggregation_weights, split_updates
from fastsvs.config import TrainJob
from fastsvs.errors import EngineFailure
from fastsvs.evaluate import evaluate, figures, pass_rates
from fastsvs.policy import LARGEST
from fastsvs.seeding import derive_seed
from fastsvs.telemetry import peak_memory, training_facts
from fastsvs.training import credit, diagnostics, experience
from fastsvs.training.experience import Underway
from fastsvs.training.session import Session, open_session
from fastsvs.training.summary import conclude, sample_rows


def train(job: TrainJob) -> dict[str, Any]:
    """Run the job to its last step, resuming what its run folder holds, and return the summary that `summary.json`
    keeps."""
    with open_session(job) as session:
        start, ahead = session.resume(), None
        evaluate_held_out(session, start)
        for step in range(start, job.run.steps):
            with saved_on_failure(session, step):
                row, ahead = train_step(session, step, ahead)
            session.folder.log(row)
            session.progress.advance(step + 1, training_facts(row))
            if session.save_is_due(step + 1):
                session.save(step + 1)
            with saved_on_failure(session, step + 1):
                evaluate_held_out(session, step + 1, ahead)
        return conclude(session)


def train_step(session: Session, step: int, begun: Underway | None) -> tuple[dict[str, Any], Underway | None]:
    """Publish weights, roll out, play and learn. `begun` is the step's rollout if it is under way.

    Returns the step's row of metrics, where steps count from 1. Under `train.staleness` it also returns the rollout of
    the next step, which uses the weights from before this step's update; otherwise None.
    """
    times: dict[str, float] = {}
    overlaps = session.job.train.staleness and step + 1 < session.job.run.steps
    with clock(times, "sync"):
        rollout = begun or experience.begin(session, step, version=step)
    with clock(times, "rollout"):
        made = rollout.result(version=step)
        batch = experience.share(made, session.engine)
        idle = session.rollouts.idle_share()
    with clock(times, "sync"):
        ahead = experience.begin(session, step + 1, version=step) if overlaps else None
    if not ahead:
        session.put_engine_to_sleep()
    with clock(times, "credit"):
        credited = credit.assign(session, batch)
    made = made and replace(made, experience=credited.record(made.experience))
    rows = list(sample_rows(step + 1, made.experience)) if made else []
    if made:
        session.plugin_state.update(made.plugin_state)
        session.folder.write_samples(step + 1, rows)
    with clock(times, "diagnostics"):
        seen = diagnostics.measure(session, credited.batch, rows) if diagnostics.is_due(session, step) else {}
    with clock(times, "update"):
        learned = learn(session, credited.batch, step)
    times["time/step"] = sum(times.values())
    played = (
        experience.facts(made, session.engine, version=step) | experience.speeds(made, credited.batch, times)
        if made
        else {}
    )
    times |= {"time/generation": rollout.seconds, "time/engine_idle": idle}
    row = {**played, **credited.metrics, **learned, **session.sync.metrics(), **seen, **peak_memory(), **times}
    return {"step": step + 1, **row}, ahead


def learn(session: Session, batch: Batch, step: int) -> dict[str, float]:
    """Take as many optimizer steps as `samples_per_update` asks for, and return their metrics. Takes none without
    samples."""
    algorithm, temperature = session.job.algorithm, session.job.rollout.temperature
    updates = split_updates(batch, algorithm.samples_per_update, derive_seed(session.job.run.seed, "updates", step))
    if len(updates) > 1 and batch.old_logprobs is None:
        batch = replace(batch, old_logprobs=session.policy.log_probs(batch, temperature))
    if session.reference and updates:
        batch = replace(batch, reference_logprobs=session.reference.log_probs(batch, temperature))
    rows = []
    for samples in updates:
        part = batch.select(samples)
        weights = aggregation_weights(
            part.response_lengths, algorithm.aggregation, session.job.rollout.max_response_tokens
        )
        rows.append(session.policy.update(part, session.loss, algorithm, weights, temperature, schedule_step=step))
    names = dict.fromkeys(name for row in rows for name in row)  # a small update may lack a kind
    means = {
        f"policy/{name}": (max if name.endswith(LARGEST) else fmean)(row[name] for row in rows if name in row)
        for name in names
    }
    return {"policy/updates": len(updates), **means}


def evaluate_held_out(session: Session, step: int, ahead: Underway | None = None) -> None:
    """Evaluate on the held-out problems before training, after it, and every `evaluation.every` steps; each time once.
    A rollout that is under way is finished first."""
    config, run = session.job.evaluation, session.job.run
    due = step in (0, run.steps) or (config.every and step % config.every == 0)
    if not session.held_out or not due or session.evaluated(step):
        return
    if ahead:
        ahead.wait(version=step)
    session.sync.publish(step)
    running = session.rollouts.start(
        lambda cancelled: evaluate(
            session.held_out,
            session.engine,
            session.verifier,
            session.decode,
            config,
            session.job.rollout,
            seed=derive_seed(run.seed, "evaluation"),
            cancelled=cancelled,
        )
    )
    if answered := running.result(version=step):
        session.folder.write_evaluation(step, figures(answered, config), [problem.as_row() for problem in answered])
        facts = "  ".join(f"{name} {rate}" for name, rate in pass_rates(answered, config.k).items())
        session.progress.say(f"held-out after {step} steps: {facts}")


@contextmanager
def saved_on_failure(session: Session, step: int) -> Iterator[None]:
    """Save the `step` steps that are done when the engine fails for good, and pass its EngineFailure on."""
    try:
        yield
    except EngineFailure:
        if step:
            session.save(step)
        raise


@contextmanager
def clock(times: dict[str, float], name: str) -> Iterator[None]:
    began = perf_counter()
    yield
    times[f"time/{name}"] = times.get(f"time/{name}", 0.0) + perf_counter() - began
