"""Runs programs and returns their outcomes, with two kinds of zygotes that differ in nothing but the order of their
sets."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from types import TracebackType
from typing import Any

from fastsvs.config import SandboxConfig
from fastsvs.errors import UserError
from fastsvs.sandbox.isolation import Walls
from fastsvs.sandbox.values import Value, decode
from fastsvs.workers import Attempt, WorkerPool

HASH_SEEDS = (0, 1)
"""Hash seeds of the two kinds of zygotes: what a program makes of hashes (the order of a set of texts) differs between
them."""

MOST_PRINTED = 2**53
"""Largest number of printed characters that is believed."""
DETAIL_CHARACTERS = 1000
"""Longest detail that is believed, in characters."""
STUCK_SECONDS = 60.0
"""Time after a program's limit from which on the process around it counts as stuck, in seconds."""


class Status(StrEnum):
    """How a program ended."""

    OK = "ok"
    ERROR = "error"
    """Exception that the program raised."""
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT = "output"
    """Result that is no plain data, or more output than allowed."""
    FORBIDDEN = "forbidden"
    """System call that no program may make; the program was ended at once."""
    CRASHED = "crashed"
    """Death of the program's process, or a reply that is no outcome."""
    LOST = "lost"
    """Death of the process around the program."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program to run, and the calls to make."""

    source: str
    entry: str | None
    """Function to call; None makes the inputs the results."""
    inputs: tuple[str, ...]
    """Arguments of one call each, as literal text: `"'abc', [1, 2]"`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one run of a program."""

    status: Status
    values: tuple[Value, ...] = ()
    """Results of the calls, in order; only those before the failure when there was one."""
    printed: str = ""
    printed_characters: int = 0
    """Number of characters printed, including those that `printed` leaves out."""
    detail: str = ""
    seconds: float = 0.0
    """Time that the program took, in seconds."""


class Sandbox:
    """Runs each program in a process of its own. The zygotes start with the first program and stay until `close`. Only
    one thread at a time may use it."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._walls: Walls | None = None
        arguments = (config.timeout_seconds, config.memory_bytes, config.output_characters)
        self._pools = [
            WorkerPool(
                "fastsvs.sandbox.zygote",
                arguments,
                max(1, config.workers // len(HASH_SEEDS)),
                read=partial(read_outcome, output_characters=config.output_characters),
                lost=Outcome(Status.LOST),
                environment={"PYTHONHASHSEED": str(seed)},  # no secrets, nothing that differs between machines
                greet=self._greet,
            )
            for seed in HASH_SEEDS
        ]

    def open(self) -> Walls:
        """Start a process and return the walls around it. Raises UserError where programs would not be isolated, unless
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
        """Start the program and return a future of its outcome. `seed` 0 or 1 chooses the hash seed. Without it the
        program's own text does, so that a repeated run repeats it."""
        index = zlib.crc32(program.source.encode()) % len(HASH_SEEDS) if seed is None else seed
        job = {"source": program.source, "entry": program.entry, "inputs": list(program.inputs)}
        return self._pools[index].submit(Attempt(job, self._config.timeout_seconds + STUCK_SECONDS))

    def submit_twice(self, program: Program) -> tuple[Future[Outcome], Future[Outcome]]:
        """Start the program under both hash seeds; `same` says whether the outcomes agree."""
        return self.submit(program, seed=0), self.submit(program, seed=1)

    def run(self, programs: Sequence[Program]) -> list[Outcome]:
        """Run the programs and return their outcomes, waiting for all of them."""
        outcomes = [self.submit(program) for program in programs]
        return [outcome.result() for outcome in outcomes]

    def repeat(self, programs: Sequence[Program]) -> list[tuple[Outcome, bool]]:
        """Run each program under both hash seeds, in two processes. Return its outcome, and whether it is the same
        under both."""
        pairs = [self.submit_twice(program) for program in programs]
        results = [(first.result(), second.result()) for first, second in pairs]
        return [(first, same(first, second)) for first, second in results]

    def close(self) -> None:
        """End the processes."""
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


def read_outcome(answer: Any, output_characters: int) -> Outcome:
    """Read an outcome from JSON that the program may have forged; anything unexpected is CRASHED. A value or a printed
    text over `output_characters` is unexpected too, and so is LOST: the pool alone says that."""
    try:
        status, printed, count = Status(answer["status"]), answer["printed"], answer["printed_characters"]
        if status is Status.LOST or type(count) is not int or not len(printed) <= count <= MOST_PRINTED:
            raise ValueError("no status that a program ends with, or no count of what it printed")
        values = tuple(decode(value, output_characters) for value in answer["values"])
        shown, detail = _text(printed, output_characters), _text(answer["detail"], DETAIL_CHARACTERS)
        return Outcome(status, values, shown, count, detail, float(answer["seconds"]))
    except Exception:  # whatever a forged answer may bring about
        return Outcome(Status.CRASHED, detail="what the program's process wrote is no outcome")


def _text(text: Any, most: int) -> str:
    """Return the text as one that can be written as UTF-8. Raises TypeError for what is no text, ValueError for a text
    of over `most` characters."""
    if type(text) is not str:
        raise TypeError("no text")
    if len(text) > most:
        raise ValueError("too long a text")
    return text.encode(errors="replace").decode()


def same(first: Outcome, second: Outcome) -> bool:
    """Check whether two outcomes have the same status, values and printed text."""
    return (first.status, repr(first.values), first.printed) == (second.status, repr(second.values), second.printed)
