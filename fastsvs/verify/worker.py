"""The process in which one answer at a time is compared with the right one by math-verify (sympy).

Started by `fastsvs.workers` as `python -m fastsvs.verify.worker SOCKET SECONDS`. Some answers (power towers, huge
factorials) keep sympy busy forever inside C code that no Python handler interrupts. The deadline is therefore an
interval timer with the default action: the kernel ends this process. It runs only while an answer is being checked.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
from contextlib import suppress
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fastsvs.verify.answers import boxed_content, without_full_stop
from fastsvs.verify.verdict import Verdict

MEMORY_BYTES = 2 * 1024**3
"""Limit of a worker's address space, in bytes."""
START_SECONDS = 120.0
"""Limit for importing math-verify, in seconds."""


def main(socket: int, seconds: float) -> None:
    """Answer each (answer, gold) with a verdict until the other end of `socket` is closed. `seconds` limits each
    check."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    logging.disable(logging.CRITICAL)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.setitimer(signal.ITIMER_REAL, START_SECONDS)
    check("\\boxed{\\frac{1}{2}}", "0.5")
    signal.setitimer(signal.ITIMER_REAL, 0)
    with Connection(socket) as connection:
        connection.send_bytes(b'"ready"')
        while True:
            answer, gold = json.loads(connection.recv_bytes())
            signal.setitimer(signal.ITIMER_REAL, seconds)
            verdict = check(answer, gold)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send_bytes(json.dumps(verdict).encode())


def check(answer: str, gold: str) -> Verdict:
    """Check whether the answer (see `answers.final_answer`) is equal to the gold answer.

    Returns UNVERIFIED when the gold answer cannot be parsed, when comparing fails, or when memory ran short on the way
    (sympy and math-verify swallow MemoryError and would call the answer wrong).
    """
    from math_verify import verify

    peak = _peak_memory()
    expected = _parse_gold(gold)
    found = _parse(answer)
    try:
        equal = verify(expected, found, timeout_seconds=None, raise_on_error=True)
        compared = any(not isinstance(expression, str) for expression in expected)
    except Exception:
        equal = verify(expected, found, timeout_seconds=None)
        compared = False
    if equal:
        return Verdict.CORRECT
    short_of_memory = _peak_memory() > max(peak, MEMORY_BYTES // 4)
    return Verdict.WRONG if compared and not short_of_memory else Verdict.UNVERIFIED


@lru_cache(maxsize=4096)
def _parse_gold(gold: str) -> list[Any]:
    text = without_full_stop(gold)
    if len(text) > 1 and text[0] == text[-1] == "$":
        text = text.strip("$")
    return _parse(text if boxed_content(text) else f"\\boxed{{{text}}}") if text else []


def _parse(text: str) -> list[Any]:
    from math_verify import parse

    content = boxed_content(text)
    return parse(text if content is None else f"\\boxed{{{without_full_stop(content)}}}", parsing_timeout=None)


def _peak_memory() -> int:
    """Return the largest resident size of this process so far in bytes, or 0 where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    with suppress(EOFError, OSError):  # the trainer is gone
        main(int(sys.argv[1]), float(sys.argv[2]))
