"""Files of finished runs and evaluations, as `fastsvs` leaves them, and the command of an experiment as a whole."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file
from whole_runs import ROOT, environment

from bench.experiments.plan import HELD_OUT, Evaluated
from bench.experiments.statistics import pass_rates
from fastsvs.files import write_json, write_jsonl

SAMPLES, TOKENS = 4, 10
"""Number of samples to each problem, and of tokens in each."""


def write_evaluation(evaluated: Evaluated, correct: Sequence[int], entropy: float, name: str = HELD_OUT) -> None:
    """Write an evaluation on a set with so many correct samples to each problem. Only the base's has the problems in
    order."""
    rates = {f"pass@{k}": {"mean": pass_rates(np.array(correct), SAMPLES, k).mean()} for k in evaluated.plan.ks}
    write_json(evaluated.figures(name), {**rates, "entropy_estimate": entropy})
    rows = [
        {
            "id": f"tiny:{name}/{index}",
            "verdicts": ["correct"] * count + ["wrong"] * (SAMPLES - count),
            "tokens": [TOKENS] * SAMPLES,
            "logprobs": [-TOKENS * entropy] * SAMPLES,
        }
        for index, count in enumerate(correct)
    ]
    write_jsonl(evaluated.samples(name), rows[:: 1 if evaluated.step == 0 else -1])


def change_layers(model: Path, count: int) -> None:
    """Move the MLP inputs of the first `count` layers by as much as bf16 shows."""
    tensors = load_file(model / "model.safetensors")
    for layer in range(count):
        tensors[f"model.layers.{layer}.mlp.up_proj.weight"] *= 1.5
    save_file(tensors, model / "model.safetensors")


def run_small_twice(module: str, runs: Path, page: Path) -> str:
    """Run the smoke suite of an experiment and return its page. The second time it only reads."""
    options = ["--suite", "smoke", "--runs", runs, "--out", page.parent, "--page", page]
    command = [sys.executable, "-m", module, *map(str, options)]
    first, second = (
        subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    assert "done:" in first.stdout
    assert "done:" not in second.stdout
    return page.read_text()
