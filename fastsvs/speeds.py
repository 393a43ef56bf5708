"""Measured speeds of messages between ranks and of their storage: the file that `fastsvs doctor --nodes` writes and
that `fastsvs plan` reads. Nothing here loads torch.

Bandwidths are bus bandwidths as NCCL's own tests count them: the bytes that pass a rank's link over the seconds of the
median try, so that groups of different sizes can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from fastsvs.errors import UserError
from fastsvs.files import read_jsonl, write_jsonl
from fastsvs.shipped import missing

Operation = Literal["all-reduce", "all-gather", "reduce-scatter", "broadcast", "point-to-point", "write"]
"""Operations that are timed. `write` is a file of each node at the same time, flushed to the run folder."""
Scope = Literal["within a node", "between nodes", "all ranks", "storage"]
"""Groups that communicate at the same time: the ranks of each node, the ranks of the same place on every node, or all
ranks together where these are neither."""


@dataclass(frozen=True, slots=True)
class Speed:
    """One measured speed, a row of the file."""

    operation: Operation
    scope: Scope
    ranks: int
    """Number of ranks of a group; of `write`, of nodes."""
    bytes: int
    """Size of the message: of a gathered or scattered one, of the whole."""
    seconds: float
    """Seconds of the median try, on the slowest rank."""

    @property
    def rate(self) -> float:
        """Return the bus bandwidth in bytes/s."""
        return passing(self.operation, self.bytes, self.ranks) / self.seconds


@dataclass(frozen=True)
class Speeds:
    """The measured speeds of a cluster."""

    source: str
    """File that it is from."""
    rows: Sequence[Speed]

    def rate(self, operation: Operation, scope: Scope, nbytes: float) -> float | None:
        """Return the bus bandwidth of messages of `nbytes` in bytes/s: linear in the logarithm of the size between what
        was measured, and that of the nearest size outside. None where nothing was measured."""
        points = sorted(
            (log(row.bytes), row.rate) for row in self.rows if (row.operation, row.scope) == (operation, scope)
        )
        if not points:
            return None
        sizes, rates = zip(*points, strict=True)
        return float(np.interp(log(max(nbytes, 1.0)), sizes, rates))


def passing(operation: Operation, nbytes: float, ranks: int) -> float:
    """Return the bytes of a message of `nbytes` that pass the link of each of the `ranks` of a ring."""
    others = (ranks - 1) / ranks
    return nbytes * {"all-reduce": 2 * others, "all-gather": others, "reduce-scatter": others}.get(operation, 1.0)


def write_speeds(path: Path, rows: Sequence[Speed]) -> None:
    """Write the rows, one object a line, each with its bandwidth for people who read the file."""
    write_jsonl(path, [{**asdict(row), "gigabytes_per_second": row.rate / 1e9} for row in rows])


def read_speeds(path: Path) -> Speeds:
    """Read what `write_speeds` wrote. Raises UserError for a file that is none such, or is not there."""
    if not path.exists():
        raise UserError(f"{missing(path)}; `fastsvs doctor --nodes --out FILE` writes one")
    kept = [{key: value for key, value in row.items() if key != "gigabytes_per_second"} for row in read_jsonl(path)]
    try:
        rows = TypeAdapter(list[Speed]).validate_python(kept)
    except ValidationError as error:
        fault = error.errors()[0]
        raise UserError(
            f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}; `fastsvs doctor --nodes --out FILE` writes "
            "such a file"
        ) from error
    if not rows or any(row.bytes < 1 or row.seconds <= 0 or row.ranks < 1 for row in rows):
        raise UserError(f"{path}: holds no speeds; `fastsvs doctor --nodes --out FILE` writes such a file")
    return Speeds(str(path), rows)
