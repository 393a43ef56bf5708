"""`python -m bench.plan.page`: writes the figures of docs/plan.md anew, between marks, and draws its pictures.

The text around them is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from bench.plan import published
from bench.plan.figure import Panel, draw_memory, draw_time, memory_panel, time_panel
from bench.plan.shipped import Shipped, shipped
from bench.report import Row, read
from fastsvs.plan import GIB, Machines, assumed_step, neighbours, proposals, read_hardware, show, total

PAGE = Path(__file__).parents[2] / "docs" / "plan.md"
RESULTS = Path(__file__).parents[1] / "results" / "plan-amd-epyc-2-cores-2026-11-27.json"
PICTURES = {"memory": "plan-memory.png", "time": "plan-time.png"}
SHOWN = ("qwen2.5_3b_svs", "llama3.1_8b_svs", "qwen2.5_32b_svs", "qwen2.5_32b_svs_colocated")
ADAPTERS = "qwen2.5_32b_svs_lora"
LONG = "qwen3_8b_32k_svs"
MARKED = re.compile(r"<!-- python -m bench\.plan\.page: (\w+) -->\n.*?<!-- end -->", re.DOTALL)
SOURCES = re.compile(r"\n\n\[1\] .*", re.DOTALL)


def main() -> None:
    folder = PAGE.parent
    capacity = read_hardware("h100").memory / GIB
    draw_memory(folder / PICTURES["memory"], panels("memory"), capacity)
    draw_time(folder / PICTURES["time"], panels("time"))
    PAGE.write_text(document(PAGE.read_text()))
    print(f"written: {PAGE} and its pictures")


def document(page: str) -> str:
    """Return the page with all that stands between marks made anew."""
    parts = {"example": example, "shipped": shipped_table, "errors": error_table, "published": published_table}
    parts["long"] = long_table
    begin, end = "<!-- python -m bench.plan.page: {} -->", "<!-- end -->"
    return MARKED.sub(lambda found: f"{begin.format(found[1])}\n{parts[found[1]]()}\n{end}", page)


def panels(picture: str) -> list[Panel]:
    """Return what a picture shows."""
    make = {"memory": memory_panel, "time": time_panel}[picture]
    return [make(name, _where(shipped(name)), shipped(name).plan()) for name in SHOWN]


def example() -> str:
    """Return the plan of the 3B configuration as the command prints it, without its sources."""
    one = shipped(SHOWN[0])
    step = assumed_step(one.job)
    text = SOURCES.sub("", show(one.plan(), better(one)))
    head = (
        f"{one.job.model.path} on {one.cluster.nodes} x {one.cluster.gpus} h100\n"
        f"a step: {step.samples:,} responses, {step.response_tokens / step.samples:,.0f} tokens each, "
        f"{sum(len(group.responses) for group in step.learned):,} learned from\n"
    )
    lines = "\n".join(line.rstrip() for line in (head + text).splitlines())
    return f"\n```\n{lines}\n```\n"


def shipped_table() -> str:
    """Return what the shipped configurations take."""
    heads = ["configuration", "machines", "update", "rollout or server", "host of a node", "disk"]
    heads += ["a step", "the run", "largest", "nearest better change"]
    return "\n" + table(heads, [_row(shipped(name)) for name in (*SHOWN, ADAPTERS)]) + "\n"


def long_table() -> str:
    """Return what long rows take with and without context parallelism."""
    one, rows = shipped(LONG), []
    for tokens, context in product((32_768, 65_536, 131_072), (1, 2, 4)):
        changes = {"policy.context_parallel": context, "policy.tokens_per_micro_batch": tokens}
        changes["rollout.max_response_tokens"] = tokens - one.job.data.max_prompt_tokens
        plan = one.plan(**changes)
        update, capacity = total(plan.memory.moments["update"]) / GIB, plan.memory.capacity / GIB
        seconds = f"{total(plan.time.phases['update']):,.0f} s"
        degrees = f"{plan.memory.layout.degrees} x DP {plan.memory.layout.data}"
        rows.append([f"{tokens:,}", degrees, f"{update:.1f} GiB", seconds if update <= capacity else "does not fit"])
    return "\n" + table(["tokens of a row", "layout", "a GPU in an update", "all updates of a step"], rows) + "\n"


def error_table() -> str:
    """Return the measured figures of the results beside the planned ones."""
    rows = []
    for case, provider, metric, unit, value, planned, note in pairs(read(RESULTS)):
        if provider == "measured":
            rows.append(
                [f"{case}: {metric}", _amount(value, unit), _amount(planned, unit), _error(planned, value), note]
            )
    return "\n" + table(["case", "measured", "planned", "error", ""], rows) + "\n"


def published_table() -> str:
    """Return what others have published beside what is planned of our trainer, and what was assumed."""
    rows = []
    for point in published.points():
        planned = point.plan()
        name = f"{point.case}: {point.metric}"
        cells = [_amount(point.value, point.unit), _amount(planned, point.unit), _error(planned, point.value)]
        rows.append([name, f"[{point.provider}]({point.source.split(',')[0]})", *cells])
    told: dict[str, str] = {}
    for point in published.points():
        told.setdefault(point.provider.split(",")[0], f"{point.assumptions}. Off because {point.why}.")
    notes = "\n".join(f"- **{provider}**: {text}" for provider, text in told.items())
    return "\n" + table(["work", "published by", "published", "planned of ours", "difference"], rows) + f"\n\n{notes}\n"


def pairs(rows: Sequence[Row]) -> Iterable[tuple[str, str, str, str, float, float, str]]:
    """Yield each row that is not planned with its planned value: case, provider, metric, unit, both values, note."""
    planned = {(row.case, row.metric): row.value for row in rows if row.provider == "planned"}
    for row in rows:
        if row.provider != "planned":
            note = row.note or ""
            yield row.case, row.provider, row.metric, row.unit, row.value, planned[row.case, row.metric], note


def better(one: Shipped) -> list:
    """Return the neighbouring layouts of a configuration that fit, the fastest first."""
    job = one.job
    machines = Machines(one.cluster, read_hardware("h100"))
    return proposals(one.architecture, job, machines, assumed_step(job), neighbours(job))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]).replace("|  |", "| |")


def _row(one: Shipped) -> list[str]:
    plan = one.plan()
    memory, time = plan.memory, plan.time
    largest = {moment: total(lines) / GIB for moment, lines in memory.moments.items()}
    engine = largest.get("rollout") or largest["serving"]
    [(_, line)] = time.largest(1)
    faster = [p for p in better(one) if p.plan.time.step < 0.99 * time.step][:1]
    change = "none"
    for proposal in faster:
        keys = " ".join(f"{key}={value}" for key, value in proposal.changes.items())
        change = f"`{keys}`: {proposal.plan.time.step:,.0f} s"
    return [
        f"`{one.name}`",
        f"{one.cluster.nodes} x {one.cluster.gpus}",
        f"{largest['update']:.1f} GiB",
        f"{engine:.1f} GiB",
        f"{total(memory.host) / GIB:,.0f} GiB",
        f"{total(memory.disk) / GIB:,.0f} GiB",
        f"{time.step:,.0f} s",
        f"{time.days:.1f} days, {time.device_hours:,.0f} GPU-hours",
        f"{line.name}, {line.amount:,.0f} s",
        change,
    ]


def _where(one: Shipped) -> str:
    layout = one.plan().memory.layout
    return f"{one.cluster.nodes} x {one.cluster.gpus} H100, {layout.degrees} x DP {layout.data}"


def _amount(value: float, unit: str) -> str:
    return f"{1000 * value:.2g} ms" if unit == "s" and value < 0.01 else f"{value:.3g} {unit}"


def _error(planned: float, value: float) -> str:
    return f"{planned / value - 1:+.0%}"


if __name__ == "__main__":
    main()
