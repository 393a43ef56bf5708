"""Model shapes of the plan's points: a whole model, or one tensor-parallel rank of a model that is too large for a GPU.

A rank holds a fixed share of the heads, of the feed-forward width and of the vocabulary. A model with these shares has
exactly the rank's matrix shapes, and runs on one GPU, without the rank's communication.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from transformers import LlamaConfig, PretrainedConfig, Qwen2Config


@dataclass(frozen=True, slots=True)
class Slice:
    """A dense decoder with QKV bias and an output head of its own, as Qwen2 and Qwen2.5 are from 7B on."""

    name: str
    layers: int
    hidden: int
    heads: int
    groups: int
    """Number of key/value heads."""
    ffn: int
    vocabulary: int
    head_dim: int = 128

    def with_layers(self, layers: int) -> Slice:
        return replace(self, layers=layers)

    @property
    def layer_parameters(self) -> int:
        """Return the number of parameters of one layer's matrices."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.groups)
        return attention + 3 * self.hidden * self.ffn

    @property
    def head_parameters(self) -> int:
        """Return the number of parameters of the output head; the embedding has as many."""
        return self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        """Return the number of parameters of all matrices."""
        return self.layers * self.layer_parameters + 2 * self.head_parameters

    def kv_bytes(self, element_bytes: int) -> int:
        """Return the bytes of keys and values of one token, in all layers."""
        return self.layers * 2 * self.groups * self.head_dim * element_bytes

    def trainer_config(self) -> PretrainedConfig:
        """Make the configuration that the trainer reads.

        `head_dim` is written out: it is not hidden / heads in a slice.
        """
        return Qwen2Config(**self._fields())

    def engine_config(self, positions: int) -> PretrainedConfig:
        """Make the configuration that vLLM reads, for up to `positions` tokens.

        vLLM's Qwen2 takes hidden / heads as the head's size; its Llama takes `head_dim`, and with `qkv_bias` it has the
        same layers as Qwen2.
        """
        config = LlamaConfig(**self._fields(), qkv_bias=True, max_position_embeddings=positions)
        config.architectures = ["LlamaForCausalLM"]
        return config

    def _fields(self) -> dict[str, Any]:
        return {
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.groups,
            "head_dim": self.head_dim,
            "intermediate_size": self.ffn,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
            "rms_norm_eps": 1e-6,
        }


# Of the models' config.json on the hub; the slice is a quarter of 40 heads, 8 groups, 27648 and 152064.
QWEN_32B_TP4 = Slice("32b-tp4", layers=64, hidden=5120, heads=10, groups=2, ffn=6912, vocabulary=38016)
QWEN_7B = Slice("7b", layers=28, hidden=3584, heads=28, groups=4, ffn=18944, vocabulary=152064)
TINY = Slice("tiny", layers=2, hidden=64, heads=2, groups=1, ffn=128, vocabulary=512, head_dim=64)
"""Slice for a CPU; its heads are wider than hidden / heads, as a slice's are."""
