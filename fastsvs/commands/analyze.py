"""`fastsvs analyze`: what a run's samples say step by step, and what training did to the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fastsvs import distributed
from fastsvs.commands.token_analysis import token_figures
from fastsvs.dynamics import Change, WeightUpdate, compare, paired, sample_figures
from fastsvs.errors import UserError
from fastsvs.files import write_json
from fastsvs.policy import StoredWeights, open_model, open_weights, read_job
from fastsvs.stored_run import StoredRun

FIGURES = ("sparsity/exact", "sparsity/bf16", "sparsity/tolerance", "relative_change")
SHOWN = (
    *("distinct_answers/original", "distinct_answers/variant", "distinct_text/original", "variants_valid"),
    *("variants_positive", "variants_new", "variant_novelty"),
)
"""Figures of a step that its line shows."""


def analyze_models(before: str, after: str, tolerance: float, out: Path | None) -> dict[str, Any]:
    """Compare two models, runs or checkpoints: how many values differ, in all, by kind of weight and by layer."""
    update = difference(open_weights(before), open_weights(after), tolerance)
    result = {"before": before, "after": after, "tolerance": tolerance, **_tables(update)}
    for title in ("total", "by_module", "by_layer"):
        groups = {"all": result[title]} if title == "total" else result[title]
        _show(title.replace("_", " "), FIGURES, groups)
    if out:
        write_json(out, result)
    return result


def analyze_run(run: Path, tolerance: float, out: Path | None) -> dict[str, Any]:
    """Analyze every step's samples, and compare every kept checkpoint with the model that the run began with."""
    job, stored_run = read_job(run), StoredRun(run)
    steps = {step: sample_figures(list(stored_run.samples(step))) for step in stored_run.sample_files()}
    _show("samples by step", SHOWN, steps)
    base = open_model(job.model, job.run.seed)
    updates = {}
    for path in stored_run.checkpoints().values():
        stored = open_weights(path)
        updates[stored.step] = _tables(difference(base, stored, tolerance))
    _show("weights by step, against the first", FIGURES, {step: tables["total"] for step, tables in updates.items()})
    if not steps and not updates:
        raise UserError(f"{run} has neither samples nor checkpoints yet")
    result = {"run": str(run), "tolerance": tolerance, "steps": steps, "updates": updates}
    write_json(out or stored_run.layout.dynamics, result)
    return result


def analyze_step(run: Path, step: int, model: str, out: Path | None) -> dict[str, Any]:
    """Analyze under `model` the responses that a step of the run learned from, token by token."""
    figures = token_figures(run, step, model)
    result = {"run": str(run), "step": step, "model": model, "figures": figures}
    if distributed.is_main():
        _show(f"step {step} under {model}", ("value",), {name: {"value": value} for name, value in figures.items()})
        if out:
            write_json(out, result)
    return result


def difference(before: StoredWeights, after: StoredWeights, tolerance: float) -> WeightUpdate:
    """Compare two models tensor by tensor. Raises UserError for models of different architectures."""
    return compare(paired(before.hf_weights(), after.hf_weights()), tolerance)


def _tables(update: WeightUpdate) -> dict[str, Any]:
    def figures(groups: Mapping[str, Change]) -> dict[str, Any]:
        return {name: {"values": change.values, **change.figures()} for name, change in groups.items()}

    return {
        "total": {"values": update.total().values, **update.total().figures()},
        "by_module": figures(update.by_module()),
        "by_layer": figures(update.by_layer()),
    }


def _show(title: str, names: tuple[str, ...], rows: Mapping[Any, Mapping[str, float]]) -> None:
    shown = [name for name in names if any(name in row for row in rows.values())]
    if not shown:
        return
    table = Table("", *(re.sub("[/_]", " ", name) for name in shown), title=title)
    for name, row in rows.items():
        table.add_row(str(name), *(f"{row[key]:.4f}" if key in row else "-" for key in shown))
    Console().print(table)
