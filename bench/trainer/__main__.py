"""Command line: run a suite, print each case as it ends, keep one JSON file up to date."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from time import perf_counter

import torch

from bench import report
from bench.report import Row
from bench.trainer.flops import FORMULA, case_flop, measured_matmul_rate, peak_flop_per_second
from bench.trainer.measure import Measurement, build_policy, measure
from bench.trainer.suites import PUBLISHED, SUITES, Case, Suite
from bench.usage import parser_of


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("trainer", __doc__, SUITES)
    parser.add_argument("--only", nargs="+", metavar="CASE", help="such as qwen3-0.6b/16k/single")
    chosen = parser.parse_args(arguments)
    suite = SUITES[chosen.suite]
    if chosen.only:
        known = list(dict.fromkeys(case.name for case in suite.cases))
        if not set(chosen.only) <= set(known):
            parser.error(f"the cases of this suite are {', '.join(known)}")
        suite = replace(suite, cases=tuple(case for case in suite.cases if case.name in chosen.only))
    report.introduce(chosen.suite, suite.needs_gpu)
    if not suite.needs_gpu:
        print("smoke: a tiny model, to see that the benchmark runs; its figures say nothing about speed on a GPU")
    print(FORMULA)
    report.keep(f"trainer-{chosen.suite}", run(suite), chosen.out)


def run(suite: Suite) -> Iterator[list[Row]]:
    """Yield the rows of case after case, as far as the time allows."""
    start = perf_counter()
    if suite.needs_gpu:
        rate = measured_matmul_rate()
        print(f"bf16 matrix product, 8192 x 8192 x 8192, measured: {rate / 1e12:.0f} TFLOP/s")
        yield [Row("matmul/8192", "torch", "rate", rate / 1e12, "TFLOP/s")]
    pace = 0.0  # seconds a FLOP of the case before took, everything included
    for model, group in groupby(suite.cases, key=lambda case: case.model):
        cases = list(group)
        begun = perf_counter()
        try:
            policy = build_policy(model, max(case.tokens for case in cases), suite.dtype)
        except torch.OutOfMemoryError as error:
            print(f"\n{model}: does not fit this device ({error})")
            continue
        print(f"\n{model}: random weights in {perf_counter() - begun:.0f} s")
        for case in cases:
            begun = perf_counter()
            flop = case_flop(case, policy.architecture)
            if begun - start + pace * flop > suite.limit_seconds:
                print(
                    f"{case.name}: left out, it would not end within {suite.limit_seconds:.0f} s of the suite's start"
                )
                continue
            try:
                result = measure(policy, case, suite.repeats)
            except torch.OutOfMemoryError as error:
                print(f"{case.name}: does not fit this device ({error})")
                continue
            pace = (perf_counter() - begun) / flop
            yield list(show(case, flop, result))
        del policy
    print(f"\n{perf_counter() - start:.0f} s in all")


def show(case: Case, flop: float, result: Measurement) -> Iterator[Row]:
    """Print the case and yield its rows, the published ones after ours."""
    ours = {
        "throughput": (case.tokens / result.seconds, "tokens/s"),
        "update": (result.seconds, "s"),
        **{f"update: {part}": (seconds, "s") for part, seconds in result.parts.items()},
    }
    if peak := peak_flop_per_second(report.machine()):
        ours["rate"] = (flop / result.seconds / 1e12, "TFLOP/s")
        ours["mfu"] = (100 * flop / result.seconds / peak, "%")
    if result.peak_allocated is not None and result.peak_reserved is not None:
        ours["peak memory"] = (result.peak_allocated, "GiB")
        ours["peak memory, reserved"] = (result.peak_reserved, "GiB")
    for kind, share in result.shares.items():
        ours[f"share: {kind}"] = (100 * share, "%")
    providers = {case.provider: ours} | {
        known.provider: known.values for known in PUBLISHED if known.case == case.name and case.recompute == "full"
    }
    print(f"{case.name}: {len(case.lengths())} sequences, {flop:.3g} FLOP an update, attention: {result.attention}")
    for provider, values in providers.items():
        print(f"  {provider}")
        for metric, (value, unit) in values.items():
            print(f"    {metric:<42}{value:>10{',.0f' if value >= 1000 else '.3g'}} {unit}")
            note = f"attention: {result.attention}" if (provider, metric) == (case.provider, "throughput") else None
            yield Row(case.name, provider, metric, value, unit, note=note)


if __name__ == "__main__":
    main()
