"""Conversion of a Llama in GGUF to the files that transformers, vLLM and FastSvS read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from bench.smollm2.gguf import Gguf
from fastsvs.errors import UserError
from fastsvs.files import draft_of

CONTROL = 3
"""GGUF's type of a token that stands for no text."""
PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Names of a layer's parts in GGUF and in Hugging Face's Llama."""
OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def write_model(gguf: Gguf, folder: Path) -> None:
    """Write the model in bf16 with its tokenizer to `folder`. Raises UserError for one that is no such Llama."""
    about = gguf.metadata
    if about["general.architecture"] != "llama" or about["tokenizer.ggml.pre"] != "smollm":
        raise UserError(f"{about.get('general.name')} is no Llama with SmolLM's tokenizer: only these are converted")
    tensors = {name: torch.from_numpy(array).to(torch.bfloat16).contiguous() for name, array in weights(gguf)}
    ends = {"bos_token_id": about["tokenizer.ggml.bos_token_id"], "eos_token_id": about["tokenizer.ggml.eos_token_id"]}
    with draft_of(folder) as draft:
        save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
        tokenizer_of(about).save_pretrained(draft)
        GenerationConfig(**ends).save_pretrained(draft)
        config_of(about, ends).save_pretrained(draft)


def config_of(about: Mapping[str, Any], ends: Mapping[str, int]) -> LlamaConfig:
    """Return the shape that the metadata describe, with tied embeddings."""
    heads = about["llama.attention.head_count"]
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=about["llama.vocab_size"],
        hidden_size=about["llama.embedding_length"],
        intermediate_size=about["llama.feed_forward_length"],
        num_hidden_layers=about["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=about["llama.attention.head_count_kv"],
        max_position_embeddings=about["llama.context_length"],
        rms_norm_eps=float(f"{about['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # an fp32 in the file
        rope_parameters={"rope_type": "default", "rope_theta": about["llama.rope.freq_base"]},
        tie_word_embeddings=True,
        dtype="bfloat16",
        **ends,
    )


def weights(gguf: Gguf) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors under Hugging Face's names. Raises UserError for a tensor that no Llama with tied embeddings
    has."""
    heads = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
    for name, array in gguf.tensors.items():
        layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
        if layer and layer[2] in PARTS:
            whole = unpaired(array, gguf.metadata[heads[layer[2]]]) if layer[2] in heads else array
            yield f"model.layers.{layer[1]}.{PARTS[layer[2]]}.weight", whole
        elif name in OUTSIDE:
            yield OUTSIDE[name], array
        else:
            raise UserError(f"tensor {name} has no place in a Llama with tied embeddings")


def unpaired(array: np.ndarray, heads: int) -> np.ndarray:
    """Return query or key weights whose rotary halves stand one after the other, as in Hugging Face's Llama; in GGUF a
    head's rows alternate between the halves. `[heads * head_dim, hidden]`."""
    rows, hidden = array.shape
    return array.reshape(heads, rows // heads // 2, 2, hidden).swapaxes(1, 2).reshape(rows, hidden)


def tokenizer_of(about: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """Return the byte-level BPE tokenizer in the metadata, with SmolLM's rule that each digit stands alone."""
    tokens = about["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in about["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, merges))
    digits, in_bytes = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, in_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, about["tokenizer.ggml.token_type"], strict=True)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token, kind in kinds if kind == CONTROL])
    named = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=about["tokenizer.chat_template"],
        model_max_length=about["llama.context_length"],
        **{f"{short}_token": tokens[about[f"tokenizer.ggml.{name}_token_id"]] for short, name in named.items()},
    )
