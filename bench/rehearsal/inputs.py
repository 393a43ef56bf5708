"""The inputs of a rehearsal: a model's folder without weights, and problems that the stand-in servers can answer."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import Qwen2Config

from bench.rehearsal.answers import HALF, NEVER, question
from bench.rehearsal.scales import Scale
from fastsvs.data.tiny import write_model_folder
from fastsvs.files import write_json, write_jsonl

PROBLEMS, HELD_OUT = 4096, 32
MAX_POSITIONS = 16384
HIDDEN, HEADS, KEY_VALUE_HEADS = 64, 8, 4
WIDEST = 96
"""Width of the feed-forward layers."""
TEMPLATE = "{response} Make this a problem, after ```text."
"""Synthesis prompt; the shipped one would be most of what the policy reads, as this tokenizer cuts it into bytes."""


def write_inputs(scale: Scale, folder: Path) -> None:
    """Write `model/`, `problems.jsonl` and `held_out.jsonl` into `folder`."""
    model = folder / "model"
    model.mkdir(parents=True, exist_ok=True)
    write_model_folder(model)
    config = Qwen2Config.from_pretrained(model)
    config.update(
        {
            "hidden_size": HIDDEN,
            "intermediate_size": WIDEST,
            "num_hidden_layers": scale.layers,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KEY_VALUE_HEADS,
            "max_position_embeddings": MAX_POSITIONS,
            "tie_word_embeddings": False,
            "layer_types": ["full_attention"] * scale.layers,
            "dtype": "bfloat16",
        }
    )
    config.save_pretrained(model)
    tokens = model / "tokenizer_config.json"
    write_json(tokens, json.loads(tokens.read_text()) | {"model_max_length": MAX_POSITIONS})
    numbers = range(PROBLEMS + HELD_OUT)
    problems = [problem(number, HALF if number % scale.solved_every == 0 else NEVER) for number in numbers]
    write_jsonl(folder / "problems.jsonl", problems[:PROBLEMS])
    write_jsonl(folder / "held_out.jsonl", problems[PROBLEMS:])
    (folder / "synthesis.txt").write_text(TEMPLATE)


def problem(number: int, kind: str) -> dict[str, str]:
    return {"question": question(str(number), kind, number), "answer": str(number)}
