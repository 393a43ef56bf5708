"""Checks of a model against the layout that it is to be split into."""

from __future__ import annotations

from math import prod

from fastsvs.architecture import KEY_VALUE_HEADS, Architecture
from fastsvs.config import PolicyConfig, RolloutConfig
from fastsvs.errors import UserError

FP8_MULTIPLE = 16
"""Number that the dimensions of a product in FP8 are multiples of: features, and the tokens of a tensor-parallel
rank."""
SERVER_VOCABULARY_MULTIPLE = 64
"""Number of rows to a multiple of which vLLM pads the embedding and the head (its DEFAULT_VOCAB_PADDING_SIZE)."""
RARE = ("context_parallel", "expert_tensor_parallel")
"""Keys of degrees that a message names only where they are more than 1."""
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


def check_layout(architecture: Architecture, config: PolicyConfig, world_size: int | None = None) -> None:
    """Raise UserError with every reason why the model cannot be split as `config` says, or else for a world of
    processes over which the parts cannot be spread (None: one of any size)."""
    tensor, pipeline = config.tensor_parallel, config.pipeline_parallel
    cuts = [("tensor_parallel", tensor, what, number) for what, number in architecture.tensor_sizes.items()]
    cuts.append(("pipeline_parallel", pipeline, "layers", architecture.layers))
    if architecture.experts:
        cuts.append(("expert_parallel", config.expert_parallel, "experts", architecture.experts.count))
        width = architecture.experts.ffn
        cuts.append(("expert_tensor_parallel", config.expert_tensor_parallel, "feed-forward width of an expert", width))
    faults = [
        f"policy.{key}={parts} does not divide the model's {what} ({number}); "
        f"possible: {', '.join(map(str, _divisors(number)))}"
        for key, parts, what, number in cuts
        if number % parts
    ]
    if not faults:
        faults += _context_faults(architecture, config)
    faults += _mixture_faults(config) if architecture.experts else _dense_faults(config)
    faults += _adapter_faults(architecture, config) if config.lora.rank else []
    faults += _linear_faults(config) if architecture.delta_net else []
    faults += _fp8_faults(architecture, config) if config.fp8 and not faults else []
    if faults:
        raise UserError("\n".join(faults))
    _check_recomputation(config, architecture.layers // pipeline)
    if world_size is not None:
        _check_world_size(config, world_size)


def check_server(architecture: Architecture, rollout: RolloutConfig) -> None:
    """Raise UserError with every reason why vLLM 0.32 cannot cut the model over the workers of a server that the job
    starts, if it starts one. Key/value heads may be fewer than workers, which then have copies."""
    if rollout.engine != "vllm" or rollout.placement == "external":
        return
    parts, whole_experts = rollout.server.tensor_parallel, rollout.server.arguments.get("enable-expert-parallel")
    sizes = dict(architecture.tensor_sizes)
    groups = sizes.pop(KEY_VALUE_HEADS)
    sizes[f"vocabulary, padded to a multiple of {SERVER_VOCABULARY_MULTIPLE}"] = padded_by_servers(architecture)
    if architecture.experts and not whole_experts:
        sizes["feed-forward width of an expert"] = architecture.experts.ffn

    def unsuited(number: int) -> list[str]:
        found = [f"{what} ({size})" for what, size in sizes.items() if size % number]
        return found + ([f"{KEY_VALUE_HEADS} ({groups})"] if groups % number and number % groups else [])

    if faults := unsuited(parts):
        suited = [number for number in _divisors(architecture.heads) if not unsuited(number)]
        raise UserError(
            f"rollout.server.tensor_parallel={parts} does not suit the model's {', '.join(faults)}; possible: "
            f"{', '.join(map(str, suited))}"
        )


def padded_by_servers(architecture: Architecture) -> int:
    """Return the number of rows of the embedding in vLLM, padded."""
    return -(-architecture.vocabulary // SERVER_VOCABULARY_MULTIPLE) * SERVER_VOCABULARY_MULTIPLE


def _context_faults(architecture: Architecture, config: PolicyConfig) -> list[str]:
    """Return why the heads of a tensor-parallel rank cannot be dealt to its context-parallel ranks."""
    ranks, tensor = config.context_parallel, config.tensor_parallel
    heads, groups = architecture.heads // tensor, architecture.groups // tensor
    suitable = [number for number in _divisors(heads) if number % groups == 0 or groups % number == 0]
    if ranks in suitable:
        return []
    return [
        f"policy.context_parallel={ranks} does not suit the {heads} attention heads and {groups} key/value heads of a "
        f"tensor-parallel rank; possible: {', '.join(map(str, suitable))}"
    ]


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
    neutral = {
        "expert_parallel": 1,
        "expert_tensor_parallel": 1,
        "aux_loss_coefficient": 0.0,
        "router_replay": "none",
    }
    return [
        f"policy.{key}={getattr(config, key)}: the model has no experts, leave the key out"
        for key, value in neutral.items()
        if getattr(config, key) != value
    ]


def _adapter_faults(architecture: Architecture, config: PolicyConfig) -> list[str]:
    faults = []
    experts = [target for target in config.lora.targets if target in FEED_FORWARD]
    if architecture.experts and experts:
        faults.append(
            f"policy.lora.targets={','.join(config.lora.targets)}: experts have no adapters, leave out "
            f"{', '.join(experts)}"
        )
    if config.backend == "te":
        faults.append("policy.backend=te: adapters are computed by policy.backend=local alone")
    return faults


def _fp8_faults(architecture: Architecture, config: PolicyConfig) -> list[str]:
    """Return which sizes of a tensor-parallel rank's products cannot be computed in FP8."""
    tensor, queries = config.tensor_parallel, architecture.heads * architecture.head_dim
    sizes = {
        "hidden size": architecture.hidden,
        "queries": queries // tensor,
        "queries, keys and values": (queries + 2 * architecture.groups * architecture.head_dim) // tensor,
        "feed-forward width": architecture.ffn // tensor,
    }
    odd = [f"{what} {size}" for what, size in sizes.items() if size % FP8_MULTIPLE]
    if not odd:
        return []
    return [
        f"policy.fp8={config.fp8} takes multiples of {FP8_MULTIPLE}, and a tensor-parallel rank has "
        f"{', '.join(odd)}: set it to null, or policy.tensor_parallel lower"
    ]


def _linear_faults(config: PolicyConfig) -> list[str]:
    """Return what a model with linear attention cannot have."""
    faults = []
    if config.context_parallel > 1:
        faults.append(
            f"policy.context_parallel={config.context_parallel}: linear attention needs whole sequences on a rank, "
            "leave the key out"
        )
    if config.backend == "te":
        faults.append("policy.backend=te: linear attention is computed by policy.backend=local alone")
    if config.lora.rank:
        faults.append(
            f"policy.lora.rank={config.lora.rank}: layers with linear attention have no adapters, leave it out"
        )
    return faults


def _check_world_size(config: PolicyConfig, world_size: int) -> None:
    for keys in (("tensor_parallel", "context_parallel"), ("expert_parallel", "expert_tensor_parallel")):
        degrees = {key: getattr(config, key) for key in (*keys, "pipeline_parallel")}
        if world_size % prod(degrees.values()):
            product = " x ".join(
                f"policy.{key}={degree}" for key, degree in degrees.items() if key not in RARE or degree > 1
            )
            raise UserError(
                f"{product} needs a multiple of {prod(degrees.values())} processes, there are {world_size}: start with "
                "torchrun --nproc-per-node"
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
