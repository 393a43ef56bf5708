"""What a rank writes down about itself at the beginning and the end of each phase of a step."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from fastsvs.files import read_jsonl

INTERFACE = re.compile(r"^\s*(\S+):\s*(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Moment:
    """State of a process."""

    seconds: float
    """Time of the system's monotonic clock."""
    processor: float
    """Processor time of the whole process so far, in seconds."""
    thread: float
    """Processor time of the calling thread so far, in seconds."""
    loopback: int
    link: int
    """Bytes that the node has received so far over loopback and over other interfaces."""
    files: int
    """Number of open files."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of a step, or of a job."""

    name: str
    begin: Moment
    end: Moment

    @property
    def seconds(self) -> float:
        return self.end.seconds - self.begin.seconds

    @property
    def processor(self) -> float:
        return self.end.processor - self.begin.processor

    @property
    def received(self) -> int:
        """Return the bytes that came to the node meanwhile, from its own ranks and from others."""
        return self.end.loopback - self.begin.loopback + self.end.link - self.begin.link


def now() -> Moment:
    """Return the state of this process, of whose main thread `thread` counts the time."""
    received = {name: int(count) for name, count in INTERFACE.findall(Path("/proc/self/net/dev").read_text())}
    loopback = received.pop("lo", 0)
    files = len(os.listdir("/proc/self/fd"))
    return Moment(time.monotonic(), time.process_time(), time.thread_time(), loopback, sum(received.values()), files)


Named = Callable[..., AbstractContextManager[None]]


def recorded(phase: Named, path: Path) -> Named:
    """Return `StepProgress.phase` so that it appends each phase of the main thread to the JSON lines of `path`."""

    @contextmanager
    def recording(progress: object, name: str) -> Iterator[None]:
        begin = now()
        with phase(progress, name):
            yield
        if threading.current_thread() is threading.main_thread():
            with path.open("a") as file:
                file.write(json.dumps(asdict(Phase(name, begin, now()))) + "\n")

    return recording


def read_phases(path: Path) -> Sequence[Phase]:
    """Read what `recorded` has written, in the order of the phases' ends."""
    return [Phase(row["name"], Moment(**row["begin"]), Moment(**row["end"])) for row in read_jsonl(path)]
