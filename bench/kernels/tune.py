"""Time every launch configuration that could stand in kernels/table.py, on this GPU, beside the one that stands there.

python -m bench.kernels.tune --out DIR
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from statistics import median
from typing import Any

import torch

from bench import report
from bench.kernels.ceilings import copy_rate
from bench.kernels.measure import clock, free
from bench.kernels.ours import kernels
from bench.report import Row
from bench.usage import parser_of

table: Any = import_module(f"{kernels.__name__}.table")
RowConfig = Any

BLOCKS, WARPS = (1024, 2048, 4096, 8192, 16384), (4, 8, 16)
SPANS = (1, 2, 4)
"""Most blocks of a row that one program takes, where their number is limited."""
PROGRAMS = (1, 4, 16, 64)
"""Least number of programs waiting for a multiprocessor before rows are no longer split."""
BYTES_OF_A_THREAD = (32, 256)
"""Least and most bytes of a block for each thread.

One 128-bit load alone hides little, and more than 256 bytes do not fit a thread's registers.
"""
ROUNDS = 9


@dataclass(frozen=True, slots=True)
class Trial:
    kernel: str
    logits: torch.dtype
    out: torch.dtype
    """Dtype of the gradient; the same as `logits` where there is none."""
    rows: int
    columns: int

    @property
    def name(self) -> str:
        kinds = " to ".join(dict.fromkeys(str(dtype).removeprefix("torch.") for dtype in (self.logits, self.out)))
        return f"{self.kernel}/{kinds}/{self.rows}x{self.columns}"

    @property
    def nbytes(self) -> int:
        """Return the bytes that it reads and writes at least."""
        written = self.out.itemsize if self.kernel == "logits_gradient" else 0
        return self.rows * self.columns * (self.logits.itemsize + written)

    def work(self, device: torch.device) -> Callable[[], object]:
        rows = import_module(f"{kernels.__name__}.rows_triton")
        logits = torch.randn(self.rows, self.columns, device=device).to(self.logits)
        targets = torch.randint(self.columns, (self.rows,), device=device)
        if self.kernel == "row_statistics":
            return lambda: rows.row_statistics(logits, targets, 0, None)
        statistics = rows.merge_statistics(rows.row_statistics(logits, targets, 0, None), targets)[0]
        slope, out = torch.randn(self.rows, device=device), torch.empty_like(logits, dtype=self.out)
        return lambda: rows.logits_gradient(logits, statistics, targets, 0, None, slope, slope, None, out)


TRIALS = tuple(
    Trial(kernel, logits, out, rows, columns)
    for kernel, logits, out in (
        ("row_statistics", torch.float32, torch.float32),
        ("logits_gradient", torch.float32, torch.bfloat16),
        ("row_statistics", torch.bfloat16, torch.bfloat16),
        ("logits_gradient", torch.bfloat16, torch.bfloat16),
    )
    for rows, columns in ((2048, 152_064), (256, 152_064), (8192, 19_008))
)
"""Trials on a piece of the policy loss, on few rows, and on an eighth of the vocabulary."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("kernels.tune", __doc__)
    folder = parser.parse_args(arguments).out
    report.introduce("table", needs_gpu=True)
    report.keep("kernels-table", measure(torch.device("cuda")), folder)


def measure(device: torch.device) -> Iterator[list[Row]]:
    bandwidth = copy_rate()
    print(f"copy {bandwidth / 1e12:.3g} TB/s")
    for trial in TRIALS:
        yield list(show(trial, run(trial, device), 1e3 * trial.nbytes / bandwidth))
        free()


def run(trial: Trial, device: torch.device, rounds: int = ROUNDS) -> dict[str, float]:
    """Return the median milliseconds of each configuration, measured in turn, the table's own first.

    The names are `BLOCKxWARPS`, the span where there is one, and `/PROGRAMS`.
    """
    own = table.row_config(trial.kernel, trial.logits, trial.columns), table.PROGRAMS_PER_PROCESSOR
    choices = dict.fromkeys([own, *((config, own[1]) for config in candidates(trial.logits, trial.columns))])
    choices |= dict.fromkeys((own[0], programs) for programs in PROGRAMS)
    work = trial.work(device)
    times: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        for config, programs in choices:
            with configured(trial, config, programs):
                milliseconds = clock(work)
            times.setdefault(name_of(config, programs), []).append(milliseconds)
    return {name: median(values[1:]) for name, values in times.items()}  # the first one compiles


def name_of(config: RowConfig, programs: int) -> str:
    span = "" if config.span == table.ANY_LENGTH else f" span {config.span}"
    return f"{config.block}x{config.warps}{span}/{programs}"


def candidates(dtype: torch.dtype, columns: int) -> Iterator[RowConfig]:
    least, most = BYTES_OF_A_THREAD
    for block in BLOCKS:
        for warps in WARPS:
            if least <= block * dtype.itemsize // (32 * warps) <= most:
                yield table.RowConfig(block, warps)
                yield from (table.RowConfig(block, warps, n * block) for n in SPANS if n * block < columns)


@contextmanager
def configured(trial: Trial, config: RowConfig, programs: int) -> Iterator[None]:
    """Use this configuration as the table's entry while the context is open."""
    by_size, size = table.ROW_CONFIGS[trial.kernel], trial.logits.itemsize
    before = by_size[size], table.PROGRAMS_PER_PROCESSOR
    by_size[size], table.PROGRAMS_PER_PROCESSOR = {table.ANY_LENGTH: config}, programs
    try:
        yield
    finally:
        by_size[size], table.PROGRAMS_PER_PROCESSOR = before


def show(trial: Trial, found: dict[str, float], floor: float) -> Iterator[Row]:
    own = next(iter(found))
    print(f"\n{trial.name}")
    for name, milliseconds in sorted(found.items(), key=lambda item: item[1]):
        mark = "  <- the table's" if name == own else ""
        print(f"  {name:<26}{milliseconds:9.4f} ms {100 * floor / milliseconds:6.1f}% of the copy rate{mark}")
        yield Row(trial.name, name, "median", milliseconds, "ms", floor, "the table's" if name == own else None)


if __name__ == "__main__":
    main()
