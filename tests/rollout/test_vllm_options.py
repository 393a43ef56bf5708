"""Modes of vLLM that keys of `rollout` turn on, and what they do not go with."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoConfig, Qwen2Config, Qwen2MoeConfig
from whole_runs import ROOT

from fastsvs.architecture import read_architecture
from fastsvs.config import RolloutConfig, TrainJob, load
from fastsvs.errors import UserError
from fastsvs.layout_checks import check_server
from fastsvs.rollout import EnginePlan
from fastsvs.rollout.vllm.drafts import Drafts, counts
from fastsvs.rollout.vllm.options import INVARIANT_ATTENTION, check_modes, mode_options, mode_variables
from fastsvs.training.engine_modes import check_draft

MODEL = AutoConfig.from_pretrained(ROOT / "models" / "tiny")


def servers(**keys: Any) -> RolloutConfig:
    return RolloutConfig(**{"engine": "vllm"} | keys)


def check(rollout: RolloutConfig, *, here: bool, model: Any = MODEL, dtype: torch.dtype = torch.bfloat16) -> None:
    check_modes(EnginePlan(model, [3], dtype, rollout, {}, here))


def test_batch_invariance_is_a_variable_of_the_servers() -> None:
    assert mode_variables(servers(deterministic=True)) == {"VLLM_BATCH_INVARIANT": "1"}
    assert mode_variables(servers()) == {}


def test_batch_invariance_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        check(servers(deterministic=True), here=False)
        check(servers(), here=True)
        if there:
            check(servers(deterministic=True), here=True)
    with pytest.raises(UserError, match="needs GPUs"):
        check(servers(deterministic=True), here=True)


def test_the_attention_backends_are_those_that_vllm_calls_batch_invariant() -> None:
    pytest.importorskip("vllm")
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    for name in INVARIANT_ATTENTION:
        try:
            backend = AttentionBackendEnum[name].get_class()
        except ImportError:  # its kernels are not in the build for CPUs
            continue
        assert backend.supports_batch_invariance()
    assert not AttentionBackendEnum["CPU_ATTN"].get_class().supports_batch_invariance()


@pytest.mark.parametrize("name", [*INVARIANT_ATTENTION, "flash_attn"])
def test_a_batch_invariant_backend_may_be_named(name: str) -> None:
    check(servers(deterministic=True, server={"arguments": {"attention-backend": name}}), here=False)


def test_ngrams_are_an_option_of_the_servers() -> None:
    asked = servers(speculative={"method": "ngram", "tokens": 5, "lookup_min": 1})
    check(asked, here=False)
    options = mode_options(asked)
    assert options["disable-log-stats"] is False
    assert json.loads(str(options["speculative-config"])) == {
        "method": "ngram",
        "num_speculative_tokens": 5,
        "prompt_lookup_min": 1,
        "prompt_lookup_max": 4,
    }
    assert mode_options(servers()) == {}


def test_a_draft_loads_weights_where_the_model_is_sent_its_own() -> None:
    asked = servers(speculative={"method": "draft", "draft": str(ROOT / "models" / "tiny")})
    check(asked, here=False)
    told = json.loads(str(mode_options(asked)["speculative-config"]))
    assert told["draft_load_config"] == {"load_format": "auto"}
    assert told["method"] == "draft_model"


def test_options_of_the_servers_override_what_modes_turn_on() -> None:
    arguments = {"disable-log-stats": True}
    rollout = servers(speculative={"method": "ngram"}, server={"arguments": arguments})
    assert (mode_options(rollout) | rollout.server.arguments)["disable-log-stats"] is True


EXTERNAL = {"placement": "external", "server": {"urls": ["http://127.0.0.1:1"]}}
TWICE = {"server": {"arguments": {"speculative-config": "{}"}}}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({**EXTERNAL, "speculative": {"method": "ngram"}}, "give them vLLM's --speculative-config there"),
        ({**TWICE, "speculative": {"method": "ngram"}}, "leave one of them out"),
        (TWICE, "say it with rollout.speculative"),
        ({"deterministic": True, "speculative": {"method": "ngram"}}, "set rollout.deterministic=false or"),
    ],
    ids=["external", "twice", "by hand", "deterministic"],
)
def test_what_does_not_go_with_speculation_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check(servers(**keys), here=False)


def test_a_draft_has_the_models_vocabulary() -> None:
    draft = servers(speculative={"method": "draft", "draft": str(ROOT / "models" / "tiny")})
    with pytest.raises(UserError, match="576 token ids, and the model has 99"):
        check(draft, here=False, model=Qwen2Config(vocab_size=99))


def test_speculation_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = servers(speculative={"method": "ngram"})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=r"needs GPUs: vLLM 0\.32 on a CPU loses the temperatures"):
        check(asked, here=True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    check(asked, here=True)


@pytest.mark.vllm
def test_vllm_still_loses_temperatures_on_a_cpu() -> None:
    """The fault of vLLM for which CPUs are refused. When it is mended this fails: see `check_speculative`."""
    pytest.importorskip("vllm")
    from vllm.platforms import current_platform
    from vllm.utils.cpu_triton_utils import _expand_kernel_impl

    current_platform.import_kernels()
    expanded = torch.full((3,), -1.0)
    _expand_kernel_impl(expanded, torch.tensor([0.8, 0.5]), torch.tensor([2, 3]), 0, 1)
    assert expanded.tolist() == [-1.0] * 3


def test_a_draft_keeps_its_weights_between_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = ["rollout.engine=vllm", f"rollout.speculative={{method: draft, draft: {ROOT}/models/tiny}}"]
    colocated, dedicated = (
        load(TrainJob, ROOT / "configs" / "tiny_svs.yaml", [*changes, f"rollout.placement={placement}"])
        for placement in ("colocated", "dedicated")
    )
    check_draft(colocated)
    monkeypatch.setattr("fastsvs.distributed.device", lambda: torch.device("cuda"))
    check_draft(dedicated)
    with pytest.raises(UserError, match="drop their weights while it trains"):
        check_draft(colocated)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "draft"}, "go together"),
        ({"method": "ngram", "draft": "models/tiny"}, "go together"),
        ({"method": "ngram", "lookup_min": 5}, "must not exceed lookup_max"),
        ({"method": "ngram", "tokens": 0}, "greater than or equal to 1"),
    ],
)
def test_keys_of_speculation_go_together(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        servers(speculative=keys)


def test_drafts_are_counted_over_engines_and_starts() -> None:
    statistics = (
        b"# HELP vllm:spec_decode_num_draft_tokens_total Number of draft tokens.\n"
        b'vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 12.0\n'
        b'vllm:spec_decode_num_draft_tokens_total{engine="1",model_name="m"} 1e1\n'
        b'vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 7.0\n'
        b'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="0"} 5.0\n'
    )
    assert counts(statistics) == {"draft": 22.0, "accepted": 7.0}
    assert counts(b"") == {"draft": 0.0, "accepted": 0.0}
    drafts = Drafts()
    for start, found in ((1, counts(statistics)), (1, {"draft": 30.0, "accepted": 9.0}), (2, counts(statistics))):
        drafts._add(("server-0", start), found)
    assert (drafts.drafted, drafts.accepted) == (52.0, 16.0)


FP8 = {"quantization": "fp8"}


def test_servers_round_the_weights_that_they_receive() -> None:
    check(servers(**FP8), here=False)
    assert mode_options(servers(**FP8)) == {"quantization": "fp8_per_channel"}


@pytest.mark.parametrize(
    ("keys", "dtype", "message"),
    [
        ({**FP8, **EXTERNAL}, torch.bfloat16, "give them vLLM's --quantization fp8_per_channel there"),
        ({**FP8, "server": {"arguments": {"quantization": "fp8"}}}, torch.bfloat16, "leave one of them out"),
        (FP8, torch.float32, "rounds a model of 16 bits: set policy.dtype=bf16"),
    ],
    ids=["external", "twice", "fp32"],
)
def test_what_cannot_be_rounded_is_refused(keys: dict[str, Any], dtype: torch.dtype, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check(servers(**keys), here=False, dtype=dtype)


def test_rounding_needs_a_gpu_that_multiplies_in_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for capability in ((8, 9), (9, 0), (10, 3)):
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda found=capability: found)
        check(servers(**FP8), here=True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (8, 0))
    check(servers(**FP8), here=False)
    with pytest.raises(UserError, match=r"compute capability 8\.9 or more\), and these have 8\.0"):
        check(servers(**FP8), here=True)


def test_vllm_knows_this_rounding() -> None:
    pytest.importorskip("vllm")
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

    assert mode_options(servers(**FP8))["quantization"] in QUANTIZATION_METHODS


@pytest.mark.parametrize(
    ("parts", "whole_experts", "message"),
    [
        (2, False, None),
        (4, False, "feed-forward width of an expert .6.; possible: 1, 2$"),
        (4, True, None),  # of two key/value heads each has two copies
        (6, False, "vocabulary, padded to a multiple of 64 .320.; possible: 1, 2$"),
        (16, True, "width of the shared expert .40.; possible: 1, 2, 4, 8$"),
    ],
)
def test_workers_that_vllm_cannot_cut_the_model_over_are_refused(
    parts: int, whole_experts: bool, message: str | None
) -> None:
    sizes = {"num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 300, "hidden_size": 64}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 6}
    model = read_architecture(Qwen2MoeConfig(**sizes, **experts, shared_expert_intermediate_size=40))
    with pytest.raises(UserError, match=message) if message else nullcontext():
        arguments = {"enable-expert-parallel": whole_experts}
        check_server(model, servers(server={"tensor_parallel": parts, "arguments": arguments}))
