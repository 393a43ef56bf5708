"""Small random models and batches, and transformers' answer to what the policy computes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state as mpu
from stored_names import stored
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MixtralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3NextConfig,
)
from transformers.models.qwen3_5 import Qwen3_5TextConfig
from transformers.models.qwen3_5_moe import Qwen3_5MoeTextConfig

from fastsvs.algorithms import Batch, PolicyLoss, Reduction, TokenLoss, TokenMetric, TokenTerms, token_level
from fastsvs.config import AlgorithmConfig
from fastsvs.policy import Policy, learned_entries
from fastsvs.policy.weights import hf_weights

SHAPE = {
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}

MIXTURE = SHAPE | {"num_hidden_layers": 2, "num_experts_per_tok": 2}
NO_FFN = {name: size for name, size in MIXTURE.items() if name != "intermediate_size"}
QWEN_EXPERTS = {"num_experts": 4, "moe_intermediate_size": 32}

MIXTURES: dict[str, PretrainedConfig] = {
    "qwen3-moe": Qwen3MoeConfig(**MIXTURE | QWEN_EXPERTS, head_dim=32, norm_topk_prob=True),
    "qwen2-moe-shared": Qwen2MoeConfig(**MIXTURE | QWEN_EXPERTS, shared_expert_intermediate_size=48),
    "qwen3-moe-sparse": Qwen3MoeConfig(
        **MIXTURE | QWEN_EXPERTS | {"num_hidden_layers": 4}, head_dim=32, norm_topk_prob=True, decoder_sparse_step=2
    ),
    "qwen2-moe-late": Qwen2MoeConfig(
        **MIXTURE | QWEN_EXPERTS | {"num_hidden_layers": 4}, shared_expert_intermediate_size=48, mlp_only_layers=[0, 1]
    ),
    "mixtral": MixtralConfig(**MIXTURE, num_local_experts=4, tie_word_embeddings=False),
}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "linear_conv_kernel_dim": 4,
    "tie_word_embeddings": False,
}
HYBRIDS: dict[str, PretrainedConfig] = {
    "qwen3.5": Qwen3_5TextConfig(**SHAPE | LINEAR),
    "qwen3.5-moe": Qwen3_5MoeTextConfig(
        **NO_FFN | LINEAR | QWEN_EXPERTS | {"layer_types": ["linear_attention", "full_attention"]},
        shared_expert_intermediate_size=48,
    ),
    "qwen3-next": Qwen3NextConfig(
        **MIXTURE | LINEAR | QWEN_EXPERTS | {"layer_types": ["linear_attention", "full_attention"]},
        shared_expert_intermediate_size=48,
        norm_topk_prob=True,
    ),
}
CONFIGS: dict[str, PretrainedConfig] = (
    MIXTURES
    | HYBRIDS
    | {
        "qwen2-tied": Qwen2Config(**SHAPE, tie_word_embeddings=True),
        "qwen2-untied": Qwen2Config(**SHAPE, tie_word_embeddings=False, rope_parameters=YARN_ROPE),
        "qwen3-tied": Qwen3Config(**SHAPE, head_dim=32, tie_word_embeddings=True),
        "qwen3-untied": Qwen3Config(**SHAPE, head_dim=32, tie_word_embeddings=False),
        "llama3-untied": LlamaConfig(**SHAPE, tie_word_embeddings=False, rope_parameters=LLAMA3_ROPE),
        "llama3-tied-mha": LlamaConfig(**SHAPE | {"num_key_value_heads": 4}, tie_word_embeddings=True),
    }
)

GSPO = AlgorithmConfig(loss="gspo", clip_low=3e-2, clip_high=4e-2, entropy_coefficient=0.1, kl_coefficient=0.05)
"""A loss over whole sequences, with a gradient through the entropy too."""
PPO = AlgorithmConfig(rollout_correction="tis", entropy_coefficient=0.1, kl_coefficient=0.05)
"""One of each token alone: it is computed in one pass with its gradient."""


def surprised(terms: TokenTerms, config: AlgorithmConfig) -> TokenLoss:
    """The likelihood, with a metric of every reduction, and means under a name that promises another."""
    surprise = -terms.logprobs
    metrics = {way.value: TokenMetric(surprise, way) for way in Reduction}
    return TokenLoss(surprise, {**metrics, "surprise_max": surprise})


@token_level
def surprised_by_token(terms: TokenTerms, config: AlgorithmConfig) -> TokenLoss:
    """The same, computed in one pass."""
    return surprised(terms, config)


def save_model(name: str, folder: Path) -> Path:
    """A Hugging Face folder with random weights; biases and norms are random too, so that each of them matters."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
        if name.endswith("A_log"):
            parameter.data -= 3  # states that last, where transformers' initial ones are gone after a token
    model.save_pretrained(folder)
    return folder


def make_batch(samples: int = 12, vocabulary: int = 300, seed: int = 0) -> Batch:
    generator = np.random.default_rng(seed)
    prompts = [generator.integers(0, vocabulary, generator.integers(1, 30)) for _ in range(samples)]
    responses = [generator.integers(0, vocabulary, generator.integers(1, 40)) for _ in range(samples)]
    tokens = sum(map(len, responses))
    noise = torch.Generator().manual_seed(seed)
    return Batch(
        prompt_ids=prompts,
        response_ids=responses,
        kinds=[("original", "synthesis", "variant")[i % 3] for i in range(samples)],
        groups=torch.arange(samples) // 4,
        rewards=torch.zeros(samples),
        advantages=torch.randn(tokens, generator=noise),
        rollout_logprobs=torch.full((tokens,), -5.7) + 0.1 * torch.randn(tokens, generator=noise),
        old_logprobs=torch.full((tokens,), -5.7) + 0.1 * torch.randn(tokens, generator=noise),
        reference_logprobs=torch.full((tokens,), -5.7),
    )


def reference_statistics(model: PreTrainedModel, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """(log-probs, entropies) of the response tokens in the model's dtype, one sequence at a time."""
    logprobs, entropies = [], []
    for prompt, response in zip(batch.prompt_ids, batch.response_ids, strict=True):
        ids = torch.from_numpy(np.concatenate([prompt, response]))
        logits = model(ids[None]).logits[0, len(prompt) - 1 : -1] / temperature
        table = logits.log_softmax(-1)
        logprobs.append(table.gather(1, torch.from_numpy(response)[:, None])[:, 0])
        entropies.append(-(table.exp() * table).sum(-1))
    return torch.cat(logprobs), torch.cat(entropies)


def reference_gradients(
    model: PreTrainedModel,
    batch: Batch,
    loss: PolicyLoss,
    algorithm: AlgorithmConfig,
    token_weights: Tensor,
    temperature: float,
) -> tuple[float, dict[str, Tensor]]:
    """The objective and its gradient under Hugging Face names, by plain autograd."""
    model.zero_grad()
    logprobs, entropy = reference_statistics(model, batch, temperature)
    assert batch.old_logprobs is not None
    terms = TokenTerms(
        logprobs=logprobs,
        entropy=entropy,
        old_logprobs=batch.old_logprobs,
        rollout_logprobs=batch.rollout_logprobs,
        reference_logprobs=batch.reference_logprobs,
        advantages=batch.advantages,
        sequence=torch.arange(len(batch)).repeat_interleave(batch.response_lengths),
        sequences=len(batch),
    )
    objective = (token_weights[terms.sequence] * loss(terms, algorithm).loss).sum()
    objective.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return objective.item(), stored(gradients, model.config.model_type)


def hf_gradients(policy: Policy) -> dict[str, Tensor]:
    """What `accumulate_gradients` left, whole and under Hugging Face names."""
    groups = [(policy.model.buffers, mpu.get_data_parallel_group(with_context_parallel=True))]
    groups.append((policy.model.expert_parallel_buffers, mpu.get_expert_data_parallel_group()))
    for buffers, group in groups:
        for bucket in (bucket for buffer in buffers if group.size() > 1 for bucket in buffer.buckets):
            shards = list(bucket.grad_data.chunk(group.size()))
            dist.all_gather(shards, shards[group.rank()].clone(), group=group)
    gradients = {name: p.main_grad for name, p in policy.stage.named_parameters() if p.requires_grad}
    return {name: value.clone() for name, value in hf_weights(gradients, policy.architecture, learned_entries)}


def assert_layout_agrees(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Assert that log-probs, gradients, updates, and first and last weights of a layout are those of one process."""
    assert (actual["log_probs"] - expected["log_probs"]).abs().max() < 1e-5
    assert actual["gradients"].keys() == expected["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        assert relative_error(actual["gradients"][name], gradient) < 1e-4, name
    for ours, theirs in zip(actual["updates"], expected["updates"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    for name, weight in expected["final"].items():
        assert torch.equal(actual["initial"][name], expected["initial"][name]), name
        assert (actual["final"][name] - weight).abs().max() < 5e-5, name


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())
