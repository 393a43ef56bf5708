"""Runs one untrusted program in a process that is already confined, and writes its outcome."""

from __future__ import annotations

import ast
import io
import json
import os
import sys
from typing import Any

from fastsvs.sandbox.values import NotPlainError, encode

REPLY_MARGIN = 4096
"""Bytes of a reply beside values and printed text."""
MESSAGE_CHARACTERS = 300
STATUSES = ("ok", "error", "memory", "output")
"""Statuses that a program's process can give itself."""


def run(job: dict[str, Any], output_characters: int, reply: int) -> None:
    """Run `job` and write its outcome as JSON to the file descriptor `reply`.

    `job` has source, entry (None makes the inputs the results) and inputs, each the arguments of one call as literal
    text. The program may take over everything in here; nothing that it can write does harm.
    """
    printed = _Printed(output_characters)
    sys.stdout = sys.stderr = printed
    outcome = _outcome(job, output_characters)
    outcome |= {"printed": printed.text(), "printed_characters": printed.total}
    data = json.dumps(outcome).encode()
    while data:
        data = data[os.write(reply, data) :]


def _outcome(job: dict[str, Any], output_characters: int) -> dict[str, Any]:
    values: list[Any] = []
    try:
        names: dict[str, Any] = {"__name__": "program"}
        if job["source"]:
            exec(compile(job["source"], "<program>", "exec"), names)
        for text in job["inputs"]:
            arguments = ast.literal_eval(f"({text},)" if text.strip() else "()")
            if job["entry"] is None:
                (value,) = arguments
            else:
                value = names[job["entry"]](*arguments)
            values.append(encode(value, output_characters))
    except MemoryError:
        return {"status": "memory", "detail": "", "values": values}
    except NotPlainError as error:
        return {"status": "output", "detail": str(error), "values": values}
    except BaseException as error:  # SystemExit, KeyboardInterrupt and what a program makes up
        return {"status": "error", "detail": _describe(error), "values": values}
    return {"status": "ok", "detail": "", "values": values}


def _describe(error: BaseException) -> str:
    """Return the type of an error and, if it can be had, its message; the error's own code may fail too."""
    try:
        return f"{type(error).__name__}: {error}"[:MESSAGE_CHARACTERS]
    except BaseException:
        return type(error).__name__[:MESSAGE_CHARACTERS]


class _Printed(io.TextIOBase):
    """Text stream that keeps the first `limit` characters and counts all of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[str] = []
        self.total = 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        room = self._limit - self.total
        if room > 0:
            self._parts.append(text[:room])
        self.total += len(text)
        return len(text)

    def text(self) -> str:
        return "".join(self._parts)
