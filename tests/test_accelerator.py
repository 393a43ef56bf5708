"""Variables of CUDA for trainers, and for them alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastsvs.accelerator import set_trainer_variables


@pytest.mark.parametrize(
    ("before", "shares", "after"),
    [
        ({}, False, {"CUDA_DEVICE_MAX_CONNECTIONS": "1", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}),
        ({}, True, {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}),
        (
            {"CUDA_DEVICE_MAX_CONNECTIONS": "8", "PYTORCH_ALLOC_CONF": "max_split_size_mb:512"},
            False,
            {"CUDA_DEVICE_MAX_CONNECTIONS": "8", "PYTORCH_ALLOC_CONF": "max_split_size_mb:512"},
        ),
        (
            {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"},
            False,
            {"CUDA_DEVICE_MAX_CONNECTIONS": "1", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"},
        ),
    ],
)
def test_what_the_user_set_stays(before: dict[str, str], shares: bool, after: dict[str, str]) -> None:
    environment = dict(before)
    set_trainer_variables(environment, shares)
    assert environment == after


FIRST = """
import os, sys, builtins
imported = builtins.__import__
def watch(name, *rest, **named):
    if name.partition(".")[0] == "torch":
        print(os.environ.get("CUDA_DEVICE_MAX_CONNECTIONS"), os.environ.get("PYTORCH_CUDA_ALLOC_CONF"))
        sys.exit()
    return imported(name, *rest, **named)
builtins.__import__ = watch
from fastsvs.cli import main
main(sys.argv[1:])
"""
"""The command line up to its first import of torch, when the variables must be there."""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "fastsvs:tiny_svs"], "1 expandable_segments:True"),
        (
            ["train", "fastsvs:tiny_svs", "rollout.engine=vllm", "rollout.placement=dedicated"],
            "1 expandable_segments:True",
        ),
        (["train", "fastsvs:tiny_svs", "rollout.engine=vllm"], "1 None"),
        (["sft", "fastsvs:tiny_sft"], "1 expandable_segments:True"),
        (["demo"], "1 expandable_segments:True"),
        (["eval", "fastsvs:tiny_eval"], "None None"),
    ],
)
def test_trainers_have_them_before_torch(words: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_DEVICE_MAX_CONNECTIONS", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", FIRST, *words], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[0] == said, done.stderr
