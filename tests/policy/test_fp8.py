"""FP8 by Transformer Engine: Megatron's own context around its layers, and rows that 8-bit products can take.

A GPU with FP8 is tested where there is one. Elsewhere the stand-in of plain torch rounds what its linear layers
multiply, and demands the multiples that the real ones do.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core import parallel_state as mpu
from policy_cases import GSPO, hf_gradients, make_batch, save_model
from policy_ranks import run_ranks
from pydantic import ValidationError

from fastsvs.algorithms import policy_loss
from fastsvs.architecture import load_hf_config, read_architecture
from fastsvs.config import ModelConfig, PolicyConfig
from fastsvs.errors import UserError
from fastsvs.layout_checks import check_layout
from fastsvs.policy import Policy, check_backend

STAND_IN = Path(__file__).parent / "stand_in"
BF16 = {"tensor_parallel": 2}
PRECISIONS: dict[str, dict[str, Any]] = {
    "bf16": BF16,
    "unrounded": BF16 | {"fp8": "hybrid"},
    "hybrid": BF16 | {"fp8": "hybrid"},
    "e4m3, kept": BF16 | {"fp8": "e4m3", "recompute": "none"},
    "whole rows": BF16 | {"fp8": "hybrid", "sequence_parallel": False},
}


def figures(path: str, dtype: str | None, layout: dict[str, Any]) -> dict[str, Any]:
    """Return log-probs, gradients and rows of a policy; `dtype` replaces bf16, which the stand-in has no need of."""
    config = PolicyConfig(dtype="bf16", backend="te", tokens_per_micro_batch=200, **layout)
    config = config.model_copy(update={"dtype": dtype} if dtype else {})
    policy = Policy(ModelConfig(path=path), config, seed=0, total_updates=8, max_sequence_tokens=128)
    batch, weights = make_batch(), torch.linspace(1e-3, 5e-3, 12)
    logprobs = policy.log_probs(batch, 0.7)
    policy.accumulate_gradients(batch, policy_loss(GSPO), GSPO, weights, 0.7)
    lengths = [len(row.tokens) for row in policy._plan(batch).rows]
    found = {"logprobs": logprobs, "gradients": hf_gradients(policy), "lengths": lengths, "facts": policy.facts[0]}
    mpu.destroy_model_parallel()
    return found


def all_precisions(path: str, stand_in: str) -> dict[str, dict[str, Any]]:
    sys.path.insert(0, stand_in)
    from transformer_engine.pytorch.fp8 import FP8GlobalStateManager as State

    found = {}
    for name, layout in PRECISIONS.items():
        State.rounds, State.products = name != "unrounded", 0
        found[name] = figures(path, "fp32", layout) | {"products": State.products}
    return found


def shift(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the relative distance of log-probs."""
    return float((one["logprobs"] - other["logprobs"]).norm() / other["logprobs"].norm())


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the largest relative distance of log-probs and of any tensor's gradient."""
    pairs = [(gradient, other["gradients"][name]) for name, gradient in one["gradients"].items()]
    return max(shift(one, other), *(float((x - y).norm() / y.norm()) for x, y in pairs))


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("fp8")
    return run_ranks(all_precisions, 2, folder, str(save_model("qwen2-tied", folder / "model")), str(STAND_IN))


def test_padding_that_8_bit_products_need_changes_nothing(by_rank: list[dict[str, dict[str, Any]]]) -> None:
    for found in by_rank:
        assert any(length % 16 for length in found["bf16"]["lengths"])
        assert all(length % 16 == 0 for length in found["unrounded"]["lengths"])
        assert found["unrounded"]["products"] > found["bf16"]["products"] == 0
        assert distance(found["unrounded"], found["bf16"]) < 1e-5


def test_layers_round_what_they_multiply_and_alike_when_they_are_computed_again(
    by_rank: list[dict[str, dict[str, Any]]],
) -> None:
    for found in by_rank:
        assert 1e-3 < shift(found["hybrid"], found["bf16"]) < 0.05
        assert distance(found["e4m3, kept"], found["hybrid"]) < 1e-5, "the stand-in rounds no gradients"
        assert found["hybrid"]["products"] > found["e4m3, kept"]["products"], "it computes each layer twice"
        assert shift(found["whole rows"], found["bf16"]) < 0.05
        expected = "policy: norms, linear layers in FP8 (hybrid) and attention of Transformer Engine, AdamW of torch"
        assert found["hybrid"]["facts"] == expected


def test_transformer_engine_itself_computes_almost_the_same_in_fp8(tmp_path: Path) -> None:
    try:
        check_backend("te", "hybrid")
    except UserError as error:
        pytest.skip(str(error))
    path = str(save_model("qwen2-tied", tmp_path / "model"))
    assert 1e-4 < shift(figures(path, None, {"fp8": "hybrid"}), figures(path, None, {})) < 0.05


def test_what_has_no_fp8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="fp8: hybrid is computed by Transformer Engine: set backend to te"):
        PolicyConfig(fp8="hybrid")
    architecture = read_architecture(load_hf_config(str(save_model("llama3-tied-mha", tmp_path))))
    check_layout(architecture, PolicyConfig(backend="te", fp8="e4m3", tensor_parallel=2))
    with pytest.raises(UserError, match=r"policy\.fp8=e4m3 takes multiples of 16, .* feed-forward width 24: set"):
        check_layout(architecture, PolicyConfig(backend="te", fp8="e4m3", tensor_parallel=4))
