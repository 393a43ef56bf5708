"""The command line in a process of its own, from the repository's root, on a shrunken demo."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SMALL = [
    "data.limit=64",
    "rollout.samples_per_prompt=4",
    "selfplay.variants_per_context=2",
    "selfplay.samples_per_variant=4",
    "evaluation.limit=8",
    "evaluation.samples=2",
    "evaluation.k=[1,2]",
    "run.prompts_per_step=8",
    "run.steps=3",
    "run.save_every=1",
]
"""Overrides that shrink configs/tiny_svs.yaml to seconds."""

TRAIN = ("train", "configs/tiny_svs.yaml", *SMALL)
SFT = (
    *("sft", "configs/tiny_sft.yaml", "export=null", "data.limit=16", "policy.optimizer.warmup_steps=0"),
    *("run.prompts_per_step=8", "run.steps=2", "run.save_every=1"),
)
Refuse = Callable[..., str]
"""The fixture `refuse`."""


def command(*arguments: str, processes: int = 1) -> list[str]:
    if processes == 1:
        return [sys.executable, "-m", "fastsvs", *arguments]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*launcher, "-m", "fastsvs", *arguments]


def assert_tokens_of_answers(rows: Sequence[Mapping[str, Any]], samples: Sequence[Mapping[str, Any]]) -> None:
    """Assert that `rows` have every token of the answers in `samples`, with what the engine alone knows of it."""
    assert [row["key"] for row in rows] == [sample["key"] for sample in samples]
    for row, sample in zip(rows, samples, strict=True):
        assert [len(texts) for texts in row["texts"]] == sample["tokens"]
        assert ["".join(texts).removesuffix("<|end|>") for texts in row["texts"]] == sample["responses"]
        assert [sum(each) for each in row["engine_logprobs"]] == pytest.approx(sample["logprobs"], abs=6e-3)
        assert row["policy_logprobs"] == row["entropies"] == [None] * len(sample["responses"])
        assert sample["question"] in row["prompt"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def files(folder: Path) -> dict[str, bytes]:
    """The checkpoints and samples of a run."""
    found = [*(folder / "checkpoints").rglob("*"), *(folder / "samples").iterdir()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in found if file.is_file()}
