"""The process group for weights: gloo or NCCL for the bytes, and a store that says who has joined and who gave up.

Rank 0 is the trainer's main rank. The others are rollout workers, behind all other ranks of the trainer where these
send too; both sides run this file.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore

from fastsvs.sync.calls import Deadline, wait_until
from fastsvs.sync.messages import Message, Messages

GIVEN_UP = "given_up"
ABORT_SECONDS = 10.0
"""Longest wait for NCCL to give a group up, in seconds."""


def serve_store(address: str, timeout: float) -> tuple[TCPStore, int]:
    """Open a store that is bound to `address` alone, and return it with its port."""
    listening = socket.create_server((address, 0))
    port = listening.getsockname()[1]
    store = TCPStore(
        address,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout),
        master_listen_fd=listening.detach(),
    )
    return store, port


def join_store(address: str, port: int, timeout: float) -> TCPStore:
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=timeout))


def announce(store: TCPStore, rank: int, facts: object) -> None:
    """Tell the main rank that this worker has come, and `facts` of it, which are JSON."""
    store.set(_joined(rank), json.dumps(facts))


def missing(store: TCPStore, size: int) -> list[int]:
    """Return the workers of 1 to `size` - 1 that have not announced themselves."""
    return [rank for rank in range(1, size) if not store.check([_joined(rank)])]


def announced(store: TCPStore, size: int) -> list[Any]:
    """Return the facts that the workers of 1 to `size` - 1 announced."""
    return [json.loads(store.get(_joined(rank))) for rank in range(1, size)]


class Group:
    """A process group of `size` ranks, gloo on CPUs and NCCL on GPUs; this process is rank `rank`. Creating it blocks
    until all ranks have joined, or raises TimeoutError after `timeout` seconds, or what `check` raises.

    `address` is this machine's in the group; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name an interface instead. On
    CPUs `timeout` also limits every operation. `peers` are the ranks that this one exchanges messages with; None means
    that all take part in broadcasts. Of two peers the one with the lower rank sends.
    """

    def __init__(
        self,
        store: TCPStore,
        rank: int,
        size: int,
        address: str,
        timeout: float,
        device: torch.device,
        check: Callable[[], None] = lambda: None,
        peers: Sequence[int] | None = None,
    ) -> None:
        build = _nccl if device.type == "cuda" else _gloo
        group = build(PrefixStore("group", store), rank, size, address, timedelta(seconds=timeout))
        self._group: Any = group
        self._lock = threading.Lock()
        self._pending: list[tuple[dist.Work, Tensor]] = []
        self._messages = Messages(group, device)
        self._device = device
        if device.type == "cuda":
            try:
                connect(first_operation(group, rank, device, peers), size, timeout, check)
            except BaseException:
                self.abandon()
                raise

    def broadcast(self, buffer: Tensor) -> dist.Work:
        """Begin to send `buffer` (rank 0) or to fill it (the others)."""
        options = dist.BroadcastOptions()
        options.asyncOp = True
        with self._in_use() as group:
            work = group.broadcast([buffer], options)
            self._pending = [(w, b) for w, b in self._pending if not w.is_completed()] + [(work, buffer)]
        return work

    def send(self, buffer: Tensor, to: int) -> Message:
        """Begin to send `buffer` to one rank."""
        with self._in_use():
            return self._messages.send(buffer, to)

    def receive(self, buffer: Tensor, sender: int) -> Message:
        """Begin to fill `buffer` with the next message of one rank."""
        with self._in_use():
            return self._messages.receive(buffer, sender)

    def abandon(self) -> None:
        """Stop using the group, whatever is going on in it. An operation that begins later, on whatever thread, raises
        ConnectionAbortedError.

        NCCL gives up at once. This waits for it, because a process that ended earlier would be aborted; and for gloo
        where nothing is going on. gloo cannot be interrupted: its last operation runs into its timeout on a thread.
        """
        with self._lock:
            if self._group is None:
                return
            busy = self._messages.busy or not all(work.is_completed() for work, _ in self._pending)
            held: list[object] = [self._group, self._pending, self._messages]
            self._messages.end()
            thread = threading.Thread(target=_let_go, args=(self._group, held), daemon=True)
            self._group = None
            self._pending = []
        if not sys.is_finalizing():  # no thread starts then
            thread.start()
            if self._device.type == "cuda" or not busy:
                thread.join(ABORT_SECONDS)

    @contextmanager
    def _in_use(self) -> Iterator[Any]:
        """Yield the process group, which nothing abandons meanwhile."""
        with self._lock:
            if self._group is None:
                raise ConnectionAbortedError("this rank has left the group")
            yield self._group


def first_operation(group: Any, rank: int, device: torch.device, peers: Sequence[int] | None) -> Callable[[], None]:
    """Return the operation in which NCCL connects this rank: a broadcast of one number among all, or a message of one
    number with each of `peers`. The order of the peers keeps ranks from waiting for one another in a circle."""
    number = torch.zeros(1, device=device)

    def broadcast() -> None:
        group.broadcast([number], dist.BroadcastOptions()).wait()

    def exchange() -> None:
        for peer in sorted(peers or ()):
            (group.send if rank < peer else group.recv)([number], peer, 0).wait()

    return broadcast if peers is None else exchange


def connect(operation: Callable[[], None], size: int, timeout: float, check: Callable[[], None]) -> None:
    """Have NCCL connect this rank to the others of `size` now: it does so within the first operation, and waits there
    for ever.

    The operation runs on a thread. Raises TimeoutError, which says what to look at, when it is not over in `timeout`
    seconds or by the deadline of `check`; RuntimeError when it failed; and what else `check` raises meanwhile.
    """
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            operation()
            outcome.set_result(None)
        except Exception as error:
            outcome.set_exception(RuntimeError(f"NCCL did not connect trainer and rollout workers: {error}"))

    threading.Thread(target=run, name="nccl-connect", daemon=True).start()
    interface = os.environ.get("NCCL_SOCKET_IFNAME") or "the interface that NCCL chooses (NCCL_SOCKET_IFNAME)"
    late = (
        f"NCCL has not connected the {size} ranks of trainer and rollout workers in time: do they reach one another "
        f"over {interface}, and does the firewall let them?"
    )
    deadline = Deadline(timeout)

    def check_all() -> None:
        try:
            deadline.check()
            check()
        except TimeoutError as error:
            raise TimeoutError(late) from error

    wait_until(outcome.done, check_all)
    outcome.result()


def _gloo(store: dist.Store, rank: int, size: int, address: str, timeout: timedelta) -> Any:
    interface = os.environ.get("GLOO_SOCKET_IFNAME")
    where = {"interface": interface} if interface else {"hostname": address}
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._timeout = timeout
    options._devices = [ProcessGroupGloo.create_device(**where)]
    return ProcessGroupGloo(store, rank, size, options)


def _nccl(store: dist.Store, rank: int, size: int, _address: str, timeout: timedelta) -> Any:
    from torch.distributed import ProcessGroupNCCL

    options = ProcessGroupNCCL.Options()
    options._timeout = 10 * timeout  # whoever waits has its own limit; NCCL's would end the process
    handling = os.environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING")
    os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"  # a rollout worker's death must not end the trainer
    try:
        group = ProcessGroupNCCL(store, rank, size, options)
    finally:
        if handling is None:
            del os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"]
        else:
            os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = handling
    return group


def _let_go(group: Any, held: list[object]) -> None:
    group.abort()
    del group
    held.clear()


def give_up(store: TCPStore, reason: str = "") -> None:
    """Tell all members to give the update up, and why."""
    store.set(GIVEN_UP, reason)


def given_up(store: TCPStore) -> Callable[[], None]:
    """Return a check that raises ConnectionAbortedError when the trainer has given the update up, or is gone."""

    def check() -> None:
        try:
            reason = store.get(GIVEN_UP).decode() if store.check([GIVEN_UP]) else None
        except RuntimeError as error:
            raise ConnectionAbortedError("the trainer is gone") from error
        if reason is not None:
            raise ConnectionAbortedError(f"the trainer gave this update up{reason and f': {reason}'}")

    return check


def tell_staged(store: TCPStore, update: int) -> None:
    """Tell the main rank that all of an update waits at this worker."""
    store.add(_staged(update), 1)


def staged_workers(store: TCPStore, update: int) -> int:
    """Return how many workers have told so."""
    return store.add(_staged(update), 0)


def forget_staged(store: TCPStore, update: int) -> None:
    store.delete_key(_staged(update))


def route_key(rank: int) -> str:
    """Return the key under which the store says what the worker `rank` gets from whom."""
    return f"route/{rank}"


def _joined(rank: int) -> str:
    return f"joined/{rank}"


def _staged(update: int) -> str:
    return f"staged/{update}"
