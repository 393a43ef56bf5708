"""`python -m bench.prefix --suite SUITE --out DIR`: measure updates with shared prompts beside updates without.

Updates on groups are timed on one thread in processor seconds, which other work on the machine moves less than the
clock. Steps of whole runs are timed by the clock. Both ways take turns; figures are medians.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from bench.prefix.step import Runs, measure_runs
from bench.prefix.update import Groups, measure_groups
from bench.report import Row, introduce, keep, show
from bench.usage import parser_of

SUITES: dict[str, tuple[Sequence[Groups], Sequence[Runs]]] = {
    "cpu": (
        [
            Groups(prompt_tokens=4096, answer_tokens=300),
            Groups(prompt_tokens=256, answer_tokens=1000),
            Groups(prompt_tokens=64, answer_tokens=64, groups=16),
        ],
        [],
    ),
    "step": ([], [Runs()]),
    "smoke": ([Groups(prompt_tokens=48, answer_tokens=12, samples=4, groups=2, layers=1, repeats=1)], []),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("prefix", __doc__, SUITES)
    options = parser.parse_args(arguments)
    introduce(options.suite, needs_gpu=False)
    torch.set_num_threads(1)
    keep(f"prefix-{options.suite}", run(*SUITES[options.suite]), options.out)


def run(updates: Sequence[Groups], runs: Sequence[Runs]) -> Iterator[list[Row]]:
    """Yield the rows of one case after another, and print them."""
    with tempfile.TemporaryDirectory() as folder:
        for measured in (
            *(measure_groups(case) for case in updates),
            *(measure_runs(case, Path(folder) / str(number)) for number, case in enumerate(runs)),
        ):
            rows = list(measured)
            for row in rows:
                show(row)
            yield rows


if __name__ == "__main__":
    main()
