"""Evaluation of the policy on held-out problems in the course of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastsvs.evaluate import Answered, evaluate, figures, pass_rates
from fastsvs.rollout import Inference
from fastsvs.seeding import derive_seed
from fastsvs.selfplay import Group
from fastsvs.telemetry import Tally
from fastsvs.token_rows import is_chosen, token_row
from fastsvs.training.experience import Underway
from fastsvs.training.session import Session


def evaluate_held_out(session: Session, step: int, underway: Mapping[int, Underway]) -> None:
    """Evaluate on the held-out problems before training, after it, and every `evaluation.every` steps; each time once.
    Rollouts that are `underway` go on beside it under the new weights, where the engine can change them meanwhile;
    elsewhere they are finished first."""
    config, run = session.job.evaluation, session.job.run
    due = step in (0, run.steps) or (config.every and step % config.every == 0)
    if not session.held_out or not due or session.evaluated(step):
        return
    if not session.updates_at_work:
        for rollout in underway.values():
            rollout.wait(version=step)
    session.sync.publish(step)

    tokens: list[dict[str, Any]] = []

    def work(engine: Inference, cancelled: Callable[[], bool]) -> list[Answered]:
        with Tally(session.progress, "held-out", "problems") as tally:

            def take(problem: Answered, group: Group) -> None:
                tally.add(sum(problem.tokens), len(session.held_out))
                if is_chosen(group.task.problem, session.job.logging.token_share, run.seed):
                    tokens.append(token_row(group, session.inputs.tokenizer.decode))

            return evaluate(
                session.held_out,
                engine,
                session.verifier,
                session.decode,
                config,
                session.job.rollout,
                seed=derive_seed(run.seed, "evaluation"),
                cancelled=cancelled,
                progress=take,
            )

    with session.progress.phase("evaluation"):
        answered = session.rollouts.start(work).result(version=step)
    if answered:
        rows = [problem.as_row() for problem in answered]
        tokens.sort(key=lambda row: row["key"])
        session.folder.write_evaluation(step, figures(answered, config), rows, tokens)
        facts = "  ".join(f"{name} {rate}" for name, rate in pass_rates(answered, config.k).items())
        session.progress.say(f"held-out after {step} steps: {facts}")
