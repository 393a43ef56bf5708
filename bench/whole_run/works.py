"""The proof that the whole job works: self-play on the tiny task with a real engine and in process, and kills."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from time import monotonic, perf_counter
from typing import Any

import torch
import torch.distributed as dist

from bench.report import Row
from bench.whole_run.cases import Case, Place
from bench.whole_run.gpu import GIB, memory_watch
from bench.whole_run.greedy import agreement
from bench.whole_run.runs import SMALL, TrainingRun
from fastsvs import distributed
from fastsvs.sync.group import Group, serve_store

CONFIG = "configs/tiny_svs.yaml"
OURS = "fastsvs"


@dataclass(frozen=True)
class Sizes:
    overrides: Sequence[str]
    """Overrides of every run."""
    steps: int
    """Steps of a run that is compared; killed ones have KILLED_STEPS."""
    problems: int
    """Number of problems whose greedy answers are compared."""
    start_seconds: float
    """Longest wait for the first step, in seconds."""
    run_seconds: float
    """Longest run, in seconds."""
    broadcast_bytes: int


SIZES = {
    "h200": Sizes(["evaluation.every=0"], 20, 100, 240, 240, 1 << 30),
    "smoke": Sizes(
        [*SMALL, "rollout.max_sequences=32", "evaluation.every=0"],
        2,
        8,
        300,
        400,
        1 << 20,
    ),
}
MEMORY = "gpu-memory-utilization: 0.3"
GRAPHS = '{"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}'
"""vLLM's options for CUDA graphs without torch.compile."""
ON_SERVERS = ["rollout.engine=vllm", "rollout.placement=colocated", "sync.verify=true"]
ENGINES = {
    "vllm eager": [*ON_SERVERS, f"rollout.server.arguments={{{MEMORY}, enforce-eager: true}}"],
    "vllm graphs": [*ON_SERVERS, f"rollout.server.arguments={{{MEMORY}, compilation-config: '{GRAPHS}'}}"],
    "vllm compiled": [*ON_SERVERS, f"rollout.server.arguments={{{MEMORY}}}"],
    "local": ["rollout.engine=local"],
}
KILLED_STEPS = 4


def cases(place: Place) -> list[Case]:
    sizes = SIZES[place.suite]
    dtypes = ["bf16", "fp32"] if place.suite == "h200" else ["fp32"]
    engines = list(ENGINES) if place.suite == "h200" else ["vllm eager", "local"]
    return [
        *(
            Case(f"works/{dtype}/{engine.replace(' ', '-')}", partial(train, sizes, dtype, engine))
            for engine in engines
            for dtype in dtypes
        ),
        *(Case(f"works/{dtype}/greedy", partial(greedy, sizes, dtype)) for dtype in dtypes),
        Case("works/killed-server", partial(kill_server, sizes)),
        Case("works/killed-trainer", partial(kill_trainer, sizes)),
        Case("works/nccl", partial(group_of_one, sizes)),
    ]


def train(sizes: Sizes, dtype: str, engine: str, folder: Path) -> Iterator[Row]:
    """Yield the rows of one run: held-out figures, agreement of engine and trainer, time, memory awake and asleep."""
    run = run_of(sizes, engine, folder, [f"policy.dtype={dtype}", f"run.steps={sizes.steps}"])
    with memory_watch() as memory:
        run.start()
        row = partial(Row, f"{CONFIG}, {dtype}", f"{OURS}, {engine}")
        yield row("until the first step is done", run.wait_for(run.rows, sizes.start_seconds), "s")
        stepping = monotonic()
        finished = run.finish(sizes.run_seconds)
        over = monotonic()
    rows = run.rows()
    yield row(
        "steps", len(rows), "count", limit=sizes.steps, note=None if finished else "stopped when its time was over"
    )
    yield from held_out(run, row)
    later = rows[1:] or rows
    for name, metric, unit in (
        ("step", "time/step", "s"),
        ("rollout", "time/rollout", "s"),
        ("update", "time/update", "s"),
        ("weights to the engine, waking included", "time/sync", "s"),
        ("publish", "sync/seconds", "s"),
        ("response tokens", "throughput/response_tokens_per_second", "tokens/s"),
    ):
        if metric in rows[0]:
            yield row(name, median(r[metric] for r in later), unit, note="median of the steps after the first")
    yield row(
        "log-prob difference of engine and trainer, mean", mean(r["policy/rollout_mismatch"] for r in rows), "nats"
    )
    yield row("log-prob difference, largest", max(r["policy/rollout_mismatch_max"] for r in rows), "nats")
    yield row("entropy, first step", rows[0]["policy/entropy"], "nats/token")
    yield row("entropy, last step", rows[-1]["policy/entropy"], "nats/token")
    if used := memory.between(stepping, over - 1):
        yield row("GPU memory in use, most", max(used), "GiB", note="all processes together")
        yield row("GPU memory in use, least", min(used), "GiB", note="all processes together, servers asleep")


def held_out(run: TrainingRun, row: Any) -> Iterator[Row]:
    """Yield pass@k before the first and after the last step."""
    evaluations = run.evaluations()
    for moment, step in (("before", min(evaluations)), ("after", max(evaluations))):
        for name, value in evaluations[step].items():
            if name.startswith("pass@"):
                yield row(f"{name} {moment}", value["mean"], "share", note=f"after {step} steps")


def greedy(sizes: Sizes, dtype: str, folder: Path) -> Iterator[Row]:
    """Compare the greedy answers of the server and of the engine in process, with the same weights."""
    found = agreement("models/tiny", dtype, sizes.problems, folder)
    row = partial(Row, f"greedy answers, {dtype}", "vLLM against the local engine")
    yield row("problems", found.problems, "count")
    yield row("answers equal in every token", found.equal, "share", limit=1.0)
    yield row("tokens before the first difference", found.common, "share", limit=1.0)


def kill_server(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Kill the engine core of a run after two steps: what that costs, and whether anything is missing."""
    run = run_of(sizes, "vllm eager", folder, ["policy.dtype=bf16", f"run.steps={KILLED_STEPS}"])
    run.start()
    run.wait_for(lambda: len(run.rows()) >= 2, sizes.start_seconds)
    for pid in run.processes("EngineCore"):
        os.kill(pid, signal.SIGKILL)
    killed = perf_counter()
    run.wait_for(lambda: len(run.rows()) >= 3, sizes.start_seconds)
    row = partial(Row, "engine core killed after two steps", OURS)
    yield row("until the next step was done", perf_counter() - killed, "s", note="with the server's new start")
    run.finish(sizes.run_seconds)
    rows = run.rows()
    yield row("steps, each once", len({r["step"] for r in rows}), "count", limit=KILLED_STEPS)
    yield row("restarts", sum(r["rollout/restarts"] for r in rows), "count", limit=1)


def kill_trainer(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Kill the trainer of a run after two steps, and start it again."""
    run = run_of(sizes, "vllm eager", folder, ["policy.dtype=bf16", f"run.steps={KILLED_STEPS}", "run.save_every=1"])
    with memory_watch() as memory:
        run.start()
        run.wait_for(lambda: len(run.rows()) >= 2, sizes.start_seconds)
        run.kill()
        row = partial(Row, "trainer killed after two steps", OURS)
        yield row("until none of its processes was left", run.clear(), "s")
        cleared = monotonic()
        time.sleep(2)  # the driver gives the memory of the dead back a little later
        if used := memory.between(cleared, monotonic()):
            yield row("GPU memory in use afterwards, least", min(used), "GiB")
    run.start()
    yield row("until the next step was done", run.wait_for(lambda: len(run.rows()) >= 3, sizes.start_seconds), "s")
    run.finish(sizes.run_seconds)
    rows = run.rows()
    yield row("steps, each once", len({r["step"] for r in rows}), "count", limit=KILLED_STEPS)
    yield row("until none of its processes was left, at its end", run.clear(), "s")


def group_of_one(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Try the trainer's group and the weights' group with one member: all of NCCL that one GPU allows."""
    distributed.initialize(60)
    device = distributed.device()
    buffer = torch.ones(sizes.broadcast_bytes, dtype=torch.uint8, device=device)
    backend = "NCCL" if device.type == "cuda" else "gloo"
    numbers = torch.ones(1 << 20, device=device)
    dist.all_reduce(numbers)
    if float(numbers.sum()) != numbers.numel():
        raise AssertionError("an all-reduce over one rank changed its input")
    yield Row("group of one", backend, "all-reduce", 1.0, "", note="of 4 MiB in fp32, unchanged")
    store, _port = serve_store("127.0.0.1", 60)
    group = Group(store, 0, 1, "127.0.0.1", 60, device)
    began = perf_counter()
    group.broadcast(buffer).wait()
    if device.type == "cuda":
        torch.cuda.synchronize()
    yield Row(
        "group of one",
        backend,
        "broadcast in the weights' group",
        perf_counter() - began,
        "s",
        note=f"of {len(buffer) / GIB:.3g} GiB",
    )
    group.abandon()
    distributed.leave()


def run_of(sizes: Sizes, engine: str, folder: Path, more: Sequence[str]) -> TrainingRun:
    """Return a run of CONFIG; where it has servers, every publish is checked tensor by tensor."""
    return TrainingRun(folder, CONFIG, [*sizes.overrides, *ENGINES[engine], *more])
