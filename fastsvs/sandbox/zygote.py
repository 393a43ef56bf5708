"""The process from which every program's process is forked: isolated once, with the standard library loaded.

Started by `fastsvs.sandbox.pool` as `python -m fastsvs.sandbox.zygote SOCKET SECONDS MEMORY OUTPUT`. Forking takes a
millisecond where starting Python takes twenty. It first reports which walls stand, then answers jobs, one at a time.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from fastsvs.sandbox import program
from fastsvs.sandbox.isolation import confine, enclose

LIBRARY = (
    *("abc", "array", "ast", "base64", "binascii", "bisect", "calendar", "cmath", "collections", "collections.abc"),
    *("copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "itertools"),
    *("json", "math", "numbers", "operator", "random", "re", "statistics", "string", "struct", "textwrap", "time"),
    *("types", "typing", "unicodedata"),
)
"""Modules that programs can import; there is no file to load another one from."""


def main(socket: int, seconds: float, memory_bytes: int, output_characters: int) -> None:
    """Answer jobs until the other end of `socket` is closed; each may take `seconds` and `memory_bytes`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in LIBRARY:
        importlib.import_module(name)
    sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") == "BuiltinImporter"]
    sys.path.clear()
    walls = enclose()
    gc.collect()
    gc.freeze()  # a program's collections must not copy every page that it shares with this process
    with Connection(socket) as connection:
        connection.send_bytes(json.dumps(asdict(walls)).encode())
        while True:
            job = json.loads(connection.recv_bytes())
            began = time.perf_counter()
            outcome = _run(job, connection.fileno(), seconds, memory_bytes, output_characters)
            connection.send_bytes(json.dumps(outcome | {"seconds": time.perf_counter() - began}).encode())


def _run(job: dict[str, Any], socket: int, seconds: float, memory_bytes: int, output_characters: int) -> dict[str, Any]:
    """Run a job in a process that does nothing else, and return its outcome."""
    theirs, ours = os.pipe()
    child = os.fork()
    if child == 0:
        os.closerange(0, ours)
        os.closerange(ours + 1, max(ours, socket) + 64)
        with suppress(BaseException):
            confine(memory_bytes, int(seconds) + 1)
            program.run(job, output_characters, ours)
        os._exit(0)
    os.close(ours)
    try:
        reply = _read(theirs, seconds, 16 * output_characters + program.REPLY_MARGIN)
    finally:
        os.close(theirs)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    return _judge(reply, os.waitstatus_to_exitcode(status))


def _read(pipe: int, seconds: float, limit: int) -> bytes | None:
    """Read all that is written until the other end closes, and stop after about `limit` bytes. Return None when that
    takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    data = b""
    while len(data) <= limit:
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        part = os.read(pipe, 1 << 16)
        if not part:
            return data
        data += part
    return data


def _judge(reply: bytes | None, status: int) -> dict[str, Any]:
    if status == -signal.SIGSYS:
        return _failure("forbidden", "asked the system for a process, the network, a signal or the like")
    if reply is None or status == -signal.SIGXCPU:
        return _failure("timeout", "")
    with suppress(ValueError, RecursionError):
        outcome = json.loads(reply)
        if isinstance(outcome, dict) and outcome.get("status") in program.STATUSES:
            return outcome
    return _failure("crashed", f"ended with status {status} and {len(reply)} bytes that are no outcome")


def _failure(status: str, detail: str) -> dict[str, Any]:
    return {"status": status, "detail": detail, "values": [], "printed": "", "printed_characters": 0}


if __name__ == "__main__":
    with suppress(EOFError, OSError):  # the trainer is gone
        main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
