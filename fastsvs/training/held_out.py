"""Evaluation of the policy on held-out problems in the course of a run."""

from __future__ import annotations

from fastsvs.evaluate import evaluate, figures, pass_rates
from fastsvs.seeding import derive_seed
from fastsvs.telemetry import Tally
from fastsvs.training.experience import Underway
from fastsvs.training.session import Session


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
    tally = Tally(session.progress, "evaluation", "problems")
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
            progress=lambda answered: tally.add(sum(answered.tokens), len(session.held_out)),
        )
    )
    with session.progress.phase("evaluation"):
        answered = running.result(version=step)
    if answered:
        session.folder.write_evaluation(step, figures(answered, config), [problem.as_row() for problem in answered])
        facts = "  ".join(f"{name} {rate}" for name, rate in pass_rates(answered, config.k).items())
        session.progress.say(f"held-out after {step} steps: {facts}")
