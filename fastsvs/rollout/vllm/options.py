"""Modes of vLLM that keys of `rollout` turn on: what they become for a server, and what they do not go with.

Read from vLLM 0.32: `model_executor/determinism/batch_invariant.py` and `supports_batch_invariance` of its attention
backends.
"""

from __future__ import annotations

import torch

from fastsvs.config import RolloutConfig
from fastsvs.errors import UserError

INVARIANT_ATTENTION = ("FLASH_ATTN", "FLEX_ATTENTION", "TRITON_ATTN")
"""Attention backends of vLLM that its batch-invariant mode allows; it chooses among them itself."""


def mode_variables(rollout: RolloutConfig) -> dict[str, str]:
    """Return the environment variables that a server of ours needs for these modes."""
    return {"VLLM_BATCH_INVARIANT": "1"} if rollout.deterministic else {}


def check_modes(rollout: RolloutConfig, here: bool) -> None:
    """Raise UserError for modes that servers cannot have, or not together; some depend on the machine, which is looked
    at only if `here`."""
    if rollout.deterministic:
        check_deterministic(rollout, here)


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
