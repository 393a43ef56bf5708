"""Refusals of models that would be computed wrongly, or not at all, by what their config.json says."""

from __future__ import annotations

from transformers import PretrainedConfig

from fastsvs.errors import UserError
from fastsvs.families import DeltaNet, Experts

STATIC_ROPE = ("default", "linear", "llama3", "yarn")
LINEAR, FULL = "linear_attention", "full_attention"
"""The kinds of a layer that config.json lists as layer_types."""


def reject_unsupported(hf: PretrainedConfig, experts: Experts | None, delta_net: DeltaNet | None) -> None:
    """Check a model of a known family. Raises UserError, with all faults of a kind, for one that cannot be built or
    asks for what is not supported."""
    _reject_impossible_shapes(hf)
    if experts:
        _reject_impossible_experts(hf, experts)
    if delta_net:
        _reject_impossible_delta_net(hf, delta_net)
    _reject_unsupported_features(hf, delta_net)


def head_dim_of(hf: PretrainedConfig) -> int:
    """Return the width of a head of attention."""
    dim: int | None = getattr(hf, "head_dim", None)
    return hf.hidden_size // hf.num_attention_heads if dim is None else dim


def rotary_dim_of(hf: PretrainedConfig) -> int:
    """Return the number of a head's dimensions that positions rotate, in a family that may rotate a part of them."""
    return int(head_dim_of(hf) * hf.rope_parameters.get("partial_rotary_factor", 1.0))


def dense_layers_of(hf: PretrainedConfig) -> tuple[bool, ...]:
    """Return, for each layer of a model with experts, whether it has a dense feed-forward instead; empty where none
    has. Every `decoder_sparse_step`th layer has experts, but not those of `mlp_only_layers`, which count from 0. A
    family whose config class knows neither has experts in all layers, whatever its config.json says."""
    if not hasattr(type(hf), "mlp_only_layers"):
        return ()
    dense, step = getattr(hf, "mlp_only_layers", None) or (), _sparse_step(hf)
    found = tuple(layer in dense or (layer + 1) % step > 0 for layer in range(hf.num_hidden_layers))
    return found if any(found) else ()


def file_of(hf: PretrainedConfig) -> str:
    """Return what messages call the file of the config."""
    return f"config.json of {hf.name_or_path or f'a {hf.model_type} model'}"


def _reject_impossible_shapes(hf: PretrainedConfig) -> None:
    sizes = {
        name: getattr(hf, name)
        for name in (
            *("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
            *("vocab_size", "max_position_embeddings"),
        )
        if name != "intermediate_size" or hasattr(hf, name)  # a family whose layers all have experts has none
    }
    faults = [f"{name}={size!r} (at least 1)" for name, size in sizes.items() if type(size) is not int or size < 1]
    if not faults:
        faults += _impossible_heads(hf)
    if not hf.rms_norm_eps > 0:
        faults.append(f"rms_norm_eps={hf.rms_norm_eps!r} (above 0)")
    theta = hf.rope_parameters.get("rope_theta", 1)
    if type(theta) not in (int, float) or not theta > 0:
        faults.append(f"rope_theta={theta!r} (a number above 0)")
    if faults:
        raise UserError(f"{file_of(hf)} describes no model that can be built: {'; '.join(faults)}")


def _impossible_heads(hf: PretrainedConfig) -> list[str]:
    heads, groups = hf.num_attention_heads, hf.num_key_value_heads
    faults = []
    if heads % groups:
        faults.append(f"num_key_value_heads={groups} (a divisor of num_attention_heads={heads})")
    if getattr(hf, "head_dim", None) is None and hf.hidden_size % heads:
        faults.append(f"num_attention_heads={heads} (a divisor of hidden_size={hf.hidden_size})")
    elif (dim := head_dim_of(hf)) < 2 or dim % 2:
        faults.append(f"head_dim={dim} (even and at least 2)")
    return faults


def _reject_unsupported_features(hf: PretrainedConfig, delta_net: DeltaNet | None) -> None:
    faults = []
    if getattr(hf, "quantization_config", None):
        faults.append("quantized weights (quantization_config; take the model that it was made from)")
    if hf.hidden_act != "silu":
        faults.append(f"hidden_act={hf.hidden_act!r} (only 'silu')")
    if getattr(hf, "attention_bias", False):
        faults.append("attention_bias=true (only Qwen2's bias on q, k and v)")
    if getattr(hf, "mlp_bias", False):
        faults.append("mlp_bias=true")
    if not getattr(hf, "qkv_bias", True):
        faults.append("qkv_bias=false (Qwen2's models with experts have it)")
    if _slides(hf):
        switch = "use_sliding_window to false" if hasattr(hf, "use_sliding_window") else "sliding_window to null"
        faults.append(f"sliding-window attention (set {switch})")
    if not delta_net and (part := hf.rope_parameters.get("partial_rotary_factor", 1.0)) != 1:
        faults.append(f"partial_rotary_factor={part!r} (only 1: positions rotate whole heads of this family)")
    if hf.rope_parameters["rope_type"] not in STATIC_ROPE:
        faults.append(f"rope_type={hf.rope_parameters['rope_type']!r} (only {', '.join(STATIC_ROPE)})")
    if faults:
        raise UserError(f"{file_of(hf)} asks for what the trainer does not support: {'; '.join(faults)}")


def _slides(hf: PretrainedConfig) -> bool:
    """Check whether a layer's attention sees a window of the last tokens alone: those that config.json lists so, or
    all of them in a family without such a list."""
    kinds = getattr(hf, "layer_types", None)
    return bool(getattr(hf, "sliding_window", None)) if kinds is None else "sliding_attention" in kinds


def _reject_impossible_experts(hf: PretrainedConfig, experts: Experts) -> None:
    faults = []
    if not all(type(size) is int and size >= 1 for size in (experts.count, experts.ffn)):
        faults.append(f"{experts.count!r} experts of width {experts.ffn!r} (at least 1)")
    elif type(experts.active) is not int or not 1 <= experts.active <= experts.count:
        faults.append(f"num_experts_per_tok={experts.active!r} (1 to the {experts.count} experts of a layer)")
    elif experts.active == 1 and experts.normalized:
        faults.append("num_experts_per_tok=1 with weights divided by their sum (its router has no gradient)")
    if type(width := getattr(hf, "shared_expert_intermediate_size", 1)) is not int or width < 1:
        faults.append(f"shared_expert_intermediate_size={width!r} (at least 1)")
    if type(step := _sparse_step(hf)) is not int or step < 1:
        faults.append(f"decoder_sparse_step={step!r} (at least 1)")
    elif len(dense_layers_of(hf)) == sum(dense_layers_of(hf)) > 0:
        faults.append("no layer with experts (mlp_only_layers, decoder_sparse_step)")
    if getattr(hf, "router_jitter_noise", 0.0):
        faults.append(f"router_jitter_noise={hf.router_jitter_noise} (only 0)")
    if faults:
        raise UserError(f"{file_of(hf)} describes experts that the trainer does not support: {'; '.join(faults)}")


def _reject_impossible_delta_net(hf: PretrainedConfig, delta_net: DeltaNet) -> None:
    sizes = {
        "linear_num_key_heads": delta_net.key_heads,
        "linear_num_value_heads": delta_net.value_heads,
        "linear_key_head_dim": delta_net.key_dim,
        "linear_value_head_dim": delta_net.value_dim,
        "linear_conv_kernel_dim": delta_net.kernel,
    }
    faults = [f"{name}={size!r} (at least 1)" for name, size in sizes.items() if type(size) is not int or size < 1]
    if not faults and delta_net.value_heads % delta_net.key_heads:
        faults.append(
            f"linear_num_key_heads={delta_net.key_heads} (a divisor of linear_num_value_heads={delta_net.value_heads})"
        )
    if len(hf.layer_types) != hf.num_hidden_layers:
        faults.append(f"layer_types of {len(hf.layer_types)} layers (num_hidden_layers={hf.num_hidden_layers})")
    others = sorted(set(hf.layer_types) - {LINEAR, FULL})
    if others:
        faults.append(f"layer_types with {', '.join(map(repr, others))} (only {LINEAR!r} and {FULL!r})")
    if (dim := rotary_dim_of(hf)) < 2 or dim % 2:
        faults.append(f"{dim} rotated dimensions of a head (partial_rotary_factor; even and at least 2)")
    if faults:
        raise UserError(f"{file_of(hf)} describes no model that can be built: {'; '.join(faults)}")


def _sparse_step(hf: PretrainedConfig) -> int:
    return getattr(hf, "decoder_sparse_step", 1)
