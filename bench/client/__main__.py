"""`python -m bench.client --out DIR`: measure the client of rollout servers against servers that answer from memory.

What is compared: the client on a thread of the trainer's own process,
as one process, and as two. Tokens a second are on the clock, in a machine whose cores servers, client processes and
trainer share; processor time is what the trainer's process and the client processes take for each token. Cases are
measured in turn, and figures are medians.
"""

from __future__ import annotations

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
from bench.report import Row, publish
from bench.usage import parser_of
from fastsvs.client import Ask, Sample, Setup, open_session
from fastsvs.client.process import generate
from fastsvs.config import ServerConfig
from fastsvs.rollout import Request, SamplingParams, VllmEngine, drain
from fastsvs.rollout.vllm import ExternalServer

SERVERS = 2
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
class Case:
    calls: int
    """Number of HTTP requests."""
    samples: int
    """Number of responses that one asks for."""
    median: int
    """Median of their lengths in tokens."""

    def __str__(self) -> str:
        return f"{self.calls} requests of {self.samples}, median {self.median} tokens, {SERVERS} servers"


CASES = (Case(128, 8, 1000), Case(1000, 1, 22))
"""Responses of a 32B policy, and short ones that are asked for one by one."""


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
    parser = parser_of("client", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each case, in turn (%(default)s)")
    options = parser.parse_args(arguments)
    publish("client", [row for case in CASES for row in measure(case, options.rounds)], options.out)


def measure(case: Case, rounds: int) -> Iterator[Row]:
    with ExitStack() as stack:
        urls = [stack.enter_context(serving(case)) for _ in range(SERVERS)]
        engines = {
            "in the trainer's process": stack.enter_context(opened(urls, 1, Within)),
            "one process": stack.enter_context(opened(urls, 1)),
            "two processes": stack.enter_context(opened(urls, 2)),
        }
        runs: dict[str, list[Run]] = {provider: [] for provider in engines}
        for number in range(rounds + 1):
            for provider, engine in engines.items():
                found = run(engine, case)
                if number:  # the first one starts processes and opens connections
                    runs[provider].append(found)
    for provider, measured in runs.items():
        yield from figures(case, provider, measured)


@contextmanager
def serving(case: Case) -> Iterator[str]:
    """Start a server and yield its URL."""
    command = [sys.executable, "-m", server.__name__, str(case.median), str(case.samples)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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


def run(engine: VllmEngine, case: Case) -> Run:
    sampling = SamplingParams(max_tokens=server.LIMIT)
    prompt = tuple(range(PROMPT_TOKENS))
    asked = [Request(str(index), prompt, case.samples, sampling, seed=index) for index in range(case.calls)]
    before, began, trainer = client_seconds(), time.perf_counter(), time.process_time()
    engine.submit(asked)
    tokens = sum(len(rollout.response_ids) for _, rollouts in drain(engine) for rollout in rollouts)
    return Run(tokens, time.perf_counter() - began, time.process_time() - trainer, client_seconds() - before)


def client_seconds() -> float:
    """Return the processor time so far of all client processes of this one."""
    words = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children(os.getpid())}
    return processor_seconds([pid for pid, command in words.items() if b"fastsvs.client.process" in command])


def figures(case: Case, provider: str, runs: Sequence[Run]) -> Iterator[Row]:
    rates = [run.tokens / run.clock for run in runs]
    limit = TARGET if case is CASES[0] and provider == "two processes" else None
    yield Row(str(case), provider, "tokens per second", median(rates), "tokens/s", limit)
    yield Row(str(case), provider, "tokens per second, best", max(rates), "tokens/s")
    for part in ("trainer", "clients"):
        seconds = [getattr(run, part) for run in runs]
        each = [1e6 * taken / run.tokens for taken, run in zip(seconds, runs, strict=True)]
        yield Row(str(case), provider, f"{part}: CPU per token", median(each), "us")
        yield Row(str(case), provider, f"{part}: CPU per request", 1e3 * median(seconds) / case.calls, "ms")


if __name__ == "__main__":
    main()
