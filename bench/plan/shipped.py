"""The shipped configurations at the clusters that their comments name, and config.json of the models that they train,
as far as the trainer reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig

from fastsvs.architecture import Architecture, read_architecture, with_adapters
from fastsvs.config import TrainJob, load
from fastsvs.plan import Cluster, JobPlan, Machines, assumed_step, changed, plan_job, read_hardware

CONFIGS = Path(__file__).parents[2] / "configs"
QWEN25 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 32768,
    "max_window_layers": 70,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
}
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 40960,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 151936,
}
MODELS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-3B-Instruct": QWEN25
    | {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_attention_heads": 16,
        "num_hidden_layers": 36,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "vocab_size": 151936,
    },
    "Qwen/Qwen2.5-Coder-7B": QWEN25
    | {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
        "vocab_size": 152064,
    },
    "Qwen/Qwen3-30B-A3B": {
        "model_type": "qwen3_moe",
        "decoder_sparse_step": 1,
        "head_dim": 128,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "max_position_embeddings": 40960,
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "Qwen/Qwen2.5-32B-Instruct": QWEN25
    | {
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_attention_heads": 40,
        "num_hidden_layers": 64,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
        "vocab_size": 152064,
    },
    "Qwen/Qwen3-8B": QWEN3
    | {"hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32, "num_hidden_layers": 36},
    "Qwen/Qwen3-32B": QWEN3
    | {"hidden_size": 5120, "intermediate_size": 25600, "num_attention_heads": 64, "num_hidden_layers": 64},
    "meta-llama/Llama-3.1-8B-Instruct": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 128256,
    },
}
NODES = {"One node": 1, "Four nodes": 4}
CLUSTER = re.compile(rf"# ({'|'.join(NODES)}) of (\d+) x H100-80GB")


@dataclass(frozen=True)
class Shipped:
    """A shipped configuration and the H100s that it is for."""

    path: Path
    cluster: Cluster

    @property
    def name(self) -> str:
        return str(self.path.relative_to(CONFIGS).with_suffix(""))

    @property
    def job(self) -> TrainJob:
        return load(TrainJob, self.path)

    @property
    def architecture(self) -> Architecture:
        """Return the architecture of the model, with the adapters that the job trains."""
        return with_adapters(architecture_of(self.job.model.path), self.job.policy)

    @cache  # noqa: B019
    def plan(self, **changes: Any) -> JobPlan:
        """Return the plan of the job with other values of some keys, under the assumed lengths."""
        job = changed(self.job, changes)
        machines = Machines(self.cluster, read_hardware("h100"))
        return plan_job(with_adapters(architecture_of(job.model.path), job.policy), job, machines, assumed_step(job))


@cache
def architecture_of(model: str) -> Architecture:
    """Return the architecture of a model of MODELS."""
    content = dict(MODELS[model])
    return read_architecture(AutoConfig.for_model(content.pop("model_type"), **content))


def every_shipped() -> list[Shipped]:
    """Return the training configurations whose comments, or those of what they extend, name a cluster."""
    found = [(path, cluster_of(path)) for path in sorted(CONFIGS.rglob("*.yaml")) if not path.stem.endswith("_eval")]
    return [Shipped(path, cluster) for path, cluster in found if cluster]


def shipped(name: str) -> Shipped:
    """Return the configuration called `name`."""
    [one] = [each for each in every_shipped() if each.name == name]
    return one


def cluster_of(path: Path) -> Cluster | None:
    """Return the cluster that a file names, or the nearest file that it extends."""
    text = path.read_text()
    if named := CLUSTER.search(text):
        return Cluster(NODES[named[1]], int(named[2]))
    parent = yaml.safe_load(text).get("extends")
    return cluster_of(path.parent / parent) if isinstance(parent, str) and ":" not in parent else None
