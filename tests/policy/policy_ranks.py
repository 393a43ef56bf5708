"""Run a function on several gloo ranks, each a process of its own."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from forking import FORKS, of_torchrun


def run_ranks(
    function: Callable[..., Any],
    world_size: int,
    folder: Path,
    *args: Any,
    timeout: float = 150.0,
    patience: float = 60.0,
) -> list[Any]:
    """`function(*args)` on every rank of a new job; what each returned. `function` must be importable by name, and no
    rank may keep the others waiting for longer than `patience` seconds."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    job = [of_torchrun(rank, world_size, store.port) for rank in range(world_size)]
    outputs = [folder / f"rank_{rank}.pt" for rank in range(world_size)]
    processes = [
        FORKS.Process(target=_rank_main, args=(function, place, output, args, patience))
        for place, output in zip(job, outputs, strict=True)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(timeout)
    finally:
        for process in processes:
            process.kill()
    results = [torch.load(output, weights_only=False) if output.exists() else "no result" for output in outputs]
    failures = [f"rank {rank}: {result}" for rank, result in enumerate(results) if isinstance(result, str)]
    assert not failures, "\n".join(failures)
    return results


def _rank_main(function: Callable[..., Any], place: dict[str, str], output: Path, args: tuple, patience: float) -> None:
    torch.set_num_threads(1)
    os.environ.update(place)
    from fastsvs import distributed

    try:
        distributed.initialize(timeout_seconds=patience)
        result = function(*args)
    except BaseException:
        result = traceback.format_exc()
    torch.save(result, output)
