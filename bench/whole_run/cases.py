"""Cases, and how a list of them is measured: one after another, each kept as soon as it is there."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from bench import report
from bench.report import Row

FAILED = "failed"
"""Metric of a case that ended with an exception; its note holds the message."""


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    name: str
    measure: Callable[[Path], Iterable[Row]]
    """Function from a folder of the case's own to its rows, which are kept as they come."""


@dataclass(frozen=True)
class Place:
    """The place where a part works, and what it works on."""

    suite: str
    """Name of the suite: `h200` or `smoke`."""
    model: str
    """Hugging Face folder or hub id of the small real model."""
    work: Path
    """Folder for runs and models."""
    out: Path
    """Folder for the JSON files."""


def measure(part: str, cases: Sequence[Case], place: Place, limit_seconds: float) -> list[str]:
    """Measure the cases in order, and return the names of those that failed. No case starts after the limit.

    The part's JSON file is replaced whenever a case has a figure, so that a run that is cut short keeps what it
    has. A case that fails is a row that says why, and the next one goes on.
    """
    rows: list[Row] = []
    failed: list[str] = []
    began = perf_counter()
    for case in cases:
        if perf_counter() - began > limit_seconds:
            print(f"{case.name}: left out, {limit_seconds:.0f} s are over", flush=True)
            continue
        started = perf_counter()
        try:
            for row in case.measure(place.work / case.name.replace("/", "-")):
                rows.append(row)
                report.show(row)
                report.write(f"whole-run-{part}-{place.suite}", rows, place.out)
        except Exception as error:
            traceback.print_exc()
            failed.append(case.name)
            rows.append(Row(case.name, "fastsvs", FAILED, 1.0, "", note=f"{type(error).__name__}: {error}"[-2000:]))
            report.write(f"whole-run-{part}-{place.suite}", rows, place.out)
        print(f"{case.name}: {perf_counter() - started:.0f} s", flush=True)
    return failed
