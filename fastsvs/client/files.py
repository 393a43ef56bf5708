"""Patience where this process runs short of files, memory or ports, which is no fault of a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastsvs.errors import EngineFailure
from fastsvs.open_files import EXHAUSTED, shortage

T = TypeVar("T")
FILES_SECONDS = 60.0
"""Longest wait for somebody to give them back, in seconds."""


async def with_files(attempt: Callable[[], Awaitable[T]], what: str) -> T:
    """Make the attempt again until this process gets the files and whatever else it needs. Raises EngineFailure, which
    names `what` was attempted, after FILES_SECONDS; otherwise what the attempt raises."""
    deadline = time.monotonic() + FILES_SECONDS
    while True:
        try:
            return await attempt()
        except OSError as error:
            if error.errno is None or error.errno not in EXHAUSTED:
                raise
            if time.monotonic() > deadline:
                raise EngineFailure(shortage(what, error.errno)) from error
        await asyncio.sleep(FILES_SECONDS / 100)
