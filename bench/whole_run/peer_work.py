"""The work that both sides do, and how it is timed: shapes, model folders, prompts, reward, what a run leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig

from fastsvs.algorithms import Batch, Context
from fastsvs.config import DataConfig
from fastsvs.data import load_problems, load_tokenizer
from fastsvs.files import write_json

TEMPERATURE, LEARNING_RATE, CLIP_LOW, CLIP_HIGH = 1.0, 1e-6, 0.2, 0.28


@dataclass(frozen=True)
class Shape:
    """A model and the work of one step with it."""

    name: str
    prompts: int
    samples: int
    max_tokens: int
    """Longest response, in tokens."""
    max_prompt_tokens: int
    memory_share: float
    """Share of the GPU's memory for the vLLM of either side."""
    seconds: float
    """Longest time of one run, its start included, in seconds; the steps that are done by then count."""
    random: Mapping[str, int] = field(default_factory=dict)
    """Fields of the LlamaConfig of random weights; empty for the real model as it is."""
    dtype: str = "bf16"
    warmup: int = 3
    steps: int = 6

    @property
    def case(self) -> str:
        return f"{self.name}, {self.prompts} prompts x {self.samples} responses of up to {self.max_tokens} tokens"

    @property
    def responses(self) -> int:
        return self.prompts * self.samples


SMOLLM2 = Shape("SmolLM2-135M", 64, 8, 256, 256, memory_share=0.3, seconds=200)
LARGER = Shape(
    "1.7B, random weights",
    32,
    8,
    512,
    256,
    memory_share=0.45,
    seconds=220,
    random={
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "intermediate_size": 8192,
        "vocab_size": 49152,
        "max_position_embeddings": 2048,
    },
    warmup=2,
    steps=3,
)
TINY = Shape("tiny", 4, 4, 24, 128, memory_share=0.3, seconds=400, dtype="fp32", warmup=1, steps=2)
TINY_RANDOM = Shape(
    "tiny random",
    4,
    4,
    24,
    128,
    memory_share=0.3,
    seconds=400,
    random={
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 576,
        "max_position_embeddings": 256,
    },
    dtype="fp32",
    warmup=1,
    steps=2,
)


def model_folder(shape: Shape, model: str, folder: Path) -> str:
    """Return the folder or hub id that both sides read: the model itself, or config and tokenizer for random
    weights."""
    if not shape.random:
        return model
    tokenizer = load_tokenizer(model)
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    dtype = torch.bfloat16 if shape.dtype == "bf16" else torch.float32
    config = LlamaConfig(**shape.random, **special, tie_word_embeddings=True, dtype=dtype)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def questions(limit: int) -> list[str]:
    """Return the questions that our side trains on, in the order of the data set."""
    return [problem.question for problem in load_problems(DataConfig(path="tiny:train", limit=limit))[0]]


def reward(index: int) -> float:
    """Return the reward of a response by its place in the batch.

    It costs nothing and differs within each group, so that both sides train on every response.
    """
    return float(index % 2)


def alternating(batch: Batch, context: Context) -> Tensor:
    """Return the rewards of our side as a RewardFn, [samples]; groups lie one after another and have an even size."""
    return torch.tensor([reward(index) for index in range(len(batch))])


@dataclass
class Measured:
    """Measurements that a run of one side left, one entry for each step, warm-up included."""

    setting: str
    seconds: list[float] = field(default_factory=list)
    """Time of each step in seconds, from the end of the step before to its own end: everything that a user waits
    for."""
    tokens: list[int] = field(default_factory=list)
    """Number of response tokens of each step, end tokens included."""
    parts: dict[str, list[float]] = field(default_factory=dict)
    moments: list[float] = field(default_factory=list)
    """Ends of the steps on the monotonic clock, which all processes of a machine share, in seconds."""

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @staticmethod
    def read(path: Path) -> Measured:
        return Measured(**json.loads(path.read_text()))

    def after(self, warmup: int) -> Measured:
        """Return the measurements without the first steps."""
        parts = {name: values[warmup:] for name, values in self.parts.items()}
        return Measured(self.setting, self.seconds[warmup:], self.tokens[warmup:], parts, self.moments[warmup:])

    @property
    def rate(self) -> float:
        """Return the median response tokens per second."""
        return median(tokens / seconds for tokens, seconds in zip(self.tokens, self.seconds, strict=True))


def as_keywords(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return vLLM options named as on its command line as arguments of `vllm.LLM`."""
    return {
        name.replace("-", "_"): json.loads(value) if isinstance(value, str) and value.startswith("{") else value
        for name, value in options.items()
    }


def fastest(runs: Sequence[Measured]) -> Measured:
    return max(runs, key=lambda measured: measured.rate)
