"""Measure one layer of experts, forward and with its backward pass, beside the sum of its products.

python -m bench.experts --suite h200 --out bench/results    # one GPU, about a minute
python -m bench.experts --suite cpu --out bench/results     # smaller layers on one thread, in processor seconds
python -m bench.experts --suite smoke --out runs/smoke      # seconds on a CPU: checks the benchmark

The layer is the policy's: router, way to the experts and back, and experts, in grouped products and one after another.
The sum of its products is what dense products of as many rows take with the matrices of one expert: nothing else of the
layer is in it, and weights are read once. The load is that of random routers, nearly even. All take their turns in each
round; figures are medians.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import process_time

import torch

from bench import report
from bench.experts.layer import Layer, Shape, products
from bench.kernels.measure import clock, free
from bench.report import Row
from bench.usage import parser_of

SUM = "sum of products"


@dataclass(frozen=True, slots=True)
class Suite:
    shapes: tuple[Shape, ...]
    dtype: str
    rounds: int
    needs_gpu: bool


SUITES = {
    "h200": Suite(
        (
            Shape("30b-a3b/12k", hidden=2048, ffn=768, experts=128, active=8, tokens=12_288),
            # As much as a rank of `expert_parallel: 8` computes where each of the eight has such a row.
            Shape("30b-a3b/12k/16 experts", hidden=2048, ffn=768, experts=16, active=8, tokens=12_288),
            Shape("30b-a3b/4k", hidden=2048, ffn=768, experts=128, active=8, tokens=4_096),
        ),
        dtype="bf16",
        rounds=20,
        needs_gpu=True,
    ),
    "cpu": Suite(
        (
            Shape("tiny-moe/4k", hidden=192, ffn=160, experts=8, active=2, tokens=4_096),
            Shape("30b-a3b widths/1k", hidden=2048, ffn=768, experts=16, active=2, tokens=1_024),
        ),
        dtype="fp32",
        rounds=7,
        needs_gpu=False,
    ),
    "smoke": Suite((Shape("tiny", hidden=32, ffn=16, experts=4, active=2, tokens=64),), "fp32", 2, needs_gpu=False),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("experts", __doc__, SUITES)
    options = parser.parse_args(arguments)
    suite = SUITES[options.suite]
    report.introduce(options.suite, suite.needs_gpu)
    torch.set_num_threads(1)
    report.keep(f"experts-{options.suite}", (list(measure(shape, suite)) for shape in suite.shapes), options.out)


def measure(shape: Shape, suite: Suite) -> Iterator[Row]:
    """Yield the rows of one layer, and print them."""
    layers = {
        "fastsvs": Layer(shape, suite.dtype, grouped=True),
        "fastsvs, one after another": Layer(shape, suite.dtype, grouped=False),
    }
    ways = {name: (layer.forward, layer.both) for name, layer in layers.items()}
    ways[SUM] = products(shape, suite.dtype)
    for mode, passes in enumerate(("forward", "forward and backward")):
        times = take_turns({name: way[mode] for name, way in ways.items()}, suite.rounds, backward=mode > 0)
        for name, milliseconds in times.items():
            limit = None if name == SUM else times[SUM]
            rate = (1 + 2 * mode) * shape.flop / milliseconds / 1e9
            for row in (
                Row(shape.name, name, passes, milliseconds, "ms", limit),
                Row(shape.name, name, f"{passes}, rate", rate, "TFLOP/s"),
            ):
                report.show(row)
                yield row
    free()


def take_turns(ways: Mapping[str, Callable[[], object]], rounds: int, *, backward: bool) -> dict[str, float]:
    """Return the median milliseconds of each way, after a round that is not timed. On a CPU they are processor time."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    with torch.set_grad_enabled(backward):
        for number in range(rounds + 1):
            for name, way in ways.items():
                milliseconds = clock(way) if torch.cuda.is_available() else _processor_milliseconds(way)
                if number:
                    times[name].append(milliseconds)
    return {name: median(found) for name, found in times.items()}


def _processor_milliseconds(way: Callable[[], object]) -> float:
    begun = process_time()
    way()
    return 1e3 * (process_time() - begun)


if __name__ == "__main__":
    main()
