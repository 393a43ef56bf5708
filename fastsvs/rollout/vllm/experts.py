"""Experts that vLLM's servers say of each token: their shape, and what a server needs to say them.

vLLM 0.32 keeps them beside the blocks of its prefix cache, where the prompts of later requests find theirs, and has
this in its second model runner alone, which is written in Triton.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points

from transformers import PretrainedConfig

from fastsvs.architecture import read_architecture
from fastsvs.client import ExpertShape
from fastsvs.errors import UserError

REFUSED = "no-enable-prefix-caching"
"""vLLM's option without which it starts no server that says experts."""


def expert_shape(hf_config: PretrainedConfig) -> ExpertShape:
    """Return the shape of what servers say of the experts of this model's tokens."""
    architecture = read_architecture(hf_config)
    assert architecture.experts is not None
    experts = architecture.experts
    return ExpertShape(architecture.layers, experts.active, experts.count, architecture.expert_layers)


def check_options(options: Mapping[str, object]) -> None:
    """Raise UserError for vLLM options under which servers say no experts."""
    if options.get(REFUSED):
        raise UserError(
            f"rollout.server.arguments: policy.router_replay=rollout needs vLLM's prefix cache, beside which it keeps "
            f"the experts of tokens: leave {REFUSED} out, or set policy.router_replay=none"
        )


def check_cpu() -> None:
    """Raise UserError where servers run on the CPU of this machine, and Triton does not."""
    if "cpu" not in entry_points(group="triton.backends").names:
        raise UserError(
            "policy.router_replay=rollout: vLLM 0.32 says the experts of tokens only where Triton runs, and here is no "
            "GPU, nor a Triton for CPUs: set rollout.engine=local, or policy.router_replay=none"
        )
