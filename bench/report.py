"""The form in which every benchmark writes its figures: one JSON file for each suite, machine and day."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from fastsvs.environment import describe_environment
from fastsvs.files import write_atomic


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `provider` names the code (or the publication) that it is about."""

    case: str
    provider: str
    metric: str
    value: float
    unit: str
    limit: float | None = None
    """Value that physics, or a bar set beforehand, allows."""
    note: str | None = None
    """Note that a reader must know to compare the figure."""


def write(suite: str, rows: Iterable[Row], folder: Path) -> Path:
    """Write `<folder>/<suite>-<machine>-<date>.json`, replacing one that is there, and return its path.

    Raises UserError when it cannot be written.
    """
    environment = describe_environment()
    name = machine()
    path = folder / f"{suite}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}-{date.today().isoformat()}.json"
    about = {
        "suite": suite,
        "machine": name,
        "date": environment["date"],
        "versions": {"python": environment["python"], **environment["packages"]},
        "commit": environment["commit"],
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
    }
    write_atomic(path, as_json(about, rows))
    return path


def keep(suite: str, batches: Iterable[Iterable[Row]], folder: Path) -> list[Row]:
    """Write all rows anew after each batch, so that a run that is cut short keeps what it has.

    Prints the path, and returns the rows.
    """
    rows: list[Row] = []
    for batch in batches:
        rows += batch
        write(suite, rows, folder)
    print(f"written: {write(suite, rows, folder)}")
    return rows


def publish(suite: str, rows: Sequence[Row], folder: Path) -> None:
    """Print the rows, write them, and print the path."""
    for row in rows:
        show(row)
    print(f"written: {write(suite, rows, folder)}")


def show(row: Row) -> None:
    """Print one figure as a line."""
    value = f"{row.value:,.0f}" if abs(row.value) >= 1000 else f"{row.value:.4g}"
    note = f"  ({row.note})" if row.note else ""
    print(f"  {row.case:<34} {row.provider:<16} {row.metric:<46} {value:>10} {row.unit}{note}", flush=True)


def as_json(about: Mapping[str, Any], rows: Iterable[Row]) -> str:
    """Return one JSON object: `about`, then `rows`, each on a line of its own so that a changed figure is one line."""
    known = [{key: value for key, value in asdict(row).items() if value is not None} for row in rows]
    lines = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in known)
    head = json.dumps(dict(about), indent=2, ensure_ascii=False).removesuffix("\n}")
    return f'{head},\n  "rows": [\n{lines}\n  ]\n}}\n'


def read(path: Path) -> tuple[Row, ...]:
    """Return the rows of a file that `write` wrote."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return tuple(Row(**{"limit": None, "note": None, **row}) for row in rows)


def introduce(suite: str, needs_gpu: bool) -> None:
    """Print what the suite runs on. Exits with a message when it needs a GPU and there is none."""
    if needs_gpu and not torch.cuda.is_available():
        sys.exit(
            f"suite {suite!r} measures a GPU and torch {torch.__version__} sees none here: nothing was measured. "
            "`--suite smoke` checks the benchmark itself on a CPU."
        )
    print(f"device: {machine()}; torch {torch.__version__}, Python {platform.python_version()}")


def machine() -> str:
    """Return the name of the GPUs, or of the processor and its cores."""
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return f"{count} x {torch.cuda.get_device_name()}" if count > 1 else torch.cuda.get_device_name()
    return f"{_processor()}, {os.cpu_count()} cores"


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.machine()
