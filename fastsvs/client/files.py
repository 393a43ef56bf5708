"""Patience where this process may open no more files, which is no fault of a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastsvs.errors import EngineFailure
from fastsvs.open_files import EXHAUSTED, too_many_files

T = TypeVar("T")
FILES_SECONDS = 60.0
"""Longest wait for a file to be closed, in seconds."""


async def with_files(attempt: Callable[[], Awaitable[T]], what: str) -> T:
    """Make the attempt again until this process may open the files that it needs. Raises EngineFailure, which names
    `what` was attempted, after FILES_SECONDS; otherwise what the attempt raises."""
    deadline = time.monotonic() + FILES_SECONDS
    while True:
        try:
            return await attempt()
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            if time.monotonic() > deadline:
                raise EngineFailure(too_many_files(what)) from error
        await asyncio.sleep(FILES_SECONDS / 100)
