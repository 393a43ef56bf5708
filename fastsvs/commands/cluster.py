"""`fastsvs doctor --nodes`, started by torchrun as a job would be: whether the nodes agree, and how fast they reach one
another and their storage.

Every rank takes part; the main rank prints. Bandwidths are bus bandwidths: bytes of the message times 2 (n - 1) / n for
an all-reduce over n ranks (as NCCL's own tests count), times 1 for a broadcast, over the seconds of the median try.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from uuid import uuid4

import torch
import torch.distributed as dist

from fastsvs import distributed
from fastsvs.commands.doctor import Finding, report
from fastsvs.files import check_folder, write_jsonl

PACKAGES = ("fastsvs", "torch", "megatron-core", "transformers", "vllm")
LARGEST_SKEW = 1.0
"""Largest difference between the clocks of two nodes that certificates, logs and rendezvous bear, in seconds."""
MESSAGE_BYTES = {"cuda": 2**30, "cpu": 2**26}
FILE_BYTES = {"cuda": 2**30, "cpu": 2**27}
TRIES = 5
WEIGHTS_BYTES = 65.5e9
"""Weights of a 32B model in bf16, for a sense of scale."""
TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Speed:
    """One measured speed; with `out` these are the rows of the file."""

    case: str
    ranks: int
    bytes: int
    seconds: float
    """Seconds of the median try, on the slowest rank."""
    gigabytes_per_second: float


def diagnose(folder: Path, out: Path | None) -> None:
    """Look at the job's nodes, and print every finding as soon as it is there. Collective. `folder` is where runs will
    be written. Raises UserError when something is lacking."""
    distributed.initialize(TIMEOUT_SECONDS)
    check_folder("--run-dir", folder)
    folder.mkdir(parents=True, exist_ok=True)
    speeds: list[Speed] = []
    report(findings(folder, speeds), "these nodes lack", shown=distributed.is_main())
    if out and distributed.is_main():
        write_jsonl(out, [asdict(speed) for speed in speeds])


def findings(folder: Path, speeds: list[Speed]) -> Iterator[Finding]:
    """Look at everything. Collective: every rank consumes all of it. What is measured is added to `speeds`."""
    yield world()
    yield versions()
    yield clocks()
    yield visible(folder)
    for speed in (*collectives(), storage(folder)):
        speeds.append(speed)
        yield shown(speed)


def world() -> Finding:
    """Count nodes, ranks and devices."""
    hosts = distributed.gather(platform.node())
    nodes = distributed.world_size() // local_world()
    backend = "NCCL" if distributed.device().type == "cuda" else "gloo"
    return Finding("job", "good", f"{len(hosts)} ranks on {nodes} node(s) ({', '.join(sorted(set(hosts)))}), {backend}")


def versions() -> Finding:
    """Compare Python and the packages of all ranks with the main rank's."""
    mine = {"Python": platform.python_version(), **{name: installed(name) for name in PACKAGES}}
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


def collectives() -> Iterator[Speed]:
    """Time all-reduces within a node, between nodes and over all ranks, and a broadcast to all nodes, as the ranks of
    this job make them."""
    local, rank, ranks = local_world(), distributed.rank(), distributed.world_size()
    leads = range(0, ranks, local)
    cases = [("all ranks", list(range(ranks)))]
    if 1 < local < ranks:
        cases.append(("within the first node", list(range(local))))
    if local > 1 and len(leads) > 1:
        cases.append(("between nodes, one rank each", list(leads)))
    message = torch.zeros(MESSAGE_BYTES[distributed.device().type] // 4, device=distributed.device())
    size = message.numel() * 4
    for case, members in cases:
        group = dist.new_group(members)
        taking_part = rank in members
        seconds = timed(lambda: dist.all_reduce(message, group=group), taking_part)  # noqa: B023
        yield Speed(f"all-reduce, {case}", len(members), size, seconds, bus(size, len(members), seconds))
        seconds = timed(lambda: dist.broadcast(message, 0, group=group), taking_part)  # noqa: B023
        yield Speed(f"broadcast, {case}", len(members), size, seconds, size / seconds / 1e9)


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
    return Speed("writing to the run folder", writers, size * writers, seconds, size * writers / seconds / 1e9)


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
    weights = WEIGHTS_BYTES / 1e9 / speed.gigabytes_per_second
    found = f"{speed.gigabytes_per_second:.2f} GB/s over {speed.ranks}; the weights of 32B would take {weights:,.1f} s"
    return Finding(speed.case, "good", found)


def bus(size: int, ranks: int, seconds: float) -> float:
    """Return the bus bandwidth of an all-reduce in GB/s; that of one rank alone counts the message once."""
    return size * (2 * (ranks - 1) / ranks if ranks > 1 else 1) / seconds / 1e9


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def local_world() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
