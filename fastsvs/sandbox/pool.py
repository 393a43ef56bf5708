"""Programs in, outcomes out: two kinds of zygotes, which differ in nothing but the order of their sets."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any

from fastsvs.config import SandboxConfig
from fastsvs.errors import UserError
from fastsvs.sandbox.isolation import Walls
from fastsvs.sandbox.values import Value, decode
from fastsvs.workers import WorkerPool

HASH_SEEDS = (0, 1)
"""What a program makes of hashes (the order of a set of texts) differs between the two."""


class Status(StrEnum):
    OK = "ok"
    ERROR = "error"
    """The program raised."""
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT = "output"
    """A result that is no plain data, or more than allowed."""
    FORBIDDEN = "forbidden"
    """It asked the system for what no program may: ended at once."""
    CRASHED = "crashed"
    """Its process died, or wrote what is no outcome."""
    LOST = "lost"
    """The process around it died."""


@dataclass(frozen=True, slots=True)
class Program:
    source: str
    entry: str | None
    """The function to call; None: the inputs are the results."""
    inputs: tuple[str, ...]
    """The arguments of one call each, as literal text: `"'abc', [1, 2]"`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    status: Status
    values: tuple[Value, ...] = ()
    """What the calls returned, in order; those before the failure when there was one."""
    printed: str = ""
    printed_characters: int = 0
    """Also those that `printed` leaves out."""
    detail: str = ""
    seconds: float = 0.0


class Sandbox:
    """For one thread at a time. Processes start with the first program and stay until `close`."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._walls: Walls | None = None
        arguments = (config.timeout_seconds, config.memory_bytes, config.output_characters)
        self._pools = [
            WorkerPool(
                "fastsvs.sandbox.zygote",
                arguments,
                max(1, config.workers // len(HASH_SEEDS)),
                read=read_outcome,
                lost=Outcome(Status.LOST),
                environment={"PYTHONHASHSEED": str(seed)},  # no secrets, nothing that differs between machines
                greet=self._greet,
            )
            for seed in HASH_SEEDS
        ]

    def open(self) -> Walls:
        """Start a process and see what stands around it. Raises UserError where programs would not be isolated, unless
        `sandbox.allow_unisolated` is set."""
        self.run([Program("", None, ("0",))])
        assert self._walls is not None
        if not self._walls.isolated and not self._config.allow_unisolated:
            raise UserError(
                "programs that the model writes would not be isolated on this system (no seccomp filters): run on "
                "Linux on x86-64 or arm64, or set sandbox.allow_unisolated=true where nothing can be harmed"
            )
        return self._walls

    def submit(self, program: Program, seed: int | None = None) -> Future[Outcome]:
        """`seed` 0 or 1 chooses the hash seed; else the program's own text does, so that a repeated run repeats it."""
        index = zlib.crc32(program.source.encode()) % len(HASH_SEEDS) if seed is None else seed
        return self._pools[index].submit(
            {"source": program.source, "entry": program.entry, "inputs": list(program.inputs)}
        )

    def submit_twice(self, program: Program) -> tuple[Future[Outcome], Future[Outcome]]:
        """Under both hash seeds: `same` says whether the outcomes agree."""
        return self.submit(program, seed=0), self.submit(program, seed=1)

    def run(self, programs: Sequence[Program]) -> list[Outcome]:
        outcomes = [self.submit(program) for program in programs]
        return [outcome.result() for outcome in outcomes]

    def repeat(self, programs: Sequence[Program]) -> list[tuple[Outcome, bool]]:
        """Each program's outcome and whether it is the same under both hash seeds, in two processes."""
        pairs = [self.submit_twice(program) for program in programs]
        results = [(first.result(), second.result()) for first, second in pairs]
        return [(first, same(first, second)) for first, second in results]

    def close(self) -> None:
        for pool in self._pools:
            pool.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _greet(self, greeting: Any) -> None:
        self._walls = Walls(**greeting)


def read_outcome(answer: Any) -> Outcome:
    """Of JSON that the program may have forged: anything unexpected is CRASHED."""
    try:
        return Outcome(
            Status(answer["status"]),
            tuple(decode(value) for value in answer["values"]),
            str(answer["printed"]),
            int(answer["printed_characters"]),
            str(answer["detail"]),
            float(answer["seconds"]),
        )
    except (ValueError, KeyError, TypeError):
        return Outcome(Status.CRASHED, detail="what the program's process wrote is no outcome")


def same(first: Outcome, second: Outcome) -> bool:
    return (first.status, repr(first.values), first.printed) == (second.status, repr(second.values), second.printed)
