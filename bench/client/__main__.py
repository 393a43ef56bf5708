"""`python -m bench.client --out DIR`: measure the client of rollout servers against servers that answer from memory.

Lengths are those of a 32B policy's responses. What is compared: the client on a thread of the trainer's own process,
as one process, and as two. Tokens a second are on the clock, in a machine whose cores servers, client processes and
trainer share; processor time is what the trainer's process and the client processes take for each token. Cases are
measured in turn, and figures are medians.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from unittest.mock import patch

from bench.client import server
from bench.frontend.processes import children, processor_seconds
from bench.report import Row, write
from fastsvs.client import Ask, Sample, Setup, open_session
from fastsvs.client.process import generate
from fastsvs.config import ServerConfig
from fastsvs.rollout import Request, SamplingParams, VllmEngine, drain
from fastsvs.rollout.vllm import ExternalServer

MAX_SEQUENCES = 256
PROMPT_TOKENS = 300
TARGET = 500_000
"""Tokens a second that two processes are to read."""


class Within:
    """In place of the client processes: the same code on the engine's thread in this process."""

    def __init__(self, setup: Setup, size: int) -> None:
        self._setup = setup
        self._session = open_session(setup.connections)

    async def ask(self, place: int, ask: Ask) -> list[Sample]:
        return await generate(self._session, self._setup, ask)

    async def close(self) -> None:
        await self._session.close()


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds of one measurement."""

    tokens: int
    clock: float
    trainer: float
    """Processor time of this process."""
    clients: float
    """Processor time of the client processes."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON file")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each case, in turn (%(default)s)")
    parser.add_argument("--calls", type=int, default=256, help="HTTP requests of one measurement (%(default)s)")
    options = parser.parse_args(arguments)
    rows = list(measure(options.rounds, options.calls))
    for row in rows:
        print(f"{row.case:50s} {row.provider:24s} {row.metric:30s} {row.value:12.3f} {row.unit}")
    print(write("client", rows, options.out))


def measure(rounds: int, calls: int) -> Iterator[Row]:
    with ExitStack() as stack:
        urls = [stack.enter_context(serving()) for _ in range(2)]
        engines = {
            "in the trainer's process": stack.enter_context(opened(urls, 1, Within)),
            "one process": stack.enter_context(opened(urls, 1)),
            "two processes": stack.enter_context(opened(urls, 2)),
        }
        runs: dict[str, list[Run]] = {provider: [] for provider in engines}
        for number in range(rounds + 1):
            for provider, engine in engines.items():
                found = run(engine, calls)
                if number:  # the first one starts processes and opens connections
                    runs[provider].append(found)
    for provider, measured in runs.items():
        yield from figures(provider, calls, measured)


@contextmanager
def serving() -> Iterator[str]:
    """Start a server and yield its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", server.__name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.communicate("")


@contextmanager
def opened(urls: Sequence[str], processes: int, pool: Callable[..., object] | None = None) -> Iterator[VllmEngine]:
    """Open an engine on the servers, which count as ours, because they have no settings to check."""
    servers = [ExternalServer(f"server-{index}", url, ours=True) for index, url in enumerate(urls)]
    with ExitStack() as stack:
        if pool is not None:
            stack.enter_context(patch("fastsvs.rollout.vllm.client.ClientPool", pool))
        engine = VllmEngine(
            servers,
            ServerConfig(),
            api_key="none",
            eos_token_ids=[server.EOS],
            vocabulary=server.VOCABULARY,
            max_sequences=MAX_SEQUENCES,
            max_sequence_tokens=PROMPT_TOKENS + server.LIMIT,
            client_processes=processes,
        )
    with closing(engine):
        engine.weights_loaded([endpoint.name for endpoint in engine.endpoints(60)], version=0)
        yield engine


def run(engine: VllmEngine, calls: int) -> Run:
    sampling = SamplingParams(max_tokens=server.LIMIT)
    prompt = tuple(range(PROMPT_TOKENS))
    asked = [Request(str(index), prompt, server.SAMPLES, sampling, seed=index) for index in range(calls)]
    before, began, trainer = client_seconds(), time.perf_counter(), time.process_time()
    engine.submit(asked)
    tokens = sum(len(rollout.response_ids) for _, rollouts in drain(engine) for rollout in rollouts)
    return Run(tokens, time.perf_counter() - began, time.process_time() - trainer, client_seconds() - before)


def client_seconds() -> float:
    """Return the processor time so far of all client processes of this one."""
    words = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children(os.getpid())}
    return processor_seconds([pid for pid, command in words.items() if b"fastsvs.client.process" in command])


def figures(provider: str, calls: int, runs: Sequence[Run]) -> Iterator[Row]:
    case = f"{calls} requests of {server.SAMPLES}, median {server.MEDIAN} tokens, 2 servers"
    rate = median(run.tokens / run.clock for run in runs)
    best = max(run.tokens / run.clock for run in runs)
    yield Row(case, provider, "tokens per second", rate, "tokens/s", TARGET if provider == "two processes" else None)
    yield Row(case, provider, "tokens per second, best", best, "tokens/s")
    for part in ("trainer", "clients"):
        seconds = median(getattr(run, part) / run.tokens for run in runs)
        yield Row(case, provider, f"{part}: CPU per token", 1e6 * seconds, "us")


if __name__ == "__main__":
    main()
