"""Linear attention in the policy: rows of several sequences, shared prompts, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from policy_cases import HYBRIDS, make_batch, save_model
from shared_cases import RECOMPUTE, assert_same, build, make_groups, results_of

from fastsvs.architecture import read_architecture
from fastsvs.config import LoraConfig, PolicyConfig
from fastsvs.errors import UserError
from fastsvs.layout_checks import check_layout
from fastsvs.policy import linear_attention
from fastsvs.policy.linear_attention import LinearSequences


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model("qwen3.5", tmp_path_factory.mktemp("model")))


PACKED = LinearSequences.of


def one_sequence(lengths: list[int], responses: list[int], device: torch.device) -> LinearSequences:
    """The row as if it were one sequence."""
    return PACKED([sum(lengths)], [], device)


def difference_of_the_second(model: str) -> float:
    """The log-probs of a sequence after another in a row, against its own in a row of one."""
    policy = build(model, shared_prefix=False)
    batch = make_batch(samples=2)
    alone = replace(
        make_batch(samples=1),
        prompt_ids=batch.prompt_ids[1:],
        response_ids=batch.response_ids[1:],
        kinds=batch.kinds[1:],
        **dict.fromkeys(("advantages", "rollout_logprobs", "old_logprobs", "reference_logprobs"), torch.zeros(0)),
    )
    together = policy.log_probs(batch, 0.7)[len(batch.response_ids[0]) :]
    return float((together - policy.log_probs(alone, 0.7)).abs().max())


def test_no_state_goes_from_one_sequence_to_the_next(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert difference_of_the_second(model) < 1e-5
    monkeypatch.setattr(linear_attention.LinearSequences, "of", one_sequence)
    assert difference_of_the_second(model) > 1e-2, "the test would not see a leak"


@pytest.mark.parametrize("recompute", ["none", "all but attention"])
def test_a_shared_prompt_is_that_of_each_response(recompute: str, model: str) -> None:
    batch = make_groups()
    expected = results_of(build(model, shared_prefix=False), batch)
    assert_same(results_of(build(model, **RECOMPUTE[recompute]), batch), expected, 1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"context_parallel": 2}, "policy.context_parallel=2: linear attention needs whole sequences"),
        ({"backend": "te", "dtype": "bf16"}, "policy.backend=te: linear attention is computed by"),
        ({"lora": LoraConfig(rank=4)}, "policy.lora.rank=4: layers with linear attention have no adapters"),
        ({"tensor_parallel": 4}, "does not divide the model's key heads of linear attention .2.; possible: 1, 2"),
    ],
)
def test_what_it_cannot_have_is_refused(config: dict[str, object], message: str) -> None:
    architecture = read_architecture(HYBRIDS["qwen3.5"])
    with pytest.raises(UserError, match=message):
        check_layout(architecture, PolicyConfig(**config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"linear_num_key_heads": 3}, "linear_num_key_heads=3 .a divisor of linear_num_value_heads=4"),
        ({"linear_conv_kernel_dim": 0}, "linear_conv_kernel_dim=0 .at least 1"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
    ],
)
def test_models_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    hf = type(HYBRIDS["qwen3.5"])(**HYBRIDS["qwen3.5"].to_dict() | change)
    with pytest.raises(UserError, match=message):
        read_architecture(hf)


def test_layers_that_predict_more_tokens_are_left_out(model: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(Path(model) / "model.safetensors")
    save_file(tensors | {"mtp.fc.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((Path(model) / "config.json").read_text())
    weights = dict(build(str(tmp_path)).hf_weights())
    assert weights.keys() == dict(build(model).hf_weights()).keys()
