"""Trains and evaluates what is not there yet: `fastsvs` in processes of one thread each, several side by side."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bench.reproduce.plan import Evaluated, Plan, Run
from fastsvs.errors import UserError

Say = Callable[[str], None]


def finish(plan: Plan, root: Path, workers: int, say: Say = print) -> None:
    """Leave no run untrained and no checkpoint unevaluated in `root`: what is done is not done again, what was killed
    goes on where it stopped. Raises UserError with the end of the log when a process fails."""
    with ThreadPoolExecutor(workers) as pool:
        for work in (plan.runs(root), plan.evaluations(root)):
            list(pool.map(partial(_make, say=say), work))


def _make(work: Run | Evaluated, say: Say) -> None:
    if work.result.exists():
        return
    log = work.folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "fastsvs", *work.arguments()]
    with log.open("ab") as output:
        ended = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=_environment(), check=False)
    if ended.returncode:
        end = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise UserError(f"{work.folder} failed with exit status {ended.returncode}; the end of {log}:\n{end}")
    say(f"done: {work.folder}")


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}
