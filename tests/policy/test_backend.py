"""Transformer Engine and Apex in the environment: not used unless asked for, and the same model where asked for.

A GPU build of Transformer Engine is tested where there is one. Elsewhere a stand-in of plain torch takes its place
behind Megatron's own wrappers: it shows that the layers are put together as they must be, and nothing of what the real
one computes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core import parallel_state as mpu
from policy_cases import GSPO, hf_gradients, make_batch, save_model
from policy_ranks import run_ranks
from pydantic import ValidationError
from torch import Tensor

from fastsvs.algorithms import policy_loss
from fastsvs.config import ModelConfig, PolicyConfig
from fastsvs.errors import UserError
from fastsvs.policy import Policy, check_backend
from fastsvs.policy.imports import transformer_engine

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).parent / "stand_in"
LOOK = """
import json, sys
if "first" in sys.argv: import transformer_engine.pytorch.optimizers
import fastsvs.training.loop
import megatron.core.optimizer as found
import torch
seen = [name for name, module in sys.modules.items() if name.startswith("megatron.core")
        if getattr(module, "HAVE_TE", False) or getattr(module, "HAVE_APEX", False)]
seen.remove("megatron.core.transformer.multi_latent_attention")  # it says so wherever it is
loaded = sorted(name for name in sys.modules if name.partition(".")[0] in ("transformer_engine", "apex"))
print(json.dumps([found.Adam is torch.optim.AdamW, found.USING_PYTORCH_OPTIMIZER, seen, loaded]))
"""


def python(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the repository's root with the packages in `path` before all others."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(path), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


def test_megatron_sees_neither_even_where_they_were_imported_before() -> None:
    found = python(STAND_IN, "-c", LOOK, "first")
    assert found.returncode == 0, found.stderr
    torchs, using_torch, seen, loaded = json.loads(found.stdout)
    assert torchs
    assert using_torch
    assert seen == []
    assert "transformer_engine.pytorch.optimizers" in loaded  # given back to those who had imported it


def test_a_transformer_engine_that_was_built_for_another_torch(tmp_path: Path) -> None:
    (tmp_path / "transformer_engine.py").write_text("raise OSError('undefined symbol: _ZN3c10')")
    found = python(tmp_path, "-c", LOOK)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == [True, True, [], []]


def test_a_run_beside_both_saves_and_resumes(tmp_path: Path) -> None:
    common = ("configs/tiny_sft.yaml", "data.limit=200", "run.prompts_per_step=8", "policy.optimizer.warmup_steps=0")
    settings = ("run.save_every=1", f"run.dir={tmp_path / 'run'}", "export=null", "policy.optimizer.schedule=constant")
    for steps in (1, 2):
        found = python(STAND_IN, "-m", "fastsvs", "sft", *common, *settings, f"run.steps={steps}")
        assert found.returncode == 0, found.stderr
        assert "Transformer Engine and Apex not used, though installed" in found.stdout
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]


IMPORTED_EARLIER = """
import megatron.core.optimizer
from fastsvs.config import ModelConfig, PolicyConfig
from fastsvs.errors import UserError
from fastsvs.policy import Policy
try:
    Policy(ModelConfig(path="models/tiny", initialize="random"), PolicyConfig(dtype="fp32", recompute="none"), seed=0,
           total_updates=1, max_sequence_tokens=64)
except UserError as error:
    print(error)
"""


def test_megatron_imported_with_another_optimizer_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "apex").symlink_to(STAND_IN / "apex")
    found = python(tmp_path, "-c", IMPORTED_EARLIER)
    assert "took its optimizer from apex.optimizers" in found.stdout, found.stderr


def policy_results(path: str, stand_in: str | None, backend: str, layout: dict[str, Any]) -> dict[str, Any]:
    """Return names, log-probs and gradients of a policy with this backend."""
    if stand_in:
        sys.path.insert(0, stand_in)
    checked = PolicyConfig(dtype="bf16", backend=backend, tokens_per_micro_batch=200, **layout)  # type: ignore[arg-type]
    config = checked.model_copy(update={} if stand_in is None else {"dtype": "fp32"})
    policy = Policy(ModelConfig(path=path), config, seed=0, total_updates=8, max_sequence_tokens=128)
    batch, weights = make_batch(), torch.linspace(1e-3, 5e-3, 12)
    logprobs = policy.log_probs(batch, 0.7)
    policy.accumulate_gradients(batch, policy_loss(GSPO), GSPO, weights, 0.7)
    gradients = hf_gradients(policy)
    modules = {type(module).__name__ for module in policy.stage.modules()}
    mpu.destroy_model_parallel()
    return {"logprobs": logprobs, "gradients": gradients, "modules": modules, "facts": policy.facts}


def both_backends(path: str, stand_in: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    layouts = [{"tensor_parallel": 2}, {"tensor_parallel": 2, "sequence_parallel": False, "recompute_layers": 2}]
    return [
        (policy_results(path, stand_in, "local", layout), policy_results(path, stand_in, "te", layout))
        for layout in layouts
    ]


def assert_alike(local: dict[str, Any], te: dict[str, Any], tolerance: float) -> None:
    assert {"TEColumnParallelLinear", "TERowParallelLinear", "RMSNorm", "TEDotProductAttention"} <= te["modules"]
    torch.testing.assert_close(te["logprobs"], local["logprobs"], rtol=tolerance, atol=tolerance)
    assert set(te["gradients"]) == set(local["gradients"])
    for name, expected in local["gradients"].items():
        found: Tensor = te["gradients"][name]
        assert float((found - expected).norm() / expected.norm()) < tolerance, name


@pytest.mark.parametrize("model", ["qwen2-tied", "qwen3-untied"])
def test_a_stand_in_behind_megatrons_wrappers_is_the_same_model(model: str, tmp_path: Path) -> None:
    path = save_model(model, tmp_path / "model")
    for results in run_ranks(both_backends, 2, tmp_path, str(path), str(STAND_IN)):
        for local, te in results:
            assert_alike(local, te, tolerance=1e-4)
            assert not {name for name in local["modules"] if name.startswith("TE")}
            parts = "policy: norms, linear layers and attention of Transformer Engine, AdamW of torch"
            assert te["facts"] == [parts, "policy: a prompt is computed with each of its samples"]


def test_transformer_engine_itself_is_the_same_model(tmp_path: Path) -> None:
    try:
        check_backend("te")
    except UserError as error:
        pytest.skip(str(error))
    path = str(save_model("qwen2-tied", tmp_path / "model"))
    assert_alike(policy_results(path, None, "local", {}), policy_results(path, None, "te", {}), tolerance=3e-2)


def test_a_backend_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    check_backend("local")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"policy\.backend=te needs a GPU"):
        check_backend("te")
    monkeypatch.setitem(sys.modules, "transformer_engine", None)
    transformer_engine.cache_clear()
    with pytest.raises(UserError, match=r"does not import here \(ModuleNotFoundError.*set policy.backend=local"):
        transformer_engine()


def test_what_transformer_engine_cannot_do_here() -> None:
    for settings in ({"dtype": "fp32"}, {"recompute": "all_but_attention"}):
        with pytest.raises(ValidationError, match="backend: te needs"):
            PolicyConfig(backend="te", **settings)  # type: ignore[arg-type]
