"""`python -m bench.host --out DIR`: measure what a rank's processor does while its GPU waits, on one thread.

Packing has a step's samples of 32B with self-play, dealt to two data-parallel ranks. The comparison of weights is of
values a second, since a rank's share of 32B does not fit here. Seconds are processor time, which other work on the
machine moves less than the clock; each is the best of a few repeats, beside what FastSvS did before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.host.packing import PACKING, Packing, measure_packing
from bench.host.updates import UPDATES, Updates, measure_updates
from bench.report import introduce, publish
from bench.usage import parser_of

SUITES: dict[str, tuple[Sequence[Packing], Updates]] = {
    "32b": (PACKING, UPDATES),
    "smoke": ([Packing(median=100, samples=200, repeats=1)], Updates(values=1 << 12, width=64, repeats=1)),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("host", __doc__)
    parser.add_argument("--suite", choices=sorted(SUITES), default="32b")
    options = parser.parse_args(arguments)
    introduce(options.suite, needs_gpu=False)
    torch.set_num_threads(1)
    packing, updates = SUITES[options.suite]
    rows = [row for case in packing for row in measure_packing(case)]
    with tempfile.TemporaryDirectory() as folder:
        rows += measure_updates(updates, Path(folder))
    publish(f"host-{options.suite}", rows, options.out)


if __name__ == "__main__":
    main()
