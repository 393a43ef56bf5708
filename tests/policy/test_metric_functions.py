"""MetricFns: the built-in ones and a user's own, which no layout and no rank changes; and what they may not give."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core import parallel_state as mpu
from policy_cases import make_batch, save_model
from policy_ranks import run_ranks
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastsvs import distributed
from fastsvs.config import ModelConfig, TrainJob, load
from fastsvs.dynamics import METRICS, StepView
from fastsvs.errors import UserError
from fastsvs.policy import Policy
from fastsvs.training.diagnostics import measure

CONFIG = Path(__file__).parents[2] / "configs" / "tiny_svs.yaml"
MOVED = 0.25
OWN = ("token_extremes", "widest_state", "largest_change", "longest_question")
LAYOUTS = {"dp2": [], "tp2": ["policy.tensor_parallel=2"], "pp2": ["policy.pipeline_parallel=2"]}
ROW = {
    **{"key": "0", "kind": "original", "question": "one two three", "answer": "3", "parent": None},
    **{"responses": ["3", "4"], "verdicts": ["correct", "wrong"], "rewards": [1.0, 0.0], "parent_sample": None},
}


def token_extremes(step: StepView) -> Mapping[str, float]:
    surprise = -step.logprobs()
    return {"surprise_most": float(surprise.max()), "surprise_least": float(surprise.min()), "tokens": len(surprise)}


def widest_state(step: StepView) -> Mapping[str, float]:
    def width(hidden: list[Tensor]) -> Tensor:
        return torch.stack([state.norm(dim=1).max() for state in hidden])[:, None]

    return {"width": float(step.hidden([0, 5, 11], width).max())}


def largest_change(step: StepView) -> Mapping[str, float]:
    changes = step.weights(lambda before, now: float((now - before).abs().max()))
    assert "model.norm.weight" in changes, "every rank gets all"
    return {"changed": max(changes.values())}


def longest_question(step: StepView) -> Mapping[str, float]:
    return {"words": step.samples(lambda rows: max(len(row["question"].split()) for row in rows))}


def words(step: StepView) -> Mapping[str, Any]:
    return {"words": "many"}


def job(model: str, *overrides: str) -> TrainJob:
    small = [
        "policy.dtype=fp32",
        "policy.recompute=none",
        "policy.tokens_per_micro_batch=200",
        "dynamics.rank_window=16",
    ]
    small += ["data.max_prompt_tokens=40", "rollout.max_response_tokens=60", "dynamics.rank_stride=4"]
    return load(TrainJob, CONFIG, [f"model.path={model}", "run.dir=none", *small, *overrides])


def own(*names: str) -> str:
    return f"dynamics.metrics=[{','.join(f'{__name__}:{name}' for name in names)}]"


def built(job: TrainJob) -> Policy:
    """A policy that has moved away from the job's model."""
    moved = ModelConfig(path=f"{job.model.path}-moved")
    return Policy(moved, job.policy, seed=0, total_updates=8, max_sequence_tokens=128)


def figures_of(model: str, *overrides: str) -> list[dict[str, float]]:
    """What the built-in metrics, and then the user's, find in a step whose samples only the main rank has."""
    mpu.destroy_model_parallel()
    found = []
    for metrics in ([], [own(*OWN)]):
        asked = job(model, *overrides, *metrics)
        policy = built(asked)
        found.append(measure(asked, policy, 1, make_batch(), [ROW] if distributed.is_main() else []))
        mpu.destroy_model_parallel()
    return found


def every_layout(model: str) -> dict[str, list[dict[str, float]]]:
    return {name: figures_of(model, *overrides) for name, overrides in LAYOUTS.items()}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = save_model("qwen2-tied", tmp_path_factory.mktemp("models") / "model")
    moved = Path(shutil.copytree(folder, f"{folder}-moved"))
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t + MOVED * (t > 0) for n, t in tensors.items()}, moved / "model.safetensors", {"format": "pt"})
    return str(folder)


@pytest.fixture(scope="module")
def alone(model: str) -> list[dict[str, float]]:
    return figures_of(model)


@pytest.fixture(scope="module")
def by_rank(model: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[dict[str, float]]]]:
    return run_ranks(every_layout, 2, tmp_path_factory.mktemp("ranks"), model)


def test_a_users_metrics_say_what_is_so(model: str, alone: list[dict[str, float]]) -> None:
    policy, batch = built(job(model)), make_batch()
    surprise = -policy.log_probs(batch, job(model).rollout.temperature)
    width = alone[1]["dynamics/width"]
    assert width > 0
    assert alone[1] == {
        "dynamics/surprise_most": float(surprise.max()),
        "dynamics/surprise_least": float(surprise.min()),
        "dynamics/tokens": int(batch.response_lengths.sum()),
        "dynamics/width": width,
        "dynamics/changed": pytest.approx(MOVED),
        "dynamics/words": 3,
    }


def test_the_metrics_that_a_run_calls_unless_told_otherwise_are_all_that_there_are() -> None:
    assert sorted(job("m").dynamics.metrics) == METRICS.names()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_rank_of_every_layout_finds_the_same(layout: str, by_rank: list[dict], alone: list[dict]) -> None:
    first, second = (rank[layout] for rank in by_rank)
    assert first == second
    for found, expected in zip(first, alone, strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)  # accelerations are differences of differences


def test_a_step_without_anything_to_learn_from_has_fewer_figures(model: str) -> None:
    asked = job(model, "dynamics.metrics=[rank,entropy,updates]")
    figures = measure(asked, built(asked), 1, make_batch().select([]), [])
    assert figures.keys() == {f"dynamics/sparsity/{how}" for how in ("exact", "bf16", "tolerance")} | {
        "dynamics/relative_change"
    }


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (own("words"), r"test_metric_functions:words' gave 'words' the value 'many'; it must be a Python number"),
        (own("longest_question", "longest_question"), "the metric 'words' is reported twice"),
    ],
)
def test_what_is_no_number_and_what_is_there_already_are_refused(model: str, metrics: str, message: str) -> None:
    asked = job(model, metrics)
    with pytest.raises(UserError, match=message):
        measure(asked, built(asked), 1, make_batch(), [ROW])
