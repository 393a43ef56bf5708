"""One tensor-parallel rank of a large trainer on one GPU: time and memory of a layer, of the head, of the optimizer.

Two policies of the same shape and different depth tell these apart. What grows with the number of layers is the
layers'; what does not is the embedding's, the head's and the step's own. Weights and tokens are random. An update has
one packed row, with full recomputation.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor

from bench import report
from bench.report import Row
from bench.trainer.flops import case_flop, measured_matmul_rate, peak_flop_per_second
from bench.trainer.measure import random_batch, seconds_of
from bench.trainer.suites import Case as TrainerCase
from bench.whole_run.cases import Case, Place
from bench.whole_run.gpu import GIB
from bench.whole_run.slices import QWEN_7B, QWEN_32B_TP4, TINY, Slice
from fastsvs.algorithms import aggregation_weights, policy_loss
from fastsvs.architecture import Architecture, read_architecture
from fastsvs.config import AlgorithmConfig, ModelConfig, PolicyConfig
from fastsvs.errors import UserError
from fastsvs.policy import Policy, hf_shapes

OURS = "fastsvs"
REPEATS = 5
NOTES = {
    QWEN_32B_TP4.name: "one of 4 tensor-parallel ranks by slices, alone: no communication, no sequence parallelism "
    "(norms, residuals and kept activations over all of the row's tokens, which 4 ranks would share)",
    QWEN_7B.name: "the whole width on one rank: no communication",
    TINY.name: "a tiny model on a CPU: says nothing about speed",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Two depths of a shape and the rows they are measured on."""

    shape: Slice
    depths: tuple[int, int]
    tokens: tuple[int, ...]
    """Numbers of tokens of a row. Differences are taken on the first.

    The others show what does not grow with tokens. The shortest shows the optimizer's time with the least noise: that
    is the time by which an update takes longer than its gradient.
    """
    dtype: Literal["bf16", "fp32"]


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of one depth and row."""

    seconds: dict[str, float]
    gib: dict[str, float]
    """Memory in GiB; empty on a CPU."""
    parameters: int
    flop: float
    """Useful FLOP of the gradient."""


PLANS = {
    "h200": (
        Plan(QWEN_32B_TP4, (4, 8), (12_288, 6_144, 1_024), "bf16"),
        Plan(QWEN_7B, (2, 4), (12_288, 1_024), "bf16"),
    ),
    "smoke": (Plan(TINY, (2, 4), (1024, 512), "fp32"),),
}
Known = dict[int, Costs]
"""Costs by depth, of a plan's first row length."""


def cases(place: Place) -> list[Case]:
    """Make a case for each depth and one for the difference of two, so that one that does not fit ends no other."""
    found: list[Case] = []
    for plan in PLANS[place.suite]:
        known: Known = {}
        name = f"shapes/{plan.shape.name}"
        for depth in plan.depths:
            found.append(Case(f"{name}/{depth} layers", partial(measure_depth, plan, depth, known)))
        found.append(Case(f"{name}/one layer", partial(differences, plan, known)))
    return found


def measure_depth(plan: Plan, depth: int, known: Known, _folder: Path) -> Iterator[Row]:
    """Measure this depth's updates, and leave them in `known`."""
    yield from _device_rate()
    began = perf_counter()
    policy = _build(plan, depth)
    print(f"  {plan.shape.name}, {depth} layers: random weights in {perf_counter() - began:.0f} s", flush=True)
    for tokens in plan.tokens:
        case = TrainerCase(plan.shape.name, tokens, "packed")
        costs = _costs(policy, case)
        known.setdefault(depth, costs)
        name = f"shapes/{plan.shape.name}/{depth} layers/{tokens} tokens"
        yield from _rows(name, plan, case, costs)


def differences(plan: Plan, known: Known, _folder: Path) -> Iterator[Row]:
    """Yield a layer's costs apart from those that all depths share. Raises UserError where a depth was not measured."""
    if missing := [depth for depth in plan.depths if depth not in known]:
        raise UserError(f"not measured: {missing} layers; a layer's costs are the difference of {plan.depths} layers")
    few, many = plan.depths
    less, more = known[few], known[many]
    note = f"from {few} and {many} layers, a row of {plan.tokens[0]} tokens; {NOTES[plan.shape.name]}"
    for unit, small, large in (("s", less.seconds, more.seconds), ("GiB", less.gib, more.gib)):
        for metric, value in large.items():
            layer = (value - small[metric]) / (many - few)
            yield Row(f"shapes/{plan.shape.name}/one layer", OURS, metric, layer, unit, note=note)
            rest = f"shapes/{plan.shape.name}/embedding, head and fixed costs"
            yield Row(rest, OURS, metric, value - many * layer, unit, note=note)
    yield from _rate_rows(
        f"shapes/{plan.shape.name}/one layer",
        more.flop - less.flop,
        more.seconds["gradient"] - less.seconds["gradient"],
        note,
    )


def _build(plan: Plan, depth: int) -> Policy:
    """Make a policy with random weights that are drawn on its device: a CPU would take minutes for them."""
    _free_memory()
    config = plan.shape.with_layers(depth).trainer_config()
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        policy = Policy(
            ModelConfig(path=folder, initialize="random"),
            PolicyConfig(dtype=plan.dtype, recompute="full", tokens_per_micro_batch=max(plan.tokens)),
            seed=0,
            total_updates=1_000_000,
            max_sequence_tokens=max(plan.tokens),
            weights=DeviceWeights(read_architecture(config)),
        )
    _free_memory()
    return policy


class DeviceWeights:
    """A weight source like `fastsvs.policy`'s random one, on the GPU where there is one."""

    def __init__(self, architecture: Architecture) -> None:
        self._shapes = hf_shapes(architecture)
        self._std = architecture.initializer_range
        self._device = "cuda" if torch.cuda.is_available() else "cpu"

    def read(self, name: str, cut: int | None, start: int, end: int) -> Tensor:
        """Draw the tensor, or its part [start, end) along dimension `cut`."""
        shape = self._shapes[name]
        if len(shape) == 1:
            whole = torch.full(shape, 0.0 if name.endswith("bias") else 1.0, device=self._device)
        else:
            whole = torch.randn(shape, device=self._device) * self._std
        return whole if cut is None else whole.narrow(cut, start, end - start)


def _costs(policy: Policy, case: TrainerCase) -> Costs:
    """Measure an update, its gradient, and a pass that gives log-probs alone."""
    algorithm = AlgorithmConfig()
    batch = random_batch(case, policy.architecture.vocabulary)
    weights = aggregation_weights(batch.response_lengths, algorithm.aggregation, case.tokens)
    arguments = (batch, policy_loss(algorithm), algorithm, weights, 1.0)
    work: dict[str, Callable[[], object]] = {
        "log-probs": lambda: policy.log_probs(batch, 1.0),
        "gradient": lambda: policy.accumulate_gradients(*arguments),
        "update": lambda: policy.update(*arguments),
    }
    work["update"]()  # compiles kernels, makes the optimizer's state
    work["log-probs"]()
    seconds, gib = {}, {}
    if torch.cuda.is_available():
        gib["between updates"] = torch.cuda.memory_allocated() / GIB
    for name, function in work.items():
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        seconds[name] = median(seconds_of(function) for _ in range(REPEATS))
        if torch.cuda.is_available():
            gib[f"peak of {name}"] = torch.cuda.max_memory_allocated() / GIB
    if torch.cuda.is_available():
        gib["reserved"] = torch.cuda.max_memory_reserved() / GIB
    seconds["optimizer"] = seconds["update"] - seconds["gradient"]
    parameters = sum(parameter.numel() for parameter in policy.stage.parameters())
    return Costs(seconds, gib, parameters, case_flop(case, policy.architecture))


def _rows(name: str, plan: Plan, case: TrainerCase, costs: Costs) -> Iterator[Row]:
    note = NOTES[plan.shape.name]
    for metric, value in costs.seconds.items():
        yield Row(name, OURS, metric, value, "s", note=note)
    for metric, value in costs.gib.items():
        yield Row(name, OURS, metric, value, "GiB", note=note)
    billions = costs.parameters / 1e9
    yield Row(name, OURS, "parameters", billions, "billion")
    yield Row(name, OURS, "optimizer, a billion parameters", costs.seconds["optimizer"] / billions, "s", note=note)
    yield Row(name, OURS, "throughput", case.tokens / costs.seconds["update"], "tokens/s", note=note)
    yield from _rate_rows(name, costs.flop, costs.seconds["gradient"], note)


def _rate_rows(name: str, flop: float, seconds: float, note: str) -> Iterator[Row]:
    if peak := peak_flop_per_second(report.machine()):
        yield Row(name, OURS, "mfu of the gradient", 100 * flop / seconds / peak, "%", 100.0, note)
        yield Row(name, OURS, "rate of the gradient", flop / seconds / 1e12, "TFLOP/s", _matmul_rate() / 1e12, note)


def _device_rate() -> Iterator[Row]:
    """Yield the GPU's own rate of matrix products, once in each process, for comparison with the other rates."""
    if torch.cuda.is_available() and not _matmul_rate.cache_info().currsize:
        yield Row("shapes/matmul 8192", "torch", "rate", _matmul_rate() / 1e12, "TFLOP/s")


@cache
def _matmul_rate() -> float:
    """Return the measured rate of matrix products in FLOP/s."""
    return measured_matmul_rate()


def _free_memory() -> None:
    """Free memory that nothing uses: the policy before this one, and what the drawing of weights took."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
