"""Checks of a model against the layout that it is to be split into."""

from __future__ import annotations

from fastsvs.architecture import Architecture
from fastsvs.config import PolicyConfig
from fastsvs.errors import UserError


def check_layout(architecture: Architecture, config: PolicyConfig, world_size: int | None = None) -> None:
    """Raise UserError with every reason why the model cannot be split as `config` says, or else for a world of
    processes over which the parts cannot be spread (None: one of any size)."""
    tensor, pipeline = config.tensor_parallel, config.pipeline_parallel
    cuts = [("tensor_parallel", tensor, what, number) for what, number in architecture.tensor_sizes.items()]
    cuts.append(("pipeline_parallel", pipeline, "layers", architecture.layers))
    if architecture.experts:
        cuts.append(("expert_parallel", config.expert_parallel, "experts", architecture.experts.count))
    faults = [
        f"policy.{key}={parts} does not divide the model's {what} ({number}); "
        f"possible: {', '.join(map(str, _divisors(number)))}"
        for key, parts, what, number in cuts
        if number % parts
    ]
    faults += _mixture_faults(config) if architecture.experts else _dense_faults(config)
    if faults:
        raise UserError("\n".join(faults))
    _check_recomputation(config, architecture.layers // pipeline)
    if world_size is not None:
        _check_world_size(config, world_size)


def _mixture_faults(config: PolicyConfig) -> list[str]:
    faults = []
    if config.tensor_parallel > 1 and not config.sequence_parallel:
        faults.append(
            "policy.sequence_parallel=false: with experts, tensor-parallel ranks share out the tokens; set it to true, "
            "or policy.tensor_parallel to 1"
        )
    if config.backend == "te":
        faults.append("policy.backend=te: experts are computed by policy.backend=local alone")
    return faults


def _dense_faults(config: PolicyConfig) -> list[str]:
    neutral = {"expert_parallel": 1, "aux_loss_coefficient": 0.0, "router_replay": "none"}
    return [
        f"policy.{key}={getattr(config, key)}: the model has no experts, leave the key out"
        for key, value in neutral.items()
        if getattr(config, key) != value
    ]


def _check_world_size(config: PolicyConfig, world_size: int) -> None:
    for key in ("tensor_parallel", "expert_parallel"):
        degree, pipeline = getattr(config, key), config.pipeline_parallel
        if world_size % (degree * pipeline):
            raise UserError(
                f"policy.{key}={degree} x policy.pipeline_parallel={pipeline} needs a multiple of "
                f"{degree * pipeline} processes, there are {world_size}: start with torchrun --nproc-per-node"
            )


def _check_recomputation(config: PolicyConfig, layers: int) -> None:
    asked = config.recompute_layers
    if config.recompute_method == "block" and asked > layers:
        raise UserError(
            f"policy.recompute_layers={asked} is more than the {layers} layers of a pipeline stage: with "
            "policy.recompute_method=block it says how many of them are computed again"
        )
    if config.recompute_method == "uniform" and layers % asked:
        raise UserError(
            f"policy.recompute_layers={asked} does not divide the {layers} layers of a pipeline stage; "
            f"possible: {', '.join(map(str, _divisors(layers)))}, or policy.recompute_method=block"
        )


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
