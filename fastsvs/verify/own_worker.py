"""The process in which a verifier of the user's own judges one response at a time.

Started by `fastsvs.workers` as `python -m fastsvs.verify.own_worker SOCKET MODULE:OBJECT`. An interval timer of CPU
time ends it when a judgement takes too long.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from fastsvs.verify.own import VERIFIERS, OwnVerifierFn, Problem, judgement
from fastsvs.verify.verdict import Verdict


def main(socket: int, name: str) -> None:
    """Answer each (response, problem, limit in seconds of CPU time) with a judgement until the other end of `socket` is
    closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    judge = VERIFIERS.get(name)
    with Connection(socket) as connection:
        connection.send_bytes(b'"ready"')
        while True:
            response, problem, seconds = json.loads(connection.recv_bytes())
            signal.setitimer(signal.ITIMER_PROF, seconds)
            answer = ask(judge, response, Problem(**problem))
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send_bytes(json.dumps(answer).encode())


def ask(judge: OwnVerifierFn, response: str, problem: Problem) -> dict[str, Any]:
    """Return the judgement, or `unverified` with the error where the function raised."""
    try:
        return judgement(judge(response, problem))
    except Exception as error:  # whatever a user's function does with what a model wrote
        return {"verdict": Verdict.UNVERIFIED, "note": {"error": f"{type(error).__name__}: {error}"[:1000]}}


if __name__ == "__main__":
    with suppress(EOFError, OSError):  # the trainer is gone
        main(int(sys.argv[1]), sys.argv[2])
