"""Facts of a single run or evaluation: model, data, date, commit, hardware and machines, command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fastsvs.report.naming import shown


def facts(config: Mapping[str, Any], environment: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts by their names, those that the files hold. `config` has dotted keys; the plan of a run says on
    how many machines it began."""
    found = {
        "Model": shown(config, "model.path"),
        "From run": config.get("model.from_run"),
        "Data": ", ".join(data) if (data := _data(config)) else None,
        "Held-out data": config.get("evaluation.path"),
        "Date": _date(environment.get("date")),
        "Commit": environment.get("commit"),
        "Hardware": _hardware(environment),
        "Machines": _machines(plan),
        "Command": environment.get("command"),
    }
    return {name: str(value) for name, value in found.items() if value}


def _data(config: Mapping[str, Any]) -> list[str]:
    """Return the data of a run, or of all sets of an evaluation."""
    paths = [key for key in config if key == "data.path" or (key.startswith("sets.") and key.endswith(".data.path"))]
    return list(dict.fromkeys(str(config[key]) for key in paths))


def _date(value: Any) -> str | None:
    try:
        return datetime.fromisoformat(str(value)).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError):
        return None


def _hardware(environment: Mapping[str, Any]) -> str | None:
    """Return the GPUs that the first process saw, or how many threads of a CPU it had."""
    gpus = environment.get("gpus")
    if isinstance(gpus, list) and gpus:
        return ", ".join(f"{count} × {name}" for name, count in Counter(map(str, gpus)).items())
    threads, platform = environment.get("threads"), environment.get("platform")
    if not platform and not threads:
        return None
    count = f"{threads} thread{'' if threads == 1 else 's'} a process" if threads else ""
    return ", ".join(part for part in ("CPU", count, str(platform or "")) if part)


def _machines(plan: Mapping[str, Any]) -> str | None:
    nodes, gpus, hardware = plan.get("nodes"), plan.get("gpus"), plan.get("hardware")
    if not isinstance(nodes, int) or not isinstance(gpus, int):
        return None
    processes = f"{gpus} process{'' if gpus == 1 else 'es'}" if hardware == "cpu" else f"{gpus} × {hardware}"
    return f"{nodes}, with {processes}{'' if nodes == 1 else ' each'}"
