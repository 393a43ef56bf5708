"""What a run was planned to take beside what it took, from its plan.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastsvs.planned import Figure, compare
from fastsvs.report.folder import RunFiles


def planned(run: RunFiles) -> dict[str, Any] | None:
    """Return the plan's machines and assumptions, and its figures beside the run's; None for a run without a plan, or
    without steps to hold it against."""
    figures = {
        name: Figure(float(figure["value"]), str(figure["unit"]))
        for name, figure in _mapping(run.plan.get("figures")).items()
        if isinstance(figure, Mapping) and isinstance(figure.get("value"), int | float) and "unit" in figure
    }
    compared = compare(figures, run.metrics)
    if not compared:
        return None
    return {
        "machines": "{nodes} x {gpus} {hardware}".format_map({"nodes": "?", "gpus": "?", "hardware": "?"} | run.plan),
        "lengths": str(run.plan.get("lengths", "")),
        "rows": [
            {"metric": c.metric, "planned": c.planned, "measured": c.measured, "unit": c.unit, "error": c.error}
            for c in compared
        ],
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
