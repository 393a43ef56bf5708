"""Training runs as a user starts them: processes that are watched, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastsvs.errors import UserError
from fastsvs.stored_run import StoredRun

MARK = "FASTSVS_BENCH_MARK"
"""Environment variable that all processes of a run inherit: so they are found whoever their parent is."""
LOOK_SECONDS = 0.05
SMALL = (
    "data.limit=64",
    "rollout.samples_per_prompt=4",
    "selfplay.variants_per_context=2",
    "selfplay.samples_per_variant=4",
    "evaluation.limit=8",
    "evaluation.samples=2",
    "evaluation.k=[1,2]",
    "run.prompts_per_step=8",
)
"""Overrides that shrink a self-play run to seconds, for the suite `smoke`."""


class TrainingRun:
    """`fastsvs train CONFIG OVERRIDES...` in `folder`, in a process of its own."""

    def __init__(self, folder: Path, config: str, overrides: Sequence[str], variables: Mapping[str, str] = {}) -> None:
        self.folder = folder
        self.stored = StoredRun(folder)
        self._words = [sys.executable, "-m", "fastsvs", "train", config, *overrides, f"run.dir={folder}"]
        self._mark = uuid.uuid4().hex
        self._environment = {**os.environ, **variables, MARK: self._mark}
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder.with_name(folder.name + ".log")

    def start(self) -> None:
        """Begin, or go on where the run stopped."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._words, env=self._environment, stdout=log, stderr=log)

    def rows(self) -> list[dict[str, Any]]:
        """Return the metrics of the steps that are done."""
        return self.stored.metrics()

    def evaluations(self) -> dict[int, dict[str, Any]]:
        """Return the held-out figures by step."""
        return self.stored.evaluations()

    def wait_for(self, seen: Callable[[], object], seconds: float) -> float:
        """Wait until `seen()`, and return the seconds that took.

        Raises UserError when the run ends before that, or takes longer than `seconds`.
        """
        began = time.monotonic()
        while not seen():
            if self._process is not None and self._process.poll() is not None:
                raise UserError(f"the run ended with exit status {self._process.returncode}: {self._end_of_log()}")
            if time.monotonic() - began > seconds:
                raise UserError(f"after {seconds:.0f} s the run is not there yet: {self._end_of_log()}")
            time.sleep(LOOK_SECONDS)
        return time.monotonic() - began

    def finish(self, seconds: float) -> bool:
        """Wait for its end, and tell whether it came to it by itself.

        A run that takes longer is stopped, and what it has is kept. Raises UserError when it failed.
        """
        assert self._process is not None
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        if status:
            raise UserError(f"the run ended with exit status {status}: {self._end_of_log()}")
        return True

    def kill(self) -> None:
        """Send SIGKILL to the trainer, as the kernel does where memory is short."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def processes(self, named: str = "") -> list[int]:
        """Return the ids of the run's processes whose command line or name holds `named`."""
        return [pid for pid in _all_processes() if self._marked(pid) and named in _name(pid)]

    def clear(self, seconds: float = 60.0) -> float:
        """Wait until no process is left, and return the seconds that took.

        Raises UserError for what outlives its trainer for longer.
        """
        began = time.monotonic()
        while left := self.processes():
            if time.monotonic() - began > seconds:
                raise UserError(f"{len(left)} processes of {self.folder.name} outlived their trainer: {left}")
            time.sleep(LOOK_SECONDS)
        return time.monotonic() - began

    def _marked(self, pid: int) -> bool:
        with suppress(OSError):
            return f"{MARK}={self._mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return False

    def _end_of_log(self) -> str:
        logs = [self._log, *sorted(self.stored.layout.servers.glob("*.log"))]
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs if log.exists())


def _all_processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _name(pid: int) -> str:
    """Return a process's own name and its command line."""
    texts = []
    for file in ("comm", "cmdline"):
        with suppress(OSError):
            texts.append(Path(f"/proc/{pid}/{file}").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return " ".join(texts)
