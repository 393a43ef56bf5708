"""Adapters in PEFT's format: what is written is read, and what is not this policy's is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_cases import ALL, ALPHA, RANK, save_adapter, with_adapter
from policy_cases import save_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from fastsvs.architecture import Architecture, load_hf_config, trained_architecture
from fastsvs.config import LoraConfig, PolicyConfig
from fastsvs.errors import UserError
from fastsvs.policy.adapter_files import NewAdapters, StoredAdapters, open_adapters, save_adapters
from fastsvs.policy.learned import adapter_shapes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("qwen2-tied", tmp_path_factory.mktemp("model"))


@pytest.fixture
def adapter(model: Path, tmp_path: Path) -> Path:
    return save_adapter(model, tmp_path / "adapter")


def architecture_of(model: Path, **changes: Any) -> Architecture:
    lora = LoraConfig(**{"rank": RANK, "alpha": ALPHA} | changes)
    return trained_architecture(load_hf_config(str(model)), PolicyConfig(lora=lora))


def test_what_is_written_is_read(model: Path, adapter: Path, tmp_path: Path) -> None:
    architecture = architecture_of(model)
    source = StoredAdapters(adapter, architecture)
    save_adapters(source, architecture, torch.float32, str(model), tmp_path / "again")
    written, given = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "again", adapter))
    assert written.keys() == given.keys()
    assert all(torch.equal(written[name], given[name]) for name in given)
    again = StoredAdapters(tmp_path / "again", architecture)
    for name, (rows, _) in adapter_shapes(architecture).items():
        whole = source.read(name, None, 0, 0)
        assert torch.equal(again.read(name, None, 0, 0), whole)
        assert torch.equal(again.read(name, 0, 1, rows), whole[1:])
        assert torch.equal(again.read(name, 1, 2, 4), whole[:, 2:4])


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="PEFT is not installed")
def test_peft_computes_the_formula(model: Path, adapter: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    architecture = architecture_of(model)
    save_adapters(StoredAdapters(adapter, architecture), architecture, torch.float32, str(model), tmp_path / "ours")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), tmp_path / "ours")
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert (loaded(ids).logits - with_adapter(model, adapter, torch.float32)(ids).logits).abs().max() < 1e-4


def test_new_adapters_change_nothing_and_are_drawn_as_peft_does(model: Path) -> None:
    architecture = architecture_of(model, rank=16)
    source, other = NewAdapters(architecture, seed=3), NewAdapters(architecture, seed=4)
    for name, shape in adapter_shapes(architecture).items():
        whole = source.read(name, None, 0, 0)
        assert whole.shape == shape
        if name.endswith("lora_B.weight"):
            assert not whole.any()
            continue
        bound = shape[1] ** -0.5
        assert bound * 0.98 < whole.abs().max() <= bound
        assert whole.std() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert torch.equal(source.read(name, 1, 3, 9), whole[:, 3:9]), "a part is the whole's"
        assert not torch.equal(other.read(name, None, 0, 0), whole)
    expected = torch.empty(4096, 64)
    torch.nn.init.kaiming_uniform_(expected, a=5**0.5)
    assert expected.abs().max() == pytest.approx(64**-0.5, rel=0.01), "PEFT's initialisation, at the same bound"


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def reshape(folder: Path, change: Any) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: rewrite(f, r=8), "r is 8 instead of 4"),
        (lambda f: rewrite(f, lora_alpha=8), "lora_alpha is 8 instead of 6.0"),
        (lambda f: rewrite(f, use_dora=True), "use_dora is True instead of False"),
        (lambda f: rewrite(f, use_rslora=True), "use_rslora is True"),
        (lambda f: rewrite(f, modules_to_save=["lm_head"]), "modules_to_save is"),
        (lambda f: rewrite(f, rank_pattern={"q_proj": 2}), "rank_pattern is"),
        (lambda f: rewrite(f, alora_invocation_tokens=[5, 7]), "alora_invocation_tokens is [5, 7]"),
        (lambda f: rewrite(f, use_qalora=True), "use_qalora is True"),
        (
            lambda f: rewrite(f, init_lora_weights="pissa_niter_4"),
            "init_lora_weights is 'pissa_niter_4', which changes",
        ),
        (lambda f: rewrite(f, target_modules=["q_proj"]), "target_modules are"),
        (lambda f: rewrite(f, target_modules="all-linear"), "target_modules are 'all-linear'"),
        (lambda f: rewrite(f, peft_type="IA3"), "describes no LoRA adapter"),
        (lambda f: (f / "adapter_config.json").write_text("["), "cannot be read"),
        (lambda f: (f / "adapter_config.json").unlink(), "no folder of PEFT's"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 99), "cannot be read"),
        (lambda f: reshape(f, lambda t: t.pop(FIRST)), f"{FIRST} is missing"),
        (lambda f: reshape(f, lambda t: t.update(more=torch.zeros(1))), "more has no place"),
        (lambda f: reshape(f, lambda t: t.update({FIRST: torch.zeros(4, 63)})), "has shape [4, 63] instead of [4, 64]"),
    ],
)
def test_other_adapters_are_refused(model: Path, adapter: Path, damage: Any, message: str) -> None:
    damage(adapter)
    with pytest.raises(UserError) as refusal:
        open_adapters(
            LoraConfig(rank=RANK, alpha=ALPHA, targets=ALL, adapter=str(adapter)), architecture_of(model), seed=0
        )
    assert message in str(refusal.value)


def test_settings_that_older_files_leave_out_are_plain(model: Path, adapter: Path) -> None:
    rewrite(adapter, use_dora=False, rank_pattern=None, alpha_pattern={}, target_modules=sorted(ALL, reverse=True))
    rewrite(adapter, init_lora_weights="gaussian", layer_replication=None, lora_bias=False)
    StoredAdapters(adapter, architecture_of(model))


def test_values_that_are_not_finite_are_refused(model: Path, adapter: Path) -> None:
    reshape(adapter, lambda tensors: tensors[FIRST].fill_(float("nan")))
    source = StoredAdapters(adapter, architecture_of(model))
    with pytest.raises(UserError, match="NaN or infinite"):
        source.read(FIRST.removeprefix("base_model.model."), None, 0, 0)
