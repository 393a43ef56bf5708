"""Megatron's GPTModel for a Hugging Face architecture: it gives hidden states, never logits."""

from __future__ import annotations

import torch
from megatron.core import parallel_state as mpu
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region, gather_from_sequence_parallel_region
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn import functional as F

from fastsvs import distributed
from fastsvs.architecture import Architecture
from fastsvs.config import PolicyConfig
from fastsvs.policy.degrees import stage_layers
from fastsvs.policy.experts import obstacle
from fastsvs.policy.mixture import mixture_settings, settle_experts
from fastsvs.policy.modules import LayerParts, PackedSequences, block_spec

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def transformer_config(architecture: Architecture, config: PolicyConfig) -> TransformerConfig:
    """Return Megatron's configuration for this architecture and layout."""
    dtype, experts = DTYPES[config.dtype], architecture.experts
    recompute = {
        "recompute_granularity": "full",
        "recompute_method": config.recompute_method,
        "recompute_num_layers": config.recompute_layers,
    }
    # Scales that come from the tensors alone: what is computed twice is the same, and a checkpoint has nothing to keep.
    # Weights that were rounded for an earlier micro-batch might be those of an earlier update.
    fp8 = {"fp8": config.fp8, "fp8_recipe": "tensorwise", "disable_parameter_transpose_cache": True}
    return TransformerConfig(
        num_layers=architecture.layers,
        hidden_size=architecture.hidden,
        ffn_hidden_size=architecture.ffn or (experts.ffn if experts else 0),
        num_attention_heads=architecture.heads,
        num_query_groups=architecture.groups,
        kv_channels=architecture.head_dim,
        add_bias_linear=False,
        add_qkv_bias=architecture.qkv_bias,
        qk_layernorm=architecture.qk_norm,
        attention_output_gate=architecture.gated_attention,
        normalization="RMSNorm",
        layernorm_epsilon=architecture.norm_epsilon,
        layernorm_zero_centered_gamma=architecture.centred_norm,
        gated_linear_unit=True,
        activation_func=F.silu,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        tensor_model_parallel_size=config.tensor_parallel,
        pipeline_model_parallel_size=config.pipeline_parallel,
        sequence_parallel=config.sequence_parallel and config.tensor_parallel > 1,
        context_parallel_size=config.context_parallel,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=config.dtype == "bf16",
        variable_seq_lengths=True,
        # Frees what was sent on; the backward pass then starts below torch's function modes, so they hold in it.
        deallocate_pipeline_outputs=True,
        moe_token_dispatcher_type="alltoall",  # Megatron asks for it with variable_seq_lengths, also without experts
        # The objective is weighted over the whole batch already: nothing may divide it by counts of its own.
        calculate_per_token_loss=True,
        use_cpu_initialization=not torch.cuda.is_available(),
        perform_initialization=False,
        # These fusions need Transformer Engine, Apex or a CUDA compiler.
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
        **(recompute if config.recompute != "none" else {}),
        **(fp8 if config.fp8 else {}),
        **(mixture_settings(experts, config) if experts else {}),
    )


def experts_obstacle(architecture: Architecture, dtype: torch.dtype, parts: int) -> str | None:
    """Return why experts that are cut into `parts` are computed one after another, None where grouped products compute
    them."""
    widths = (architecture.hidden, architecture.experts.ffn // parts) if architecture.experts else ()
    return obstacle(widths, dtype, distributed.device())


class PolicyModel(GPTModel):
    """One pipeline stage of the policy, as a Megatron GPTModel."""

    def __init__(self, architecture: Architecture, config: TransformerConfig, parts: LayerParts) -> None:
        reason = experts_obstacle(architecture, config.params_dtype, config.expert_tensor_parallel_size)
        super().__init__(
            config=config,
            transformer_layer_spec=block_spec(
                architecture, stage_layers(architecture.layers), parts, grouped=reason is None
            ),
            vocab_size=architecture.padded_vocabulary(config.tensor_model_parallel_size),
            max_sequence_length=0,
            pre_process=mpu.is_pipeline_first_stage(),
            post_process=mpu.is_pipeline_last_stage(),
            share_embeddings_and_output_weights=architecture.tied,
            position_embedding_type="none",
        )
        if architecture.experts:
            settle_experts(self)

    def forward(self, tokens: Tensor, sequences: PackedSequences, rows: Tensor) -> Tensor:
        """Return this stage's output for this rank's `tokens` [tokens] int64 of one packed row.

        The last stage returns the normed hidden states at `rows` of them as [rows, hidden]. They are equal on every
        tensor-parallel rank, and their gradient is summed over these ranks. Other stages return the input of the next
        one.
        """
        embedded = self.embedding(input_ids=tokens[None], position_ids=None) if self.pre_process else None
        if embedded is not None and torch.is_grad_enabled():
            embedded.requires_grad_()  # frozen, it would not: layers that are computed again ask their input alone
        hidden = self.decoder(hidden_states=embedded, attention_mask=None, packed_seq_params=sequences)
        if not self.post_process:
            return hidden
        if self.config.sequence_parallel:
            return gather_from_sequence_parallel_region(hidden, group=self.tp_group).squeeze(1).index_select(0, rows)
        return copy_to_tensor_model_parallel_region(hidden.squeeze(1).index_select(0, rows), group=self.tp_group)

    @property
    def head(self) -> Tensor:
        """Return the output weight [vocabulary shard, hidden]. It exists only on the last stage."""
        shared = self.share_embeddings_and_output_weights
        return self.shared_embedding_or_output_weight() if shared else self.output_layer.weight
