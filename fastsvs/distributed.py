"""The process group: one torchrun job, gloo on a CPU and NCCL on GPUs; a plain start is a world of one."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from time import monotonic, sleep
from types import FrameType
from typing import TypeVar

import torch
import torch.distributed as dist

from fastsvs import network
from fastsvs.errors import UserError
from fastsvs.output import say
from fastsvs.variables import whole_number

T = TypeVar("T")
RELAYED_BYTES = 16 << 20
"""Bytes that a rank receives before it passes them on."""
AGENT_SECONDS = 10.0
"""Longest wait for torchrun's agent to take a connection, in seconds."""
_last: tuple[str, str, float] | None = None
"""Name, caller and time of the last collective."""


def initialize(timeout_seconds: float = 1800.0, trainers: int | None = None) -> None:
    """Join the job that torchrun started, or make a world of one. Collectives time out after `timeout_seconds`.

    With `trainers`, only the job's first `trainers` processes train and may call this, and the world is theirs. The
    others meet them in `store()` alone.
    """
    if dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(whole_number("LOCAL_RANK", 0))
    choose_network()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        timeout=timedelta(seconds=timeout_seconds),
        store=dist.PrefixStore("trainers", store()),
        rank=whole_number("RANK", 0),
        world_size=trainers or launched_world_size() or 1,
    )


@cache
def choose_network() -> None:
    """Have gloo and NCCL talk to the job's other nodes over the interface that leads there, unless the environment
    names one; say which. Every process calls this before its first collective, and the first one of each node in any
    case."""
    place = network.read_place(os.environ)
    if place is None:
        return
    shared = dist.PrefixStore("network", store())
    network.announce_address(shared, place)
    if all(os.environ.get(name) for name in (network.GLOO, network.NCCL)):
        return
    try:
        interface = network.choose_interface(shared, place)
    except LookupError as error:
        said = f"gloo and NCCL choose the interface to the other nodes themselves: {error}"
    else:
        chosen = network.settings(interface, os.environ)
        os.environ.update(chosen)
        said = f"{' '.join(f'{name}={value}' for name, value in chosen.items())} ({interface.address})"
    if place.leads:
        say(f"fastsvs: node {place.node}: {said}")


def leave() -> None:
    """Leave the process group at the end of a process, which threads of the group could abort if they outlived its
    work."""
    if dist.is_initialized():
        dist.destroy_process_group()


@cache
def store() -> dist.Store:
    """Return the key-value store that all processes of the job share, whatever their part in it. A missing key is
    waited for at most 30 minutes. Raises UserError where torchrun's agent, which keeps the store, has ended."""
    if launched_world_size() is None:
        return dist.HashStore()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        _check_agent(os.environ["MASTER_ADDR"], whole_number("MASTER_PORT", 0))
    shared, _rank, _world_size = next(dist.rendezvous("env://", timeout=timedelta(minutes=30)))
    return shared


def _check_agent(host: str, port: int) -> None:
    """Check that the store of torchrun's agent is there, as it is before the agent starts a process. One whose agent
    was killed at that moment would look for it for half an hour, beside the job's next start."""
    deadline = monotonic() + AGENT_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=AGENT_SECONDS).close()
            return
        except ConnectionRefusedError as error:
            if monotonic() > deadline:
                gone = f"torchrun's store at {host}:{port} is gone, and with it the job: start it again"
                raise UserError(gone) from error
        except OSError:  # for a network that is down the store has patience of its own
            return
        sleep(AGENT_SECONDS / 50)


@cache
def board() -> dist.Store:
    """Return a connection of its own to `store()`, for threads and short messages: other users of a connection may hold
    it while they wait."""
    return store() if launched_world_size() is None else store().clone()  # type: ignore[attr-defined]


def device() -> torch.device:
    """Return this rank's GPU, or the CPU where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def rank() -> int:
    """Return the number of this process in the job; 0 before the ranks have joined."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks that have joined; 1 before that."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launched_world_size() -> int | None:
    """Return the number of processes that torchrun started, even before they have joined; None for a plain start."""
    return whole_number("WORLD_SIZE", 1, least=1) if "WORLD_SIZE" in os.environ else None


def is_main() -> bool:
    """Return True on rank 0, which writes files and talks to servers."""
    return rank() == 0


def last_collective() -> str:
    """Say which of this module's collectives was the last that this rank entered, from where and how long ago; "" where
    there was none. NCCL's own are in its flight recorder."""
    if _last is None:
        return ""
    name, place, began = _last
    return f"the last {name} was entered {monotonic() - began:.0f} s ago, by {place}"


def _enter(name: str) -> None:
    global _last
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    place = "" if frame is None else f"{frame.f_code.co_filename}, line {frame.f_lineno}, in {frame.f_code.co_name}"
    _last = (name, place, monotonic())


def gather(value: T) -> list[T]:
    """Return every rank's `value`, in rank order, on every rank. Collective."""
    if world_size() == 1:
        return [value]
    _enter("gather")
    values: list[T] = [value] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until every rank has come here. Collective."""
    gather(None)


def broadcast(value: T) -> T:
    """Return the main rank's `value` on every rank, for facts that ranks could see differently, such as files.
    Collective."""
    if world_size() == 1:
        return value
    _enter("broadcast")
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def relay(data: torch.Tensor, ranks: Sequence[int]) -> None:
    """Bring `data`, [bytes] uint8 on the CPU, from the first of these ranks to the others in place. Each passes on to
    the next what it has, while more comes: the time is that of one link, however many ranks there are. Collective for
    these ranks, each of which calls it once."""
    _enter("relay")
    place = ranks.index(rank())
    sent = []
    for part in data.split(RELAYED_BYTES):
        if place > 0:
            dist.recv(part, ranks[place - 1])
        if place + 1 < len(ranks):
            sent.append(dist.isend(part, ranks[place + 1]))
    for work in filter(None, sent):
        work.wait()
