"""Modes of vLLM that keys of `rollout` turn on: what they become for a server, and what they do not go with.

Read from vLLM 0.32: `model_executor/determinism/batch_invariant.py` and `supports_batch_invariance` of its attention
backends; `config/speculative.py` and its rejection samplers, which give the log-probs of the model at the temperature
for accepted and for other tokens alike; `layers/quantization/online` and `model_loader/reload`, by which a worker
rounds weights anew whenever `fastsvs.sync.receiver` loads them.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import PretrainedConfig

from fastsvs.architecture import load_hf_config
from fastsvs.config import RolloutConfig, SpeculativeConfig
from fastsvs.errors import UserError
from fastsvs.rollout.registry import EnginePlan

INVARIANT_ATTENTION = ("FLASH_ATTN", "FLEX_ATTENTION", "TRITON_ATTN")
"""Attention backends of vLLM that its batch-invariant mode allows; it chooses among them itself."""

SPECULATIVE = "speculative-config"
"""Option of vLLM for speculative decoding."""
QUANTIZATION, ROUNDING = "quantization", "fp8_per_channel"
"""Option of vLLM for rounded weights, and its value for weights that come in 16 bits: a scale for each output channel,
which no cut of tensor parallelism changes."""
FP8_CAPABILITY = (8, 9)


def mode_variables(rollout: RolloutConfig) -> dict[str, str]:
    """Return the environment variables that a server of ours needs for these modes."""
    return {"VLLM_BATCH_INVARIANT": "1"} if rollout.deterministic else {}


def mode_options(rollout: RolloutConfig) -> dict[str, str | int | float | bool]:
    """Return the vLLM options that a server of ours needs for these modes."""
    rounding = {QUANTIZATION: ROUNDING} if rollout.quantization == "fp8" else {}
    return rounding | speculative_options(rollout.speculative)


def speculative_options(speculative: SpeculativeConfig) -> dict[str, str | int | float | bool]:
    """Return the vLLM options of speculative decoding."""
    if speculative.method == "none":
        return {}
    asked: dict[str, object] = {"num_speculative_tokens": speculative.tokens}
    if speculative.method == "ngram":
        lookup = {"prompt_lookup_min": speculative.lookup_min, "prompt_lookup_max": speculative.lookup_max}
        asked |= {"method": "ngram", **lookup}
    else:  # without its own way of loading, the draft would begin with random weights as the model does
        asked |= {
            "method": "draft_model",
            "model": place_of(speculative.draft),
            "draft_load_config": {"load_format": "auto"},
        }
    return {SPECULATIVE: json.dumps(asked), "disable-log-stats": False}


def place_of(model: str | None) -> str | None:
    """Return where servers, which have working folders of their own, find a model: a folder's whole path, or a hub
    id."""
    return str(Path(model).absolute()) if model is not None and Path(model).is_dir() else model


def check_modes(plan: EnginePlan) -> None:
    """Raise UserError for modes that servers of this model cannot have, or not together. Some depend on the machine,
    which is looked at only if this process runs on one of the job's."""
    rollout = plan.rollout
    if rollout.deterministic:
        check_deterministic(rollout, plan.here)
    if rollout.quantization != "none":
        check_quantization(plan)
    if rollout.speculative.method != "none":
        check_speculative(rollout, plan.hf_config, plan.here)
    elif SPECULATIVE in rollout.server.arguments:
        raise UserError(
            f"rollout.server.arguments: {SPECULATIVE} would not be checked against what weights and log-probs need: "
            "say it with rollout.speculative"
        )


def check_quantization(plan: EnginePlan) -> None:
    """Raise UserError where servers cannot round the weights that they receive."""
    asks = f"rollout.quantization={plan.rollout.quantization}"
    if plan.rollout.placement == "external":
        raise UserError(
            f"{asks} is an option of servers that this job starts, and those of rollout.placement=external are started "
            f"elsewhere: give them vLLM's --{QUANTIZATION} {ROUNDING} there, and leave the key out"
        )
    if QUANTIZATION in plan.rollout.server.arguments:
        raise UserError(f"{asks}: rollout.server.arguments says {QUANTIZATION} too: leave one of them out")
    if plan.dtype != torch.bfloat16:
        raise UserError(f"{asks} rounds a model of 16 bits: set policy.dtype=bf16 (`fastsvs eval`: dtype=bf16)")
    if plan.here and torch.cuda.is_available() and torch.cuda.get_device_capability() < FP8_CAPABILITY:
        found = ".".join(map(str, torch.cuda.get_device_capability()))
        raise UserError(
            f"{asks} needs GPUs that multiply in 8 bits (compute capability 8.9 or more), and these have {found}: set "
            "rollout.quantization=none"
        )


def check_speculative(rollout: RolloutConfig, hf_config: PretrainedConfig, here: bool) -> None:
    """Raise UserError where servers cannot guess tokens so that samples stay the model's."""
    speculative = rollout.speculative
    asks = f"rollout.speculative.method={speculative.method}"
    if rollout.placement == "external":
        raise UserError(
            f"{asks} is an option of servers that this job starts, and those of rollout.placement=external are started "
            "elsewhere: give them vLLM's --speculative-config there, and leave the key out"
        )
    if SPECULATIVE in rollout.server.arguments:
        raise UserError(f"{asks}: rollout.server.arguments says {SPECULATIVE} too: leave one of them out")
    if rollout.deterministic:
        raise UserError(
            f"{asks} checks as many tokens at once as were guessed right before, and vLLM does not promise that a "
            "token's bits are then the same: set rollout.deterministic=false or rollout.speculative.method=none"
        )
    if here and not torch.cuda.is_available():
        raise UserError(
            f"{asks} needs GPUs: vLLM 0.32 on a CPU loses the temperatures of guessed tokens (its `expand` kernel "
            "writes into a copy), so that samples would not be the model's: set rollout.speculative.method=none"
        )
    if speculative.draft is None:
        return
    found = load_hf_config(speculative.draft).vocab_size
    if found != hf_config.vocab_size:
        raise UserError(
            f"rollout.speculative.draft: {speculative.draft} has {found} token ids, and the model has "
            f"{hf_config.vocab_size}: a draft must have the model's vocabulary"
        )


def check_deterministic(rollout: RolloutConfig, here: bool) -> None:
    """Raise UserError where servers cannot be batch-invariant."""
    asks = "rollout.deterministic=true with rollout.engine=vllm"
    if rollout.placement == "external":
        raise UserError(
            f"{asks} sets VLLM_BATCH_INVARIANT=1 for servers that this job starts, and those of "
            "rollout.placement=external are started elsewhere: set the variable there, and leave the key out"
        )
    backend = rollout.server.arguments.get("attention-backend")
    if backend is not None and str(backend).upper() not in INVARIANT_ATTENTION:
        raise UserError(
            f"{asks}: rollout.server.arguments has attention-backend={backend}, which is not batch-invariant in vLLM: "
            f"name {', '.join(INVARIANT_ATTENTION[:-1])} or {INVARIANT_ATTENTION[-1]}, or leave the choice to vLLM"
        )
    if here and not torch.cuda.is_available():
        raise UserError(
            f"{asks} needs GPUs, as vLLM's batch-invariant mode has kernels for them alone: on a CPU set "
            "rollout.engine=local"
        )
