"""`fastsvs doctor --nodes`, started by torchrun as a job would be: whether the nodes agree, and how fast they reach one
another and their storage.

Every rank takes part; the main rank prints the speed of the largest messages, and the file has all sizes.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from uuid import uuid4

import torch
import torch.distributed as dist

from fastsvs import distributed
from fastsvs.commands.doctor import Finding, report
from fastsvs.files import check_folder
from fastsvs.installed import version_of
from fastsvs.speeds import Operation, Scope, Speed, write_speeds
from fastsvs.variables import whole_number

PACKAGES = ("fastsvs", "torch", "megatron-core", "transformers", "vllm")
LARGEST_SKEW = 1.0
"""Largest difference between the clocks of two nodes that certificates, logs and rendezvous bear, in seconds."""
MESSAGE_BYTES = {"cuda": (2**16, 2**20, 2**24, 2**27, 2**30), "cpu": (2**14, 2**18, 2**22, 2**25)}
OPERATIONS: tuple[Operation, ...] = ("all-reduce", "all-gather", "reduce-scatter", "broadcast", "point-to-point")
FILE_BYTES = {"cuda": 2**30, "cpu": 2**27}
TRIES = 5
WEIGHTS_BYTES = 65.5e9
"""Weights of a 32B model in bf16, for a sense of scale."""
TIMEOUT_SECONDS = 120.0


def diagnose(folder: Path, out: Path | None) -> None:
    """Look at the job's nodes, and print every finding as soon as it is there. Collective. `folder` is where runs will
    be written. Raises UserError when something is lacking."""
    distributed.initialize(TIMEOUT_SECONDS)
    check_folder("--run-dir", folder)
    folder.mkdir(parents=True, exist_ok=True)
    speeds: list[Speed] = []
    report(findings(folder, speeds), "these nodes lack", shown=distributed.is_main())
    if out and distributed.is_main():
        write_speeds(out, speeds)


def findings(folder: Path, speeds: list[Speed]) -> Iterator[Finding]:
    """Look at everything. Collective: every rank consumes all of it. What is measured is added to `speeds`."""
    yield world()
    yield versions()
    yield clocks()
    yield visible(folder)
    for measured in (*messages(), [storage(folder)]):
        speeds += measured
        yield shown(measured[-1])


def world() -> Finding:
    """Count nodes, ranks and devices."""
    hosts = distributed.gather(platform.node())
    nodes = distributed.world_size() // local_world()
    backend = "NCCL" if distributed.device().type == "cuda" else "gloo"
    return Finding("job", "good", f"{len(hosts)} ranks on {nodes} node(s) ({', '.join(sorted(set(hosts)))}), {backend}")


def versions() -> Finding:
    """Compare Python and the packages of all ranks with the main rank's."""
    mine = {"Python": platform.python_version(), **{name: version_of(name) for name in PACKAGES}}
    everywhere = distributed.gather((platform.node(), mine))
    first = everywhere[0][1]
    other = sorted(
        {
            f"{host} has {name} {found[name] or 'not at all'}"
            for host, found in everywhere
            for name in first
            if found[name] != first[name]
        }
    )
    told = ", ".join(f"{name} {found}" for name, found in first.items() if found)
    if not other:
        return Finding("versions", "good", told)
    return Finding(
        "versions", "lacks", f"{told}, but {'; '.join(other[:4])}", "install the same environment everywhere"
    )


def clocks() -> Finding:
    """Compare the clocks of all ranks, each read right after a barrier."""
    skews = []
    for _ in range(TRIES):
        distributed.barrier()
        times = distributed.gather(time.time())
        skews.append(max(times) - min(times))
    skew = min(skews)
    found = f"within {skew:.3f} s"
    if skew <= LARGEST_SKEW:
        return Finding("clocks", "good", found)
    return Finding("clocks", "lacks", found, "let every node synchronise its clock (chrony or systemd-timesyncd)")


def visible(folder: Path) -> Finding:
    """See whether every node sees what the main rank writes into the folder of runs."""
    name = distributed.broadcast(f".doctor-{uuid4().hex}")
    if distributed.is_main():
        (folder / name).touch()
    distributed.barrier()
    blind = sorted({host for host, sees in distributed.gather((platform.node(), (folder / name).exists())) if not sees})
    if distributed.is_main():
        (folder / name).unlink()
    if not blind:
        return Finding("storage", "good", f"{folder.absolute()} is the same on every node")
    cure = "set run.dir to storage that all nodes mount: checkpoints of all ranks must come together"
    return Finding("storage", "lacks", f"{', '.join(blind)} do(es) not see {folder.absolute()}", cure)


def messages() -> Iterator[list[Speed]]:
    """Yield the speeds of every operation in every scope, by size. Collective. The groups of a scope are timed at the
    same time, as the groups of a job are."""
    sizes = MESSAGE_BYTES[distributed.device().type]
    for scope, groups in scopes(distributed.world_size(), local_world()).items():
        own, _ = dist.new_subgroups_by_enumeration(groups)
        members = len(groups[0])
        for operation in OPERATIONS:
            yield [
                Speed(operation, scope, members, size, timed(message(operation, own, size), taking_part=True))
                for size in sizes
            ]


def scopes(ranks: int, local: int) -> dict[Scope, list[list[int]]]:
    """Return the groups that communicate at the same time, of `ranks` on nodes of `local` ranks each, by scope; none of
    one rank alone."""
    found: dict[Scope, list[list[int]]] = {}
    if local > 1:
        found["within a node"] = [list(range(first, first + local)) for first in range(0, ranks, local)]
    if ranks > local:
        found["between nodes"] = [list(range(place, ranks, local)) for place in range(local)]
    if 1 < local < ranks:
        found["all ranks"] = [list(range(ranks))]
    return found


def message(operation: Operation, group: dist.ProcessGroup, size: int) -> Callable[[], object]:
    """Return the action that sends a message of `size` bytes, rounded up to fp32 numbers for each rank, in the group.
    Of point-to-point messages every second rank sends one to the next."""
    ranks, own = group.size(), group.rank()
    part = torch.zeros(-(-size // 4 // ranks), device=distributed.device())
    whole = part.new_zeros(len(part) * ranks)
    neighbour = own ^ 1
    match operation:
        case "all-reduce":
            return lambda: dist.all_reduce(whole, group=group)
        case "all-gather":
            return lambda: dist.all_gather_into_tensor(whole, part, group=group)
        case "reduce-scatter":
            return lambda: dist.reduce_scatter_tensor(part, whole, group=group)
        case "broadcast":
            return lambda: dist.broadcast(whole, group=group, group_src=0)
        case _ if neighbour >= ranks:
            return lambda: None
        case _ if own < neighbour:
            return lambda: dist.send(whole, group=group, group_dst=neighbour)
        case _:
            return lambda: dist.recv(whole, group=group, group_src=neighbour)


def storage(folder: Path) -> Speed:
    """Time how a rank of each node writes and flushes a file at the same time as the others, as checkpoints do."""
    size, path = FILE_BYTES[distributed.device().type], folder / f".doctor-{os.getpid()}-{distributed.rank()}"
    content = os.urandom(2**20) * (size // 2**20)
    leads = distributed.rank() % local_world() == 0

    def write() -> None:
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    seconds = timed(write, leads, tries=1)
    path.unlink(missing_ok=True)
    writers = distributed.world_size() // local_world()
    return Speed("write", "storage", writers, size * writers, seconds)


def timed(action: Callable[[], object], taking_part: bool, tries: int = TRIES) -> float:
    """Return the median seconds of `action` on the slowest of the ranks that take part, on every rank. Collective."""
    seconds = []
    for attempt in range(tries + (tries > 1)):  # the first of several opens connections
        distributed.barrier()
        began = time.perf_counter()
        if taking_part:
            action()
            if distributed.device().type == "cuda":
                torch.cuda.synchronize()
        took = max(distributed.gather(time.perf_counter() - began if taking_part else 0.0))
        if attempt or tries == 1:
            seconds.append(took)
    return median(seconds)


def shown(speed: Speed) -> Finding:
    """Say a speed, and what the weights of a 32B model would take at it."""
    rate = speed.rate / 1e9
    found = f"{rate:.2f} GB/s over {speed.ranks}; the weights of 32B would take {WEIGHTS_BYTES / 1e9 / rate:,.1f} s"
    name = "writing to the run folder" if speed.operation == "write" else f"{speed.operation}, {speed.scope}"
    return Finding(name, "good", found)


def local_world() -> int:
    return whole_number("LOCAL_WORLD_SIZE", 1, least=1)
