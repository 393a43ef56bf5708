"""Seconds of an optimizer step and of a log-prob pass, from rows as `policy.packing` deals them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fastsvs.architecture import Architecture
from fastsvs.config import PolicyConfig
from fastsvs.plan.activations import recomputed_layers
from fastsvs.plan.buffers import FP32, stage_buffers
from fastsvs.plan.hardware import Hardware, Rate
from fastsvs.plan.layout import Layout
from fastsvs.plan.ledger import Line, assumed, calibrated, total
from fastsvs.plan.links import Machine, data_span, stage_span
from fastsvs.plan.memory import TRAINER_RESULTS
from fastsvs.plan.sampled import Answers
from fastsvs.policy import Sizes, plan_rows
from fastsvs.speeds import Operation

ATTENTION_BACKWARD = 2.5
"""Work of attention's backward pass over its forward pass: five products for two."""
LONG = 4096
"""Mean length from which attention reaches its rate for long sequences."""
LOGIT_BYTES = 9
"""Bytes that the passes over one logit and its gradient move in an update, beside the products (TRAINER_RESULTS)."""
ELEMENTWISE = 2.6
"""Time of norms, rotations, gates and copies over that of the bytes that they must move (TRAINER_RESULTS, at 16k and at
65k tokens)."""
HAND_COUNTED = assumed("bytes counted by hand, at the rate of a copy")


@dataclass(frozen=True, slots=True)
class RowWork:
    """The contents of a packed row, or a rank's share of them."""

    tokens: float
    predicted: float
    squares: float
    """Sum of the squares of its sequences' lengths."""
    sequences: float

    def share(self, ranks: int) -> RowWork:
        """Return the share of one of several ranks, with responses taken as even over the row."""
        return RowWork(self.tokens / ranks, self.predicted / ranks, self.squares / ranks, self.sequences / ranks)


@dataclass(frozen=True, slots=True)
class Pass:
    """Parts of passes over rows, in units of a forward pass."""

    products: float
    attention: float
    elementwise: float
    messages: float
    """Gathered or scattered activations of each layer."""
    head: float
    exchanges: float
    """Changes of attention from tokens to heads and back, and ways of tokens to their experts and back."""
    ways: int
    """Number of messages between stages for each row: activations, and gradients."""


FORWARD = Pass(products=1, attention=1, elementwise=1, messages=4, head=1, exchanges=1, ways=1)


@lru_cache(maxsize=256)
def rows_of(
    architecture: Architecture, budget: int, data: int, groups: tuple[Answers, ...], share: bool
) -> list[list[RowWork]]:
    """Return the rows of at most `budget` tokens of each of `data` data-parallel ranks for these groups, as an update
    plans them."""
    prompts = np.array([group.prompt for group in groups for _ in group.responses], dtype=np.int64)
    responses = np.array([length for group in groups for length in group.responses], dtype=np.int64)
    kinds = [group.kind for group in groups for _ in group.responses]
    numbers = list(range(len(kinds)))
    first = 0
    for group in groups:
        count = len(group.responses)
        if share:
            numbers[first : first + count] = [first] * count
        first += count
    sizes = Sizes(prompts, responses, numbers)
    plan = plan_rows(sizes, kinds, architecture.forward_flops, budget, data)
    whole = prompts + responses
    return [
        [
            RowWork(
                tokens=sum(map(sizes.tokens, sizes.bundles(row))),
                predicted=int(responses[row].sum()),
                squares=float((whole[row].astype(float) ** 2).sum()),
                sequences=len(row),
            )
            for row in rank
        ]
        for rank in plan
    ]


def update_pass(policy: PolicyConfig, layers: int) -> Pass:
    """Return forward and backward pass with what the latter computes again. Frozen weights have no gradient."""
    whole = 2 if policy.lora.rank else 3
    again = recomputed_layers(policy, layers)[0] / layers
    attends = again if policy.recompute == "full" else 0
    return Pass(
        products=whole + again,
        attention=1 + ATTENTION_BACKWARD + attends,
        elementwise=3 + again,
        messages=10 + 4 * again,
        head=whole,
        exchanges=2 + again,
        ways=2,
    )


def update_lines(
    architecture: Architecture,
    policy: PolicyConfig,
    layout: Layout,
    machine: Machine,
    rows: Sequence[Sequence[RowWork]],
) -> list[Line]:
    """Return the seconds of an optimizer step over these rows of each data-parallel rank."""
    kind = update_pass(policy, layout.layers(architecture))
    passes = pass_lines(architecture, layout, machine, rows, kind)
    return [*passes, *optimizer_lines(architecture, layout, machine)]


def pass_lines(
    architecture: Architecture, layout: Layout, machine: Machine, rows: Sequence[Sequence[RowWork]], kind: Pass
) -> list[Line]:
    """Return the seconds of a pass over the rows of the busiest data-parallel rank, by what they are spent on."""
    rows = [[row.share(layout.context) for row in rank] for rank in rows]
    taken = [np.array([_seconds(architecture, layout, machine, row, kind) for row in rank]) for rank in rows]
    busiest, parts = max(zip(rows, taken, strict=True), key=lambda pair: pair[1].sum())
    sums = parts.sum(0).tolist()
    hardware = machine.hardware
    idle = hardware.row.value * min(1.0, kind.products / 3)
    attention = _attention_rate(hardware, busiest)
    lines = [
        Line("matrix products", sums[0], hardware.gemm.basis),
        Line("attention", sums[1], attention.basis),
        Line("element-wise", sums[2], calibrated(TRAINER_RESULTS)),
        _tensor_messages(architecture, layout, machine, busiest, kind),
        _context_messages(architecture, layout, machine, busiest, kind),
        _stage_messages(architecture, layout, machine, busiest, kind),
        _expert_messages(architecture, layout, machine, busiest, kind),
        _expert_part_messages(architecture, layout, machine, busiest, kind),
        Line("head", sums[3], hardware.gemm.basis),
        Line("waiting for the host", idle * len(busiest), hardware.row.basis),
    ]
    if layout.pipeline > 1:
        bubble = (layout.pipeline - 1) * total(lines) / len(busiest)
        lines.append(Line("pipeline bubble", bubble, assumed("1F1B: stages - 1 mean rows")))
    return [line for line in lines if line.amount]


def optimizer_lines(architecture: Architecture, layout: Layout, machine: Machine) -> list[Line]:
    """Return the seconds of what an update does once: gradients to their owners, AdamW, weights to all."""
    buffers = max(
        (stage_buffers(architecture, layout, stage) for stage in range(layout.pipeline)), key=lambda b: b.weights
    )
    span = data_span(layout)
    share = buffers.owned * FP32
    moved = 2 * buffers.state + 3 * share + 2 * buffers.gradients  # read and written; gradients zeroed and their norm
    lines = [
        machine.message("gradients to their owners", "reduce-scatter", buffers.gradients, layout.replicas, span),
        Line("optimizer", moved / machine.hardware.hbm.value, HAND_COUNTED),
        machine.message("new weights to all ranks", "all-gather", buffers.learned, layout.replicas, span),
    ]
    return [line for line in lines if line.amount]


def _attention_rate(hardware: Hardware, rows: Sequence[RowWork]) -> Rate:
    tokens, sequences = sum(row.tokens for row in rows), sum(row.sequences for row in rows)
    return hardware.attention if tokens >= LONG * max(sequences, 1) else hardware.attention_short


def _mean_tokens(rows: Sequence[RowWork]) -> float:
    return sum(row.tokens for row in rows) / len(rows)


def _tensor_messages(a: Architecture, layout: Layout, machine: Machine, rows: Sequence[RowWork], kind: Pass) -> Line:
    """Return what gathers and scatters of activations among tensor parallel ranks take, all of it exposed. An
    all-reduce stands for a scatter and a gather where the sequence is not sharded."""
    mean = _mean_tokens(rows) * a.hidden * layout.width
    operation: Operation = "all-gather" if layout.shards_sequence else "all-reduce"
    each = kind.messages if layout.shards_sequence else kind.messages / 2
    count = each * layout.layers(a) * len(rows)
    return machine.message("tensor parallel messages", operation, mean, layout.tensor, layout.tensor, count)


def _context_messages(a: Architecture, layout: Layout, machine: Machine, rows: Sequence[RowWork], kind: Pass) -> Line:
    """Return what queries, keys, values and outputs take between the ranks that share out a row. An all-to-all sends as
    much as an all-gather of what it moves."""
    groups = max(a.groups, layout.tensor * layout.context)
    each = 2 * (a.heads + groups) * a.head_dim * layout.width / layout.tensor
    mean = _mean_tokens(rows) * each
    count, span = kind.exchanges * layout.layers(a) * len(rows), layout.tensor * layout.context
    return machine.message("context parallel messages", "all-gather", mean, layout.context, span, count)


def _stage_messages(a: Architecture, layout: Layout, machine: Machine, rows: Sequence[RowWork], kind: Pass) -> Line:
    """Return what activations and gradients take between pipeline stages, of which each rank sends its own part. A
    stage in the middle receives each row while another one is sent."""
    mean = _mean_tokens(rows) * a.hidden * layout.width / layout.sequence
    count = kind.ways * len(rows) if layout.pipeline > 1 else 0
    return machine.message("messages between stages", "point-to-point", mean, 2, stage_span(layout), count)


def _expert_messages(a: Architecture, layout: Layout, machine: Machine, rows: Sequence[RowWork], kind: Pass) -> Line:
    """Return what tokens take to their experts and back, and their gradients in the backward pass. An all-to-all
    sends as much as an all-gather of what it moves."""
    mean = _mean_tokens(rows) * a.hidden * layout.width / layout.tensor
    slots = mean * (a.experts.active if a.experts else 0)
    count = 2 * kind.exchanges * layout.expert_layers(a) * len(rows)
    return machine.message("tokens to experts and back", "all-gather", slots, layout.expert, layout.expert_ranks, count)


def _expert_part_messages(
    a: Architecture, layout: Layout, machine: Machine, rows: Sequence[RowWork], kind: Pass
) -> Line:
    """Return what the tokens of an expert take among the ranks that share it: they gather them, and scatter the sums of
    what they made of them, in fp32."""
    mean = _mean_tokens(rows) * a.hidden * (layout.width + FP32) / 2 / layout.tensor
    gathered = mean * (a.experts.active if a.experts else 0) * layout.expert_tensor
    count, ranks = 2 * kind.exchanges * layout.expert_layers(a) * len(rows), layout.expert_tensor
    return machine.message("tokens among an expert's ranks", "all-gather", gathered, ranks, ranks, count)


def _seconds(a: Architecture, layout: Layout, machine: Machine, row: RowWork, kind: Pass) -> tuple[float, ...]:
    """Return what a row takes on the slowest stage: products, attention, element-wise, head."""
    hardware, layers = machine.hardware, layout.layers(a)
    matrices = a.hidden * a.head_dim * (2 * a.heads + 2 * a.groups) + 3 * a.hidden * a.active_ffn
    products = 2 * row.tokens * matrices * layers / layout.tensor
    scores = 2 * row.squares * a.heads * a.head_dim * layers / layout.tensor
    heads = (a.heads + a.groups) * a.head_dim * (2 + 2 * a.qk_norm)
    moved = layout.width * (10 * a.hidden / layout.sequence + (heads + 3 * a.active_ffn) / layout.tensor)
    logits = row.predicted * a.padded_vocabulary(layout.tensor) / layout.tensor
    return (
        kind.products * products / hardware.gemm.value,
        kind.attention * scores / _attention_rate(hardware, [row]).value,
        ELEMENTWISE * kind.elementwise * row.tokens * layers * moved / hardware.hbm.value,
        kind.head * 2 * logits * a.hidden / hardware.gemm.value
        + logits * LOGIT_BYTES * kind.head / 3 / hardware.hbm.value,
    )
