"""Plans of runs, from their plan.json, beside what the runs took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from fastsvs.planned import PEAK, Compared, Figure, compare
from fastsvs.report.compare import Arm
from fastsvs.report.folder import RunFiles


def planned(arm: Arm, runs: Sequence[RunFiles], names: Mapping[Path, str]) -> list[dict[str, Any]]:
    """Return the plans of an experiment, each once for all seeds that were given it: machines, assumptions, and figures
    beside the runs'. What was measured is the mean of the seeds, and memory the highest of them. Runs without a plan,
    or without steps to hold it against, have no part in it. `names` has the name of each run by its path."""
    plans: dict[tuple[str, str, frozenset[tuple[str, Figure]]], list[tuple[str, list[Compared]]]] = {}
    for run in (runs[index] for index in arm.runs):
        figures = _figures(run)
        if compared := compare(figures, run.metrics):
            plan = (_machines(run.plan), str(run.plan.get("lengths", "")), frozenset(figures.items()))
            plans.setdefault(plan, []).append((names[run.path], compared))
    return [
        {
            "name": members[0][0] if len(members) == 1 else f"{arm.label}, mean of {len(members)} seeds",
            "machines": machines,
            "lengths": lengths,
            "rows": [_row(each) for each in _by_metric([compared for _, compared in members])],
        }
        for (machines, lengths, _), members in plans.items()
    ]


def _figures(run: RunFiles) -> dict[str, Figure]:
    return {
        name: Figure(float(figure["value"]), str(figure["unit"]))
        for name, figure in _mapping(run.plan.get("figures")).items()
        if isinstance(figure, Mapping) and isinstance(figure.get("value"), int | float) and "unit" in figure
    }


def _machines(plan: Mapping[str, Any]) -> str:
    return "{nodes} x {gpus} {hardware}".format_map({"nodes": "?", "gpus": "?", "hardware": "?"} | dict(plan))


def _by_metric(runs: Sequence[Sequence[Compared]]) -> list[Compared]:
    """Return one comparison for each metric that some run has."""
    found: dict[str, list[Compared]] = {}
    for compared in (compared for run in runs for compared in run):
        found.setdefault(compared.metric, []).append(compared)
    return [
        Compared(metric, each[0].planned, _together(metric, [one.measured for one in each]), each[0].unit)
        for metric, each in found.items()
    ]


def _together(metric: str, values: Sequence[float]) -> float:
    return max(values) if metric.startswith(PEAK) else mean(values)


def _row(compared: Compared) -> dict[str, Any]:
    return {
        "metric": compared.metric,
        "planned": compared.planned,
        "measured": compared.measured,
        "unit": compared.unit,
        "error": compared.error,
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
