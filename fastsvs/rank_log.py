"""What each rank prints, kept in the run folder: `logs/attempt_K/rank_R.log`.

The output of a process goes through a `tee` of its own, which outlives it: what NCCL or a dying interpreter prints last
is kept too. A terminal keeps its live display; the lines above it are copied instead. NCCL's flight recorder is told to
write its account of the last collectives there when one times out.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

from fastsvs.errors import UserError

CLOSE_SECONDS = 5.0
"""Longest wait at the end of a process for what it printed to be written, in seconds."""
RECORDED = 2000
"""Number of collectives that NCCL's flight recorder remembers."""
FORMER_NAMES = {
    "TORCH_FR_BUFFER_SIZE": "TORCH_NCCL_TRACE_BUFFER_SIZE",
    "TORCH_FR_DUMP_TEMP_FILE": "TORCH_NCCL_DEBUG_INFO_TEMP_FILE",
}
"""Former names of variables, which torch still reads, with a warning from every rank."""
_owned = False
_log: _RankLog | None = None


def own_process() -> None:
    """Say that this process is a command's own, so that its output may be redirected."""
    global _owned
    _owned = True


def start(logs: Path) -> None:
    """Keep what this rank prints from now on in the folder `logs`, once in a process. Collective. Does nothing in a
    process that belongs to somebody else. Raises UserError where the folder cannot be made."""
    global _log
    if not _owned or _log is not None:
        return
    from fastsvs import distributed  # imports torch, for which the command line does not wait

    attempts = [int(path.name.removeprefix("attempt_")) for path in logs.glob("attempt_*")]
    folder = logs / f"attempt_{distributed.broadcast(max(attempts, default=0) + 1)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    _set(os.environ, "TORCH_FR_DUMP_TEMP_FILE", str(folder / "nccl_trace_rank_"))
    _log = _RankLog(folder / f"rank_{distributed.rank()}.log")
    atexit.register(close)


def note(line: str) -> None:
    """Add a line that was printed on a terminal."""
    if _log is not None:
        _log.note(line)


def close() -> None:
    """Give the process its own output back, and wait until all that it printed is written."""
    global _log
    if _log is not None:
        log, _log = _log, None
        log.close()


def set_flight_recorder(environment: MutableMapping[str, str]) -> None:
    """Set what NCCL's process groups read when they are made, where the user has not."""
    _set(environment, "TORCH_FR_BUFFER_SIZE", str(RECORDED))
    _set(environment, "TORCH_NCCL_DUMP_ON_TIMEOUT", "1")


def _set(environment: MutableMapping[str, str], name: str, value: str) -> None:
    """Set a variable unless the user has, by its former name or this one."""
    if FORMER_NAMES.get(name, name) not in environment:
        environment.setdefault(name, value)


class _RankLog:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._taken: list[tuple[int, int, subprocess.Popen[bytes]]] = []
        """File descriptors that go through a tee: (number, what it was, tee)."""
        self._terminal = os.isatty(1)
        for number in (2,) if self._terminal else (1, 2):
            with suppress(OSError):  # a system without tee: the log has the lines that are noted
                self._take(number)

    def note(self, line: str) -> None:
        if self._terminal or not self._taken:
            with suppress(OSError), open(self._path, "a", encoding="utf-8") as file:
                file.write(f"{line}\n")

    def close(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, before, tee in self._taken:
            os.dup2(before, number)
            os.close(before)
            with suppress(subprocess.TimeoutExpired):  # a process that was left behind still prints
                tee.wait(CLOSE_SECONDS)

    def _take(self, number: int) -> None:
        reading, writing = os.pipe()
        before = os.dup(number)
        try:
            command = ["tee", "-ia", str(self._path)]
            tee = subprocess.Popen(
                command, stdin=reading, stdout=before, stderr=subprocess.DEVNULL, start_new_session=True
            )
        except OSError:
            os.close(before)
            os.close(writing)
            raise
        finally:
            os.close(reading)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(writing, number)
        os.close(writing)
        self._taken.append((number, before, tee))
