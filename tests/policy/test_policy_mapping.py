"""The mapping as pure functions: every layout, without that many processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mapping_cases import DELTA_NETS, EXPERTS, linear_parts, shard
from policy_cases import CONFIGS, MIXTURE, YARN_ROPE, save_model
from stored_names import stored
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig, Qwen2Config

from fastsvs.architecture import Architecture, read_architecture, rotary_table
from fastsvs.families import DeltaNet, Experts
from fastsvs.policy import Degrees, export
from fastsvs.policy.learned import megatron_shapes
from fastsvs.policy.mapping import entries, hf_parts, hf_shapes
from fastsvs.policy.safetensors_folder import SafetensorsWeights


@settings(max_examples=30, deadline=None)
@given(
    tensor=st.sampled_from([1, 2, 4]),
    pipeline=st.sampled_from([1, 2, 4]),
    heads_per_group=st.integers(1, 3),
    vocabulary=st.integers(1, 300),
    tied=st.booleans(),
    qkv_bias=st.booleans(),
    qk_norm=st.booleans(),
    experts=EXPERTS,
    expert=st.sampled_from([1, 2, 4]),
    expert_tensor=st.sampled_from([1, 2, 4]),
    delta_net=DELTA_NETS,
)
def test_any_layout_and_back_is_bit_exact(
    tensor: int,
    pipeline: int,
    heads_per_group: int,
    vocabulary: int,
    tied: bool,
    qkv_bias: bool,
    qk_norm: bool,
    experts: Experts | None,
    expert: int,
    expert_tensor: int,
    delta_net: DeltaNet | None,
) -> None:
    degrees = Degrees(tensor, pipeline, expert, expert_tensor=expert_tensor)
    architecture = Architecture(
        layers=4,
        hidden=8,
        ffn=12,
        heads=4 * heads_per_group,
        groups=4,
        head_dim=2,
        vocabulary=vocabulary,
        max_positions=128,
        tied=tied,
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
        norm_epsilon=1e-6,
        initializer_range=0.02,
        experts=experts,
        **linear_parts(delta_net, 4),
    )
    tensors = {name: torch.randn(shape) for name, shape in hf_shapes(architecture).items()}
    shards = shard(architecture, tensors, degrees)
    found: dict[str, Tensor] = {}
    for entry, by_rank in zip(entries(architecture, degrees), shards, strict=True):
        expected = megatron_shapes(architecture, degrees, entry.stage, entry.expert_rank or 0)[entry.name]
        assert all(tuple(part.shape) == expected for part in by_rank)
        if not entry.copy:
            whole = by_rank if entry.cut is not None else by_rank[:1]
            found |= {parts.name: parts.join() for parts in hf_parts(entry, whole, architecture)}
            for parts in hf_parts(entry, whole, architecture):
                assert parts.shape == hf_shapes(architecture)[parts.name]
                parts.join_into(out := torch.empty(parts.shape))
                assert torch.equal(out, found[parts.name])
    assert list(found) == list(tensors), "the order of hf_shapes is the order of the network"
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("name", CONFIGS)
def test_names_and_shapes_are_those_of_transformers(name: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIGS[name])
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {name: torch.empty(shape, device="meta") for name, shape in expected.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in stored(found, CONFIGS[name].model_type).items()}
    assert hf_shapes(read_architecture(CONFIGS[name])) == expected


def test_a_family_without_dense_layers_has_none_whatever_its_config_says() -> None:
    hf = type(CONFIGS["qwen3.5-moe"])(**CONFIGS["qwen3.5-moe"].to_dict() | {"mlp_only_layers": [0]})
    assert read_architecture(hf) == read_architecture(CONFIGS["qwen3.5-moe"])


def test_a_null_for_the_width_of_a_head_is_the_quotient_in_scaled_positions_too() -> None:
    left_out, given = (MixtralConfig(**MIXTURE, head_dim=dim, rope_parameters=YARN_ROPE) for dim in (None, 16))
    assert torch.equal(rotary_table(left_out, 64), rotary_table(given, 64))


def test_shapes_at_32b_scale_need_no_processes() -> None:
    hf = Qwen2Config(
        num_hidden_layers=64,
        hidden_size=5120,
        intermediate_size=27648,
        num_attention_heads=40,
        num_key_value_heads=8,
        vocab_size=152064,
        tie_word_embeddings=False,
    )
    architecture = read_architecture(hf)
    stages = [megatron_shapes(architecture, Degrees(8, 4), stage) for stage in range(4)]
    sizes = [sum(torch.Size(shape).numel() for shape in stage.values()) for stage in stages]
    whole = sum(torch.Size(shape).numel() for shape in hf_shapes(architecture).values())
    assert whole == 32_763_876_352
    assert sum(sizes) * 8 == pytest.approx(whole, rel=1e-3)
    assert stages[1]["decoder.layers.0.self_attention.linear_qkv.weight"] == ((40 + 16) * 128 // 8, 5120)


def test_sharded_folders_are_written_and_read_lazily(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = save_model("qwen3-untied", tmp_path / "original")
    architecture = read_architecture(AutoConfig.from_pretrained(original))
    tensors = AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32).state_dict()
    monkeypatch.setattr(export, "SHARD_BYTES", 100_000)
    stream = ((name, tensors[name]) for name in hf_shapes(architecture))
    export.save_hf(stream, AutoConfig.from_pretrained(original), architecture, torch.float32, tmp_path / "sharded")
    files = {file.name for file in (tmp_path / "sharded").iterdir()}
    index = json.loads((tmp_path / "sharded" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert files == {"config.json", "model.safetensors.index.json", *index["weight_map"].values()}
    reread = AutoModelForCausalLM.from_pretrained(tmp_path / "sharded", dtype=torch.float32).state_dict()
    assert all(torch.equal(reread[name], tensors[name]) for name in tensors)
    source = SafetensorsWeights(str(tmp_path / "sharded"), architecture)
    name = "model.layers.3.mlp.down_proj.weight"
    assert torch.equal(source.read(name, 1, 24, 48), tensors[name][:, 24:48])


def test_a_folder_that_cannot_be_written_is_told_and_nothing_stays(tmp_path: Path) -> None:
    from fastsvs.errors import UserError

    hf = CONFIGS["qwen2-tied"]
    architecture = read_architecture(hf)
    (tmp_path / "taken").write_text("a file")
    stream = ((name, torch.zeros(shape)) for name, shape in hf_shapes(architecture).items())
    with pytest.raises(UserError, match="cannot be written"):
        export.save_hf(stream, hf, architecture, torch.float32, tmp_path / "taken")
    assert [file.name for file in tmp_path.iterdir()] == ["taken"]
