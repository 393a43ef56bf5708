"""The process in which one answer at a time is compared with the right one by math-verify (sympy).

Started by `fastsvs.workers` as `python -m fastsvs.verify.worker SOCKET`. Some answers (huge binomials, sums) keep
sympy busy forever, at times inside C code that no Python handler interrupts. The limit is therefore an interval timer
of CPU time with the default action: the kernel ends this process. It runs only while an answer is being checked, and
counts what this process computes, however busy the machine is.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from fastsvs.verify.verdict import Verdict

MEMORY_BYTES = 2 * 1024**3
"""Limit of a worker's address space, in bytes."""
MOST_DIGITS = 20_000
"""Number of digits of an integer that Python converts from text."""
WARMING = ("\\boxed{\\frac{\\sqrt{2}x^2-1}{2\\pi}}", "\\sqrt{3}x(y+1)")
"""Answer and gold answer that make the parser load its tables."""


def main(socket: int) -> None:
    """Answer each (answer, gold, limit in seconds of CPU time) with a verdict until the other end of `socket` is
    closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    sys.set_int_max_str_digits(MOST_DIGITS)
    logging.disable(logging.CRITICAL)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    check(*WARMING)
    with Connection(socket) as connection:
        connection.send_bytes(b'"ready"')
        while True:
            answer, gold, seconds = json.loads(connection.recv_bytes())
            signal.setitimer(signal.ITIMER_PROF, seconds)
            verdict = check(answer, gold)
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send_bytes(json.dumps(verdict).encode())


def check(answer: str, gold: str) -> Verdict:
    """Check whether the answer (see `answers.final_answer`) is equal to the gold answer. Returns UNVERIFIED also when
    memory ran short on the way, as sympy swallows MemoryError."""
    from fastsvs.verify.judge import judge

    peak = _peak_memory()
    verdict = judge(answer, gold)
    short_of_memory = _peak_memory() > max(peak, MEMORY_BYTES // 4)
    return Verdict.UNVERIFIED if verdict is Verdict.WRONG and short_of_memory else verdict


def _peak_memory() -> int:
    """Return the largest resident size of this process so far in bytes, or 0 where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    with suppress(EOFError, OSError):  # the trainer is gone
        main(int(sys.argv[1]))
