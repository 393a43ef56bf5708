"""A logger that notes the processor time of the main rank at the end of each step."""

from __future__ import annotations

from collections.abc import Mapping
from time import process_time
from typing import ClassVar


class Clock:
    """A logger of `fastsvs.telemetry`."""

    ends: ClassVar[list[float]] = []
    """Processor time at the end of each step of the last run in this process."""

    def __init__(self, run: object) -> None:
        Clock.ends = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        Clock.ends.append(process_time())

    def close(self) -> None: ...
