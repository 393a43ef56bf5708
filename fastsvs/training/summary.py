"""Summary of a training run at its end, computed from the files of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from fastsvs import distributed
from fastsvs.evaluate import Estimate
from fastsvs.selfplay import VARIANT, Experience
from fastsvs.telemetry import draw_curves
from fastsvs.training.comparison import describe_lost_steps, lost_steps
from fastsvs.training.session import Session
from fastsvs.verify import Verdict

SHOWN_PROBLEMS = 3


def conclude(session: Session) -> dict[str, Any]:
    """Write `summary.json` and `curves.png`, show the result, and return the summary on every rank."""
    folder, run = session.folder, session.job.run
    metrics = folder.metrics()
    evaluations = folder.evaluations()
    seconds = sum(row["time/step"] for row in metrics)
    summary = {
        "before": _pass_rates(evaluations.get(0)),
        "after": _pass_rates(evaluations.get(run.steps)),
        "steps": run.steps,
        "wall_seconds": round(seconds, 1),
        "seed": run.seed,
        "without_learning": lost_steps(metrics),
        "links": distributed.broadcast(folder.links),
        "self_made_problems": list(islice(_self_made_problems(session), SHOWN_PROBLEMS)),
    }
    folder.write_summary(summary)
    if distributed.is_main():
        title = f"{run.dir}: {session.job.selfplay.stage}, seed {run.seed}"
        draw_curves(folder.layout.curves, title, metrics, evaluations)
        _show(session, summary)
    return summary


def sample_rows(step: int, experience: Experience) -> Iterator[dict[str, Any]]:
    """Yield one object per group: what the policy read and wrote, verdicts, rewards, and whether it was learned from.

    `rejections` holds, for each response that was to write a problem, why the problem was not solved; None if it was.
    `notes` holds what a judge said of each response besides its verdict.
    """
    trained = {group.task.key for group in experience.groups}
    groups = [*experience.groups, *experience.discarded]
    for group in groups:
        row = {
            "step": step,
            "key": group.task.key,
            "kind": group.task.kind,
            "parent": group.task.parent,
            "parent_sample": group.task.parent_sample,
            "problem": group.task.problem.id,
            "question": group.task.problem.question,
            "answer": group.task.problem.answer,
            "responses": list(group.texts),
            "verdicts": [str(verdict) for verdict in group.verdicts],
            "rewards": list(group.rewards),
            "tokens": [len(rollout.response_ids) for rollout in group.rollouts],
            "finish": [rollout.finish_reason for rollout in group.rollouts],
            "weight_versions": sorted({rollout.weight_version for rollout in group.rollouts}),
            "trained": group.task.key in trained,
        }
        if group.task.problem.system is not None:
            row["system"] = group.task.problem.system
        if group.notes:
            row["notes"] = list(group.notes)
        if group.scores:
            row["scores"] = list(group.scores)
        if group.penalties:
            row["penalties"] = list(group.penalties)
        if group.rejections:
            row["rejections"] = list(group.rejections)
        yield row


def _pass_rates(evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (evaluation or {}).items() if name.startswith("pass@")}


def _self_made_problems(session: Session) -> Iterator[dict[str, Any]]:
    """Yield rewarded problems of the latest steps, each from another source, with the solution it was written from."""
    sources: set[str] = set()
    for step in range(session.job.run.steps, 0, -1):
        groups = {row["key"]: row for row in session.folder.stored.samples(step)}
        for row in groups.values():
            if row["kind"] != VARIANT:
                continue
            synthesis = groups[row["parent"]]
            reward = synthesis["rewards"][row["parent_sample"]]
            if reward == 1.0 and synthesis["problem"] not in sources:
                sources.add(synthesis["problem"])
                yield {
                    "step": step,
                    "source_problem": synthesis["question"],
                    "source_solution": groups[synthesis["parent"]]["responses"][synthesis["parent_sample"]],
                    "problem": row["question"],
                    "answer": row["answer"],
                    "solve_rate": row["verdicts"].count(Verdict.CORRECT) / len(row["verdicts"]),
                    "reward": reward,
                }


def _show(session: Session, summary: Mapping[str, Any]) -> None:
    say, layout = session.progress.say, session.folder.layout
    say("")
    for index, made in enumerate(summary["self_made_problems"], 1):
        say(f"self-made problem {index} (step {made['step']})")
        say(f"  source problem:   {_one_line(made['source_problem'])}")
        say(f"  source solution:  {_one_line(made['source_solution'])}")
        say(f"  problem written:  {_one_line(made['problem'])}")
        say(f"  answer {made['answer']}, solve rate {made['solve_rate']:.3f}, reward {made['reward']:g}")
    for name in (name for name in summary["after"] if name in summary["before"]):
        before, after = summary["before"][name], summary["after"][name]
        say(f"held-out {name}: {Estimate(**before)} before, {Estimate(**after)} after")
    lost = summary["without_learning"]
    if lost["steps"]:
        say(describe_lost_steps(lost, summary["steps"], str(layout.root)))
    say(f"{summary['steps']} training steps in {summary['wall_seconds']:.0f} s")
    for name, link in summary["links"].items():
        say(f"{name}: {link}")
    say(f"see {layout.summary} and {layout.curves}; `fastsvs report {layout.root}` makes a page of everything")


def _one_line(text: str) -> str:
    return " ".join(text.split())
