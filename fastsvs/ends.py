"""How a process ends with a message when it is one of many: once for the whole job, and without tracebacks of others.

The processes of a job that torchrun started meet in its store, which outlives them. There the first one with a message
is told from those that only repeat it, and a process that loses its peers finds out that one of them has said why.
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from fastsvs.errors import UserError
from fastsvs.output import say

if TYPE_CHECKING:
    from torch.distributed import Store

FAILED = "failed"
HEAD_START = timedelta(seconds=2)
"""Time for the process that knows why to say so before the others."""
PATIENCE = timedelta(seconds=10)
"""Longest wait until the process that is first with a message has printed it."""


def say_once(text: str) -> None:
    """Print `text` on stderr, unless another process of the job has."""
    shared = _store_of_the_job()
    key = f"{FAILED}/{hashlib.sha256(text.encode(errors='replace')).hexdigest()}"
    if shared is not None:
        with suppress(RuntimeError):  # a store that is gone: better twice than never
            shared.set(FAILED, "")
            if shared.add(key, 1) > 1:
                shared.wait([f"{key}/said"], PATIENCE)
                return
    say(text)
    if shared is not None:
        with suppress(RuntimeError):
            shared.set(f"{key}/said", "")


def another_has_said_why() -> bool:
    """Return True where another process of the job has ended with a message, or does so at once, which explains why
    this one failed."""
    shared = _store_of_the_job()
    if shared is None:
        return False
    try:
        shared.wait([FAILED], HEAD_START)
    except RuntimeError:
        return False
    return True


def tell_torchrun(error: BaseException) -> None:
    """Write the error where torchrun looks for the reason of a failure, and say in this rank's log which collective was
    the last one that it entered."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        handler = get_error_handler()
        handler.initialize()
        handler.record_exception(error)
    if "fastsvs.distributed" in sys.modules:
        from fastsvs import distributed

        if (last := distributed.last_collective()) and not isinstance(error, UserError):
            say(f"fastsvs: rank {distributed.rank()}: {last}")


def _store_of_the_job() -> Store | None:
    """Return the store of torchrun's agent, or None for a process that was started in another way."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from fastsvs import distributed  # imports torch, which a plain start needs not wait for

    with suppress(RuntimeError):
        return distributed.store()
    return None
