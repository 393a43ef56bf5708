"""Early ends: SIGTERM, as schedulers and torchrun send it, and SIGUSR1, Slurm's warning.

The first signal is noted, and the job ends where it can: before the next step, or in the middle of a rollout. It saves
the steps that are done and raises Preempted on all ranks. The second signal ends the process at once. A command takes
Ctrl-C as such a signal, too.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

from fastsvs import distributed
from fastsvs.errors import Preempted

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
LOOK_SECONDS = 1.0
"""Time between two looks for a signal that another rank got, in seconds."""
ECHO_SECONDS = 1.0
"""Time in which another SIGINT counts as the same, in seconds: a terminal sends one to a rank and to torchrun, which
passes it on."""
_KEY = "preempted"
_told = threading.Event()
_looked = 0.0
_since = 0.0
"""Time of the first signal."""


@contextmanager
def listening(*further: signal.Signals) -> Iterator[None]:
    """Note the signals, and those `further` ones that the process does not ignore, as a job of the background does
    Ctrl-C; all ranks leave a preempted job together. Threads other than the process's first cannot, and leave the
    signals as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _told.clear()
    heard = [*SIGNALS, *(number for number in further if signal.getsignal(number) is not signal.SIG_IGN)]
    before = {number: signal.signal(number, _hear) for number in heard}
    try:
        yield
    except Preempted:
        distributed.barrier()  # torchrun ends the ranks that are left when the first one has gone
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def told() -> bool:
    """Return True on the main rank when any rank was told to end early, elsewhere when this rank was."""
    global _looked
    if not _told.is_set() and distributed.is_main() and monotonic() - _looked > LOOK_SECONDS:
        _looked = monotonic()
        if distributed.launched_world_size() is not None and distributed.board().check([_KEY]):
            _begin_to_end()
    return _told.is_set()


def check() -> None:
    """Raise Preempted on all ranks when any of them was told to end early. Collective."""
    if distributed.broadcast(told()):
        raise Preempted


def _begin_to_end() -> None:
    global _since
    _since = monotonic()
    _told.set()


def _hear(number: int, _frame: FrameType | None) -> None:
    if _told.is_set():
        if number == signal.SIGINT:
            if monotonic() - _since < ECHO_SECONDS:
                return
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    _begin_to_end()
    if distributed.is_main():
        name = signal.Signals(number).name
        os.write(2, f"fastsvs: {name}: saving what is done, then ending; a second one ends at once\n".encode())
    else:  # not here: the process may be in the middle of talking to the store
        threading.Thread(target=lambda: distributed.board().set(_KEY, ""), daemon=True).start()
