"""Messages from one rank to another, whose end can be asked for without waiting.

gloo tells the end of a message to the thread that waits for it and to no other, so one thread waits for all in turn;
NCCL's works can be asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from fastsvs.sync.calls import wait_until


class Message(Protocol):
    """A message, or a broadcast, under way. It fails with RuntimeError in `wait`."""

    def is_completed(self) -> bool: ...

    def wait(self) -> object: ...


def settle(works: Iterable[Message], check: Callable[[], None]) -> None:
    """Wait for the end of all operations. Raises what `check` raises, which knows why a group was given up, and
    RuntimeError where an operation failed for another reason."""
    for work in works:
        wait_until(work.is_completed, check)
        try:
            work.wait()
        except RuntimeError:
            check()
            raise


class Messages:
    """The messages that this process sends and receives in a process group."""

    def __init__(self, group: Any, device: torch.device) -> None:
        self._group = group
        self._waits = device.type == "cpu"
        self._under_way: list[_Awaited] = []
        self._queue: SimpleQueue[_Awaited | None] | None = None

    @property
    def busy(self) -> bool:
        """Return True where gloo has messages under way."""
        return not all(message.is_completed() for message in self._under_way)

    def send(self, buffer: Tensor, to: int) -> Message:
        return self._followed(self._group.send([buffer], to, 0), buffer)

    def receive(self, buffer: Tensor, sender: int) -> Message:
        return self._followed(self._group.recv([buffer], sender, 0), buffer)

    def end(self) -> None:
        """Have the thread end, once gloo has let go of the message that it waits for."""
        if self._queue is not None:
            for message in self._under_way:
                message.given_up = True
            self._queue.put(None)
            self._queue = None

    def _followed(self, work: dist.Work, buffer: Tensor) -> Message:
        if not self._waits:
            return work
        if self._queue is None:
            self._queue = SimpleQueue()
            threading.Thread(target=_follow, args=(self._queue,), name="weight-messages", daemon=True).start()
        message = _Awaited(work, buffer)
        self._under_way = [other for other in self._under_way if not other.is_completed()] + [message]
        self._queue.put(message)
        return message


class _Awaited:
    """A message of gloo that a thread waits for."""

    def __init__(self, work: dist.Work, buffer: Tensor) -> None:
        self._work, self._buffer = work, buffer
        self._over = threading.Event()
        self._error: RuntimeError | None = None
        self.given_up = False

    def is_completed(self) -> bool:
        return self._over.is_set()

    def wait(self) -> None:
        self._over.wait()
        if self._error:
            raise self._error

    def follow(self) -> None:
        try:
            if self.given_up:
                raise RuntimeError("the message was given up")
            self._work.wait()
        except RuntimeError as error:
            self._error = error
        self._over.set()


def _follow(queue: SimpleQueue[_Awaited | None]) -> None:
    while (message := queue.get()) is not None:
        message.follow()
