"""The work that both sides do: model, prompts, reward, sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, Qwen2Config

from fastsvs.config import DataConfig
from fastsvs.data import encode_prompt, load_problems, load_tokenizer

PROMPTS, SAMPLES, MAX_TOKENS = 32, 8, 64
TEMPERATURE, LEARNING_RATE = 1.0, 1e-5


@dataclass
class Measured:
    """Measurements of the steps after the warm-up, one entry for each."""

    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    """Number of response tokens, the end token included."""
    parts: dict[str, list[float]] = field(default_factory=dict)

    @property
    def rates(self) -> list[float]:
        return [tokens / seconds for tokens, seconds in zip(self.tokens, self.seconds, strict=True)]


def make_model(folder: Path, tokenizer_path: str) -> PreTrainedTokenizerBase:
    """Write a Qwen2 of 0.45 M parameters with random weights, and its tokenizer, as a Hugging Face folder.

    Returns the tokenizer.
    """
    tokenizer = load_tokenizer(tokenizer_path)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=576,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def questions() -> list[str]:
    return [problem.question for problem in load_problems(DataConfig(path="tiny:train", limit=PROMPTS))[0]]


def encode(tokenizer: PreTrainedTokenizerBase, question: str) -> tuple[int, ...]:
    return encode_prompt(tokenizer, [{"role": "user", "content": question}])


def reward(text: str, response_ids: Sequence[int]) -> float:
    """Return a reward that costs nothing and varies within every group, so that both sides train on every response."""
    return float((len(text) + sum(response_ids)) % 2)
