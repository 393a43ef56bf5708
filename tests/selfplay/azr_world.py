"""AZR over the small world: exercises, prompts with the templates `tiny`, responses in their form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from selfplay_world import answered, encode

from fastsvs.config import AzrConfig, SelfPlayConfig
from fastsvs.selfplay import AzrStage, Finding, Group, StageTools, Task
from fastsvs.selfplay.azr import Exercise, Rejection
from fastsvs.verify import Verdict

DOUBLE = Exercise("def f(x): return 2 * x", ("3",), ("6",))
TRIPLE = Exercise("def f(x): return 3 * x", ("2",), ("6",))
SQUARES = Exercise("def f(x): return x * x", ("1", "2", "3", "4", "5"), ("1", "4", "9", "16", "25"), "squares")


def block(name: str, content: str) -> str:
    return f"```{name}\n{content}\n```"


def proposal(program: str, given: str) -> str:
    return f"{block('python', program)}\n{block('input', given)}"


def inputs_and_message(*inputs: str, message: str = "a hint") -> str:
    return "\n".join([*(block("input", text) for text in inputs), block("message", message)])


def make_azr(max_prompt_tokens: int = 2000, seed: int = 0, **azr: Any) -> AzrStage:
    config = AzrConfig(**{"templates": "tiny", "prompts_per_task": 4, "samples_per_proposal": 4} | azr)
    tools = StageTools(encode, encode, max_prompt_tokens, 200, seed)
    return AzrStage(SelfPlayConfig(stage="azr", azr=config), tools)


def of_kind(tasks: Sequence[Task], kind: str) -> list[Task]:
    return [task for task in tasks if task.kind == kind]


def found(task: Task, text: str, finding: Finding) -> Group:
    """A group of one response and what the judge says of it."""
    group = answered(task, [text], [finding.verdict])
    return replace(group, notes=(finding.note,) if finding.note is not None else ())


def valid(task: Task, exercise: Exercise) -> Group:
    return found(task, "a proposal", Finding(Verdict.CORRECT, exercise.as_json()))


def invalid(task: Task, reason: Rejection = Rejection.FAILED) -> Group:
    return found(task, "no proposal", Finding(Verdict.WRONG, {"rejected": str(reason)}))


def solved_by(task: Task, right: int, notes: Mapping[int, str] | None = None) -> Group:
    """The answers to a task, the first `right` of them right; `notes` by place."""
    verdicts = [Verdict.CORRECT] * right + [Verdict.WRONG] * (task.samples - right)
    group = answered(task, [f"answer {i}" for i in range(task.samples)], verdicts)
    return replace(group, notes=tuple((notes or {}).get(i) for i in range(task.samples)) if notes else ())
