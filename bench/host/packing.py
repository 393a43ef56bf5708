"""Seconds of a packing plan and of its rows, how many rows there are, and how evenly the ranks share the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from time import process_time
from typing import TypeVar

import numpy as np
import torch

from bench.host.before import plan_by_one_row_more
from bench.report import Row
from fastsvs.algorithms import Batch
from fastsvs.architecture import Architecture
from fastsvs.plan import P99
from fastsvs.policy import packing
from fastsvs.policy.bundles import Sizes
from fastsvs.policy.row import Packer

T = TypeVar("T")
QWEN_32B = Architecture(
    layers=64,
    hidden=5120,
    ffn=27648,
    heads=40,
    groups=8,
    head_dim=128,
    vocabulary=152064,
    max_positions=32768,
    tied=False,
    qkv_bias=True,
    qk_norm=False,
    norm_epsilon=1e-6,
    initializer_range=0.02,
)
BUDGET, DATA_PARALLEL, PROMPT, LONGEST = 12288, 2, 150, 8192
SHARES = {"original": 0.125, "synthesis": 0.195, "variant": 0.68}


@dataclass(frozen=True, slots=True)
class Packing:
    """Responses of log-normal lengths, whose 99th percentile is ten times the median; written problems are half as
    long."""

    median: int
    samples: int = 16_384
    repeats: int = 3

    def __str__(self) -> str:
        return f"packing, {self.samples:,} samples, median {self.median}"

    def draw(self) -> tuple[list[int], list[str]]:
        """Return the length of each response, and its kind."""
        random = np.random.default_rng(0)
        kinds = random.choice(list(SHARES), self.samples, p=list(SHARES.values()))
        lengths = self.median * 10 ** (random.standard_normal(self.samples) / P99)
        lengths[kinds == "synthesis"] /= 2
        return np.clip(lengths, 1, LONGEST).astype(int).tolist(), kinds.tolist()


PACKING = [Packing(median=1000), Packing(median=2500)]


def measure_packing(case: Packing) -> Iterator[Row]:
    """Measure both ways of planning, and the rows of one rank."""
    responses, kinds = case.draw()
    lengths = [PROMPT + response for response in responses]
    work = [QWEN_32B.forward_flops(PROMPT + response, response) for response in responses]
    least = ceil(sum(lengths) / (BUDGET * DATA_PARALLEL))
    ways: dict[str, Callable[[], list[list[list[int]]]]] = {
        "before: one row more at a time": lambda: plan_by_one_row_more(lengths, kinds, BUDGET, DATA_PARALLEL),
        "fastsvs": lambda: packing.plan(lengths, kinds, work, BUDGET, DATA_PARALLEL),
    }
    for provider, make in ways.items():
        seconds, plan = best(case.repeats if provider == "fastsvs" else 1, make)
        totals = [sum(work[i] for row in rank for i in row) for rank in plan]
        yield Row(str(case), provider, "plan", seconds, "s")
        yield Row(str(case), provider, "micro-batches a rank", len(plan[0]), "count", limit=least)
        yield Row(str(case), provider, "busiest rank over the mean", 100 * (max(totals) / np.mean(totals) - 1), "%")
    samples = batch(responses, kinds)
    packer = Packer(samples, Sizes.of(samples, share=False), torch.zeros(2, PROMPT + LONGEST, 2), multiple=4)
    seconds, _ = best(1, lambda: [len(packer.pack(row).samples) for row in plan[0]])
    yield Row(str(case), "fastsvs", "rows of one rank", seconds, "s", note="rotary tables of width 2")


def batch(responses: list[int], kinds: list[str]) -> Batch:
    """Return a batch of zeros with responses of these lengths, which share memory."""
    zeros, nothing = np.zeros(LONGEST, dtype=np.int64), torch.zeros(0)
    return Batch(
        prompt_ids=[zeros[:PROMPT]] * len(responses),
        response_ids=[zeros[:length] for length in responses],
        kinds=kinds,
        groups=nothing,
        rewards=nothing,
        advantages=nothing,
        rollout_logprobs=nothing,
    )


def best(repeats: int, function: Callable[..., T], *arguments: object) -> tuple[float, T]:
    """Return the fewest processor seconds of several calls, and what the last one returned."""
    seconds = []
    for _ in range(repeats):
        began = process_time()
        result = function(*arguments)
        seconds.append(process_time() - began)
    return min(seconds), result
