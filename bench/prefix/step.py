"""Time of the updates of whole runs of `fastsvs train`, with and without shared prompts, in turn."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from bench.prefix.update import PROVIDERS
from bench.report import Row

TIMES = {"time/update": "update", "time/step": "step"}


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of one configuration. Both ways sample the same and learn the same, step after step."""

    config: str = "configs/tiny_svs.yaml"
    steps: int = 4
    repeats: int = 3

    def __str__(self) -> str:
        return f"{self.config}, steps 2 to {self.steps}"


def measure_runs(case: Runs, folder: Path) -> Iterator[Row]:
    """Yield the medians over the runs of the mean seconds of a step, the first step left out, and their ratios. Raises
    subprocess.CalledProcessError where a run fails."""
    found: dict[str, list[dict[str, float]]] = {provider: [] for provider in PROVIDERS}
    for repeat in range(case.repeats):
        for provider, share in PROVIDERS.items():
            found[provider].append(_run(case, share, folder / f"{provider}-{repeat}"))
    medians = {provider: {key: median(run[key] for run in runs) for key in runs[0]} for provider, runs in found.items()}
    for key, name in TIMES.items():
        for provider, values in medians.items():
            yield Row(str(case), provider, name, values[key], "s")
        yield Row(str(case), "unshared over shared", name, medians["unshared"][key] / medians["shared"][key], "x")
    yield Row(str(case), "shared", "tokens saved", 100 * medians["shared"]["policy/tokens_saved"], "%")


def _run(case: Runs, share: bool, folder: Path) -> dict[str, float]:
    settings = {
        "run.dir": folder,
        "run.steps": case.steps,
        "run.save_every": case.steps,
        "policy.shared_prefix": str(share).lower(),
        "evaluation.every": 0,
        "evaluation.samples": 1,
        "evaluation.k": "[1]",
        "dynamics.every": 1000,
    }
    arguments = [f"{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "fastsvs", "train", case.config, *arguments]
    subprocess.run(command, check=True, timeout=1800, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][1:]
    return {key: fmean(row[key] for row in rows) for key in (*TIMES, "policy/tokens_saved")}
