"""Modes of vLLM that keys of `rollout` turn on, and what they do not go with."""

from __future__ import annotations

from typing import Any

import pytest

from fastsvs.config import RolloutConfig
from fastsvs.errors import UserError
from fastsvs.rollout.vllm.options import INVARIANT_ATTENTION, check_modes, mode_variables


def servers(**keys: Any) -> RolloutConfig:
    return RolloutConfig(**{"engine": "vllm"} | keys)


def test_batch_invariance_is_a_variable_of_the_servers() -> None:
    assert mode_variables(servers(deterministic=True)) == {"VLLM_BATCH_INVARIANT": "1"}
    assert mode_variables(servers()) == {}


def test_batch_invariance_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        check_modes(servers(deterministic=True), here=False)
        check_modes(servers(), here=True)
        if there:
            check_modes(servers(deterministic=True), here=True)
    with pytest.raises(UserError, match="needs GPUs"):
        check_modes(servers(deterministic=True), here=True)


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
    check_modes(servers(deterministic=True, server={"arguments": {"attention-backend": name}}), here=False)
