"""The plan of each case of the benchmark."""

from __future__ import annotations

from pathlib import Path

from bench.plan.cases import Case, groups_of
from bench.report import read
from bench.trainer.suites import MODELS
from fastsvs.architecture import read_architecture
from fastsvs.config import PolicyConfig
from fastsvs.plan import (
    GIB,
    Machine,
    Row,
    RowWork,
    device_memory,
    layout_of,
    read_hardware,
    rows_of,
    total,
    update_lines,
)

TRAINER = Path(__file__).parents[1] / "results" / "trainer-h200-nvidia-h200-2026-11-27.json"
GPU_CASES = {
    "qwen3-0.6b/16k/single, recompute=full": (16 * 1024, "full"),
    "qwen3-0.6b/65k/single, recompute=full": (64 * 1024, "full"),
    "qwen3-0.6b/65k/single, recompute=all_but_attention": (64 * 1024, "all_but_attention"),
}
"""Tokens and recomputation of the published updates, by name."""


def planned(case: Case) -> float:
    """Return the planned seconds of an update."""
    architecture, layout = read_architecture(case.model), layout_of(case.policy, case.ranks, "cpu")
    machine = Machine(read_hardware("cpu"), case.ranks)
    rows = rows_of(architecture, case.policy.tokens_per_micro_batch, layout.data, tuple(groups_of(case)), False)
    return total(update_lines(architecture, case.policy, layout, machine, rows))


def on_gpu(name: str) -> dict[tuple[str, str], float]:
    """Return what is planned of a published update, by metric and unit."""
    tokens, recompute = GPU_CASES[name]
    architecture = read_architecture(MODELS["qwen3-0.6b"]())
    policy = PolicyConfig(dtype="bf16", recompute=recompute, tokens_per_micro_batch=tokens)  # type: ignore[arg-type]
    layout = layout_of(policy, 1, "cuda")
    [rank] = device_memory(architecture, policy, layout, Row(tokens, tokens - 1), 1)
    rows = [[RowWork(tokens, tokens - 1, float(tokens) ** 2, 1)]]
    seconds = total(update_lines(architecture, policy, layout, Machine(read_hardware("h200"), 1), rows))
    allocated, fragments = total([*rank.state, *rank.update]), rank.runtime[1].amount
    return {
        ("update", "s"): seconds,
        ("peak memory", "GiB"): allocated / GIB,
        ("peak memory, reserved", "GiB"): (allocated + fragments) / GIB,
    }


def measured_on_gpu(name: str, metric: str) -> float:
    """Return what was published of an update."""
    case, recompute = name.split(", recompute=")
    provider = "fastsvs" if recompute == "full" else f"fastsvs, recompute={recompute}"
    [row] = [row for row in read(TRAINER) if (row.case, row.provider, row.metric) == (case, provider, metric)]
    return row.value
