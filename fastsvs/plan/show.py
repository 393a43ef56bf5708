"""A plan as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fastsvs.plan.ledger import GIB, Basis, Line, total
from fastsvs.plan.machine import fewest
from fastsvs.plan.step import TimePlan
from fastsvs.plan.whole import JobPlan, Proposal
from fastsvs.planned import Compared

BAR = 24


class Notes:
    """Numbers of the sources that lines name, in the order in which they are first named."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def of(self, basis: Basis) -> str:
        """Return the kind of a basis and the number of its source."""
        if not basis.source:
            return basis.kind
        return f"{basis.kind} [{self._numbers.setdefault(basis.source, len(self._numbers) + 1)}]"

    def lines(self) -> Iterator[str]:
        """Yield the sources by number."""
        for source, number in self._numbers.items():
            yield f"[{number}] {source}"


def show(plan: JobPlan, better: Sequence[Proposal], compared: Sequence[Compared] = ()) -> str:
    """Return the plan as text. `better` are other layouts, the fastest first."""
    layout, notes = plan.memory.layout, Notes()
    parts = [
        f"layout: {layout.degrees} x DP {layout.data}",
        *_experts(plan),
        *_memory(plan, notes),
        *_time(plan, notes),
        *_findings(plan),
        *_better(plan, better),
        *_compared(compared),
        "",
        *notes.lines(),
    ]
    return "\n".join(parts)


def _experts(plan: JobPlan) -> list[str]:
    """Return what a model with experts is, for which parameters and those of a token are two numbers."""
    total, active, layout = plan.parameters, plan.active_parameters, plan.memory.layout
    if active == total:
        return []
    cut = f" x ETP {layout.expert_tensor}" if layout.expert_tensor > 1 else ""
    shared = (
        f"experts over EP {layout.expert}{cut}" if layout.expert_ranks > 1 else "all experts on every rank of a stage"
    )
    return [f"parameters: {total / 1e9:.2f}e9, of which {active / 1e9:.2f}e9 compute a token; {shared}"]


def table(proposals: Sequence[Proposal]) -> str:
    """Return the proposals of a sweep as text."""
    head = f"{'step':>9}  {'a GPU':>9}  change"
    rows = [f"{p.plan.time.step:7,.0f} s  {_peak(p.plan) / GIB:5.1f} GiB  {_named(p.changes)}" for p in proposals]
    return "\n".join([head, *rows])


def as_json(plan: JobPlan, better: Sequence[Proposal], compared: Sequence[Compared] = ()) -> dict[str, Any]:
    """Return the plan in JSON values: bytes and seconds."""
    memory, time = plan.memory, plan.time
    return {
        "layout": {
            "tensor": memory.layout.tensor,
            "pipeline": memory.layout.pipeline,
            "data": memory.layout.data,
            "expert": memory.layout.expert,
            "expert_tensor": memory.layout.expert_tensor,
            "context": memory.layout.context,
        },
        "parameters": {"total": plan.parameters, "active": plan.active_parameters},
        "capacity": memory.capacity,
        "memory": {moment: _lines(lines) for moment, lines in memory.moments.items()},
        "ranks": [_lines(rank.learning) for rank in memory.ranks],
        "host": _lines(memory.host),
        "disk": _lines(memory.disk),
        "time": {phase: _lines(lines) for phase, lines in time.phases.items()},
        "beside": _lines(list(time.beside.values())),
        "step_seconds": time.step,
        "between_devices_seconds": time.between,
        "evaluation": {"count": time.evaluations, "time": _lines(time.evaluation)},
        "days": time.days,
        "device_hours": time.device_hours,
        "tokens_per_second_per_device": time.tokens_per_second,
        "findings": [{"certain": finding.certain, "text": finding.text} for finding in plan.findings],
        "better": [{"changes": p.changes, "step_seconds": p.plan.time.step} for p in better],
        "compared": [
            {"metric": c.metric, "planned": c.planned, "measured": c.measured, "unit": c.unit} for c in compared
        ],
    }


def _lines(lines: Sequence[Line]) -> list[dict[str, Any]]:
    return [{"name": line.name, "amount": line.amount, "basis": str(line.basis)} for line in lines]


def _memory(plan: JobPlan, notes: Notes) -> Iterator[str]:
    memory = plan.memory
    for moment, lines in memory.moments.items():
        what = "a GPU" if memory.layout.device == "cuda" else "a process"
        yield f"\n{what} during {moment}: {total(lines) / GIB:,.1f} of {memory.capacity / GIB:,.1f} GiB"
        yield from _amounts(lines, GIB, "GiB", memory.capacity, notes)
    if memory.engine is not None:
        engine = memory.engine
        yield f"  cache: {engine.cache_tokens:,.0f} tokens, wanted at the mean context {engine.wanted_tokens:,.0f}"
    for name, lines in (("host memory of a node", memory.host), ("disk of the run", memory.disk)):
        yield f"\n{name}: {total(lines) / GIB:,.1f} GiB"
        yield from _amounts(fewest(lines), GIB, "GiB", total(lines), notes)


def _time(plan: JobPlan, notes: Notes) -> Iterator[str]:
    time = plan.time
    how = "rollouts beside the update" if time.overlapped else "one phase after the other"
    yield f"\na step: {time.step:,.3g} s, {how}"
    for phase, lines in time.phases.items():
        if lines:
            yield f" {phase}: {total(lines):,.3g} s"
            yield from _amounts(lines, 1, "s", time.step, notes)
    for line in time.beside.values():
        yield f" beside it: {line.name}, {line.amount:,.3g} s, {notes.of(line.basis)}"
    if time.between:
        measured = all(line.basis.kind != "assumed" for line in _messages(time))
        yield (
            f"messages between devices: {time.between:,.3g} s of a step, {time.between / time.step:.0%}, "
            + ("measured" if measured else "assumed until --speeds has measured ones")
        )
    if time.evaluation:
        yield f"an evaluation: {total(time.evaluation):,.3g} s, {time.evaluations} of them between steps"
        yield from _amounts(time.evaluation, 1, "s", time.step, notes)
    yield (
        f"the run: {time.steps:,} steps in {time.days:,.2f} days, {time.device_hours:,.0f} device hours, "
        f"{time.tokens_per_second:,.0f} response tokens/s a device"
    )
    most = ", ".join(f"{line.name} ({phase}, {line.amount:,.3g} s)" for phase, line in time.largest())
    yield f"largest: {most}"


def _messages(time: TimePlan) -> list[Line]:
    return [line for lines in time.phases.values() for line in lines if line.between]


def _amounts(lines: Sequence[Line], unit: float, name: str, whole: float, notes: Notes) -> Iterator[str]:
    for line in lines:
        bar = "#" * round(BAR * max(line.amount, 0.0) / whole) if whole else ""
        yield f"  {line.name:38} {line.amount / unit:9,.2f} {name:3} {bar:{BAR}} {notes.of(line.basis)}"


def _findings(plan: JobPlan) -> Iterator[str]:
    for finding in plan.findings:
        yield f"\n{'will not work' if finding.certain else 'may not work'}: {finding.text}"


def _better(plan: JobPlan, better: Sequence[Proposal]) -> Iterator[str]:
    faster = [p for p in better if p.plan.time.step < 0.99 * plan.time.step]
    if faster:
        best = faster[0]
        gain = 1 - best.plan.time.step / plan.time.step
        yield (
            f"\nnearest better layout: {_named(best.changes)}: {best.plan.time.step:,.3g} s a step, {gain:.0%} less, "
            f"{_peak(best.plan) / GIB:,.1f} GiB a GPU"
        )


def _compared(compared: Sequence[Compared]) -> Iterator[str]:
    if compared:
        yield f"\n{'metric':38} {'planned':>10} {'measured':>10} {'error':>7}"
    for c in compared:
        error = "" if c.error is None else f"{c.error:.0%}"
        yield f"{c.metric:38} {c.planned:10,.3g} {c.measured:10,.3g} {error:>7} {c.unit}"


def _peak(plan: JobPlan) -> float:
    return max(total(lines) for lines in plan.memory.moments.values())


def _named(changes: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in changes.items())
