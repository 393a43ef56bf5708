"""A run folder whose every number is known, and the page's text that a policy could have written to break it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b>bold</b>"
REACHING = r"$\href{javascript:document.title='owned'}{x}$ $\includegraphics{https://example.com/x.png}$"
PROBLEM = r"Let $\frac{a}{2} = 3$. What is \(a\)? " + HOSTILE
CONTEXT = "Twice three is six.\n\\[a = 2 \\cdot 3\\]\nso \\boxed{6}"
VARIANT = r"A pair of gloves weighs $6$ ounces on \(2\) hands; how much is $\sqrt{36}$?"
COPY = "```text\n" + PROBLEM + "\n```"

CONFIG: dict[str, Any] = {
    "model": {"path": "models/tiny"},
    "rollout": {"engine": "local", "temperature": 1.0},
    "selfplay": {"stage": "svs", "context_range": [0.125, 0.5]},
    "policy": {"optimizer": {"learning_rate": 0.0002}},
    "run": {"dir": "runs/hand", "seed": 3, "steps": 4},
}
PLAN: dict[str, Any] = {
    "nodes": 2,
    "gpus": 8,
    "hardware": "h100",
    "lengths": "assumed (as long as ever)",
    "figures": {
        "time/update": {"value": 6.0, "unit": "s"},
        "time/checkpoint_write": {"value": 9.0, "unit": "s"},
        "dynamics/sparsity/bf16": {"value": 0.95, "unit": "share"},
    },
}
ENVIRONMENT = {
    "python": "3.11.7",
    "packages": {"torch": "2.13.0"},
    "gpus": [],
    "threads": 2,
    "command": "fastsvs train",
}


def metrics(step: int) -> dict[str, Any]:
    """Entropy falls by an eighth a step; all else follows from the step."""
    return {
        "step": step,
        "samples/original": 4,
        "samples/synthesis": 2,
        "samples/variant": 2,
        "kept_samples/original": 8,
        "kept_samples/synthesis": 4,
        "kept_samples/variant": 2 * step,
        "solve_rate/original": 0.25 + step / 100,
        "solve_rate/variant": 0.5,
        "variants_asked": 4,
        "variants_extracted": 3,
        "variants_valid": 2,
        "variants_positive": 1,
        "rejected/copy": 1,
        "rejected/duplicate": 1,
        "rejected/empty": 0,
        "policy/entropy": 1 - step / 8,
        "policy/entropy/original": 0.75 - step / 8,
        "policy/entropy/variant": 1.25 - step / 8,
        "policy/grad_norm": 0.5 * step,
        "policy/clip_fraction_low": 0.0,
        "policy/clip_fraction_high": 0.01 * step,
        "policy/surprise": 3.5,
        "policy/experts/entropy": 0.75,
        "policy/experts/largest_share": 0.25,
        **{f"policy/experts/entropy/layer_{layer}": 0.5 + layer / 4 for layer in range(3)},
        **{f"policy/experts/largest_share/layer_{layer}": step / 8 - layer / 16 for layer in range(3)},
        "time/sync": 1.0,
        "time/rollout": 10.0,
        "time/verification": 2.0,
        "time/generation": 10.0,
        "time/update": 5.0,
        "time/step": 16.5,
        **dynamics(step),
    }


def dynamics(step: int) -> dict[str, float]:
    """At steps 1 and 4, as with an interval."""
    if step not in (1, 4):
        return {}
    quantiles = {"p10": 0.01, "p50": 0.1, "p90": 1.0, "p99": 2.5}
    return {
        **{f"dynamics/entropy/all/{name}": value / step for name, value in quantiles.items()},
        **{f"dynamics/entropy_at/0.{tenth}": (10 - tenth) / 10 / step for tenth in range(10)},
        **{f"dynamics/solved/original/{count}": 5 - count for count in range(5) if count != step},
        "dynamics/effective_rank/original": 12.5 + step,
        "dynamics/sparsity/exact": 0.9 - step / 100,
        "dynamics/sparsity/bf16": 0.95,
        "dynamics/distinct_answers/original": 0.4,
    }


def evaluation(mean: float) -> dict[str, Any]:
    share = {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}
    better = {"mean": mean + 0.3, "low": mean + 0.25, "high": mean + 0.35}
    return {
        "pass@1": share,
        "pass@2": {**better, "mean": mean + 0.26},
        "pass@8": better,
        "problems": 20,
        "truncated": 0.5,
    }


def group(step: int, key: str, kind: str, question: str, responses: list[str], **more: Any) -> dict[str, Any]:
    return {
        "step": step,
        "key": key,
        "kind": kind,
        "parent": None,
        "parent_sample": None,
        "problem": f"hand/{step}",
        "question": question,
        "answer": "6",
        "responses": responses,
        "verdicts": [],
        "rewards": [0.0] * len(responses),
        "tokens": [len(response) for response in responses],
        "finish": ["stop"] * len(responses),
        "trained": True,
        **more,
    }


def family(step: int, key: str = "000000") -> list[dict[str, Any]]:
    """One problem; its second response is a context; of two problems written from it one is a copy, one is solved."""
    wrong = f"No idea. {HOSTILE} {REACHING}"
    return [
        group(
            step,
            key,
            "original",
            PROBLEM,
            [wrong, CONTEXT, "hanging", "5"],
            verdicts=["wrong", "correct", "unverified", "wrong"],
            rewards=[0.0, 1.0, 0.0, 0.0],
            finish=["length", "stop", "stop", "stop"],
        ),
        group(
            step,
            f"{key}/001",
            "synthesis",
            PROBLEM,
            [COPY, f"```text\n{VARIANT}\n```"],
            parent=key,
            parent_sample=1,
            rewards=[0.0, 1.0],
            rejections=["copy", None],
        ),
        group(
            step,
            f"{key}/001/001",
            "variant",
            VARIANT,
            ["\\boxed{6}", "\\boxed{7}"],
            parent=f"{key}/001",
            parent_sample=1,
            verdicts=["correct", "wrong"],
            rewards=[1.0, 0.0],
            trained=False,
        ),
    ]


def answered(number: int, verdicts: str, **more: Any) -> dict[str, Any]:
    """One problem of a set with its answers; a verdict is `c` for correct, `w` for wrong."""
    return {
        "key": f"{number:06d}",
        "id": f"set/{number}",
        "question": f"What is ${number} + {number}$? {HOSTILE}",
        "answer": str(2 * number),
        "responses": [
            f"{HOSTILE} \\boxed{{{2 * number + (verdict != 'c')}}}, try {sample}"
            for sample, verdict in enumerate(verdicts)
        ],
        "verdicts": [{"c": "correct", "w": "wrong"}[verdict] for verdict in verdicts],
        "finish": ["stop"] * len(verdicts),
        "tokens": [30 + number] * len(verdicts),
        "logprobs": [-3.0] * len(verdicts),
        **more,
    }


def write_evaluation(folder: Path, mean: float = 0.3, **sets: Sequence[str]) -> Path:
    """A finished evaluation, with the verdicts of each set's problems."""
    write(folder / "config.yaml", yaml.safe_dump({"model": {"path": "models/tiny"}, "output": str(folder)}))
    write(folder / "environment.json", json.dumps(ENVIRONMENT))
    write(folder / "model.json", json.dumps({"path": "models/tiny", "step": 0}))
    for name, verdicts in sets.items():
        write_lines(folder / f"{name}.samples.jsonl", (answered(*each) for each in enumerate(verdicts)))
        write(folder / f"{name}.json", json.dumps(evaluation(mean)))
    return folder


def write_run(folder: Path, *, steps: int = 4, **changes: Any) -> Path:
    """A finished run of `steps` steps; `changes` are dotted keys of its configuration, `__` for a dot."""
    config = json.loads(json.dumps(CONFIG))
    for key, value in changes.items():
        *sections, last = key.split("__")
        place = config
        for section in sections:
            place = place[section]
        place[last] = value
    write(folder / "config.yaml", yaml.safe_dump(config))
    write(folder / "environment.json", json.dumps(ENVIRONMENT))
    write(folder / "plan.json", json.dumps(PLAN))
    write_lines(folder / "metrics.jsonl", map(metrics, range(1, steps + 1)))
    for step, mean in ((0, 0.3), (2, 0.35), (4, 0.45)):
        write(folder / "evaluations" / f"step_{step}.json", json.dumps(evaluation(mean)))
    for step in range(1, steps + 1):
        write_lines(folder / "samples" / f"step_{step}.jsonl", family(step))
    write(folder / "summary.json", "{}")
    return folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


def tokens_of(row: Mapping[str, Any], figures: Sequence[float] = (-0.25, -2.0, -8.0)) -> dict[str, Any]:
    """A token for each word, with these log-probs in turn; the policy has learned from all but the first response."""
    texts = [[*re.findall(r"\s*\S+", response), "<|end|>"] for response in row["responses"]]
    engine = [[figures[place % len(figures)] for place in range(len(each))] for each in texts]
    return {
        "step": row["step"],
        "key": row["key"],
        "prompt": f"<|user|>{row['question']}<|assistant|>",
        "texts": texts,
        "engine_logprobs": engine,
        "policy_logprobs": [
            [round(value + 0.05, 4) for value in each] if sample else None for sample, each in enumerate(engine)
        ],
        "entropies": [[0.5] * len(each) if sample else None for sample, each in enumerate(engine)],
    }


def answer_tokens_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens of the answers to a held-out problem, of which no policy has learned."""
    unknown = [None] * len(row["responses"])
    return {**tokens_of({"step": 0, **row}), "policy_logprobs": unknown, "entropies": unknown}


def write_tokens(folder: Path, step: int = 1) -> None:
    """The tokens of every group of a step."""
    rows = [json.loads(line) for line in (folder / "samples" / f"step_{step}.jsonl").read_text().splitlines()]
    write_lines(folder / "samples" / f"step_{step}.tokens.jsonl", map(tokens_of, rows))
