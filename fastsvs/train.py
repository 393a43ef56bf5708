"""SvS training: the algorithm box of arXiv 2508.14029 over a policy, a rollout engine and a verifier."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean
from time import perf_counter
from typing import Any

from fastsvs.algorithms import Batch, aggregation_weights, make_batch, split_updates
from fastsvs.config import TrainJob
from fastsvs.evaluate import evaluate
from fastsvs.policy import checkpoint
from fastsvs.seeding import derive_seed
from fastsvs.selfplay import collect
from fastsvs.session import Session, open_session
from fastsvs.summary import conclude, sample_rows
from fastsvs.telemetry import training_facts


def train(job: TrainJob) -> dict[str, Any]:
    """Run the job to its last step, resuming what its run folder holds; the summary that `summary.json` keeps."""
    with open_session(job) as session:
        start = session.resume()
        session.sync.publish(start)
        hold_out(session, start)
        for step in range(start, job.run.steps):
            row = train_step(session, step)
            session.folder.log(row)
            session.progress.advance(step + 1, training_facts(row))
            if (step + 1) % job.run.save_every == 0 or step + 1 == job.run.steps:
                state = {"step": step + 1}
                checkpoint.save(session.policy, session.folder.checkpoints, step + 1, state, job.run.keep_checkpoints)
            hold_out(session, step + 1)
        return conclude(session)


def train_step(session: Session, step: int) -> dict[str, Any]:
    """Roll out, play, learn, publish. Returns the step's row of metrics; steps count from 1 there."""
    times: dict[str, float] = {}
    with clock(times, "rollout"):
        experience = collect(
            session.stage,
            session.tasks(step),
            session.engine,
            session.verifier,
            session.decode,
            session.sampling,
            seed=derive_seed(session.job.run.seed, "rollout", step),
        )
    session.folder.write_samples(step + 1, sample_rows(step + 1, experience))
    with clock(times, "update"):
        batch = make_batch(experience.groups, session.job.algorithm)
        learned = learn(session, batch, step)
    with clock(times, "sync"):
        session.sync.publish(step + 1)
    times["time/step"] = sum(times.values())
    return {"step": step + 1, **experience.counters, **learned, **times}


def learn(session: Session, batch: Batch, step: int) -> dict[str, float]:
    """As many optimizer steps as `samples_per_update` asks for; metrics are their means. No samples, no step."""
    algorithm, temperature = session.job.algorithm, session.job.rollout.temperature
    updates = split_updates(batch, algorithm.samples_per_update, derive_seed(session.job.run.seed, "updates", step))
    if len(updates) > 1:
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
    means = {f"policy/{name}": fmean(row[name] for row in rows if name in row) for name in names}
    return {"policy/updates": len(updates), **means}


def hold_out(session: Session, step: int) -> None:
    """Evaluate on the held-out problems before training, after it, and every `evaluation.every` steps; once each."""
    config, run = session.job.evaluation, session.job.run
    due = step in (0, run.steps) or (config.every and step % config.every == 0)
    if not session.held_out or not due or session.evaluated(step):
        return
    result = evaluate(
        session.held_out,
        session.engine,
        session.verifier,
        session.decode,
        config,
        session.job.rollout,
        seed=derive_seed(run.seed, "evaluation"),
    )
    session.folder.write_evaluation(step, result.as_dict(), result.rows())
    facts = "  ".join(f"pass@{k} {value}" for k, value in result.pass_at.items())
    session.progress.say(f"held-out after {step} steps: {facts}")


@contextmanager
def clock(times: dict[str, float], name: str) -> Iterator[None]:
    began = perf_counter()
    yield
    times[f"time/{name}"] = perf_counter() - began
