"""Command line: run a suite, print each case as it ends, leave one JSON file.

python -m bench.kernels --suite h200|smoke --out DIR
"""

from __future__ import annotations

import argparse
import gc
import platform
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import torch

from bench import report
from bench.kernels.accuracy import errors
from bench.kernels.ceilings import copy_rate, product_rates
from bench.kernels.inputs import make
from bench.kernels.measure import Contender, measure, prove, quantiles
from bench.kernels.parts import parts
from bench.kernels.providers import AbsentError, Provider, providers
from bench.kernels.suites import BYTES, FLOP, SUITES, Case, Suite
from bench.kernels.targets import verdicts
from bench.report import Row


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__)
    parser.add_argument("--suite", choices=sorted(SUITES), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON file")
    chosen = parser.parse_args(arguments)
    suite = SUITES[chosen.suite]
    if suite.needs_gpu and not torch.cuda.is_available():
        sys.exit(
            f"suite {chosen.suite!r} measures a GPU and torch {torch.__version__} sees none here: nothing was "
            "measured. `--suite smoke` checks the benchmark itself on a CPU."
        )
    print(f"device: {report.machine()}; torch {torch.__version__}, Python {platform.python_version()}")
    if not suite.needs_gpu:
        print("smoke: tiny shapes, to see that the benchmark runs; its figures say nothing about speed on a GPU")
    print(f"{FLOP}\n{BYTES}")
    rows = list(run(suite))
    rows += verdicts(rows)
    print(f"written: {report.write(f'kernels-{chosen.suite}', rows, chosen.out)}")


def run(suite: Suite) -> Iterator[Row]:
    """Ceilings, then case after case as far as the time allows, then errors and parts of the first cases."""
    begun = perf_counter()
    device = torch.device("cuda" if suite.needs_gpu else "cpu")
    bandwidth = products = None
    if suite.needs_gpu:
        bandwidth = copy_rate()
        print(f"device copy, read + write: {bandwidth / 1e12:.2f} TB/s")
        yield Row("ceilings", "torch", "copy", bandwidth / 1e12, "TB/s")
    longest = 0.0
    for case in suite.cases:
        left = suite.limit_seconds - (perf_counter() - begun)
        if longest > left:
            print(f"{case.name}: left out, it would not end within {suite.limit_seconds:.0f} s")
            continue
        start = perf_counter()
        if suite.needs_gpu and case.operator == "linear_policy_loss":
            rates = list(product_rates(case))
            yield from rates
            products = max(row.value for row in rates) * 1e12
            print(f"{case.shape.name}: best matrix product {products / 1e12:.0f} TFLOP/s")
        yield from run_case(suite, case, device, bandwidth, products)
        longest = max(longest, perf_counter() - start)
    for operator in ("linear_logprob_entropy", "logprob_entropy"):
        case = next(case for case in suite.cases if case.operator == operator)
        exact = [provider for provider in providers(case, suite.needs_gpu) if provider.logprobs_first]
        yield from show_errors(errors(case, exact, device))
    yield from show_errors(parts(suite.cases[0], device))
    print(f"\n{perf_counter() - begun:.0f} s in all")


def run_case(
    suite: Suite, case: Case, device: torch.device, bandwidth: float | None, products: float | None
) -> Iterator[Row]:
    print(f"\n{case.name}")
    contenders = []
    for provider in providers(case, suite.needs_gpu):
        contender = _ready(provider, case, device)
        if contender is not None:
            contenders.append(contender)
    measure(contenders, case.modes, suite.rounds, suite.case_seconds)
    for contender in contenders:
        yield from show(case, contender, bandwidth, products)
    contenders.clear()
    _free()


def show(case: Case, contender: Contender, bandwidth: float | None, products: float | None) -> Iterator[Row]:
    """Prints a contender's lines and gives its rows; `limit` is the floor."""
    name, provider = contender.provider.name, contender.provider
    for mode, milliseconds in contender.milliseconds.items():
        low, middle, high = quantiles(milliseconds)
        floor = None
        if case.operator == "logprob_entropy":
            assert contender.inputs.logits is not None
            floor = bandwidth and case.nbytes(mode, contender.inputs.logits.element_size()) / bandwidth * 1e3
        elif products:
            floor = case.flop(mode) / products * 1e3
        share = f"{100 * floor / middle:5.1f}% of the floor" if floor else ""
        print(f"  {name:<28}{mode:<9}{middle:>10.3f} ms  [{low:.3f}, {high:.3f}]  {share}")
        yield Row(case.name, name, f"{mode}, median", middle, "ms", limit=floor or None)
        yield Row(case.name, name, f"{mode}, p20", low, "ms")
        yield Row(case.name, name, f"{mode}, p80", high, "ms")
    if torch.cuda.is_available():
        yield Row(case.name, name, "peak memory", contender.peak_bytes / 2**30, "GiB")
        yield Row(case.name, name, "of it results and gradients", contender.output_bytes / 2**30, "GiB")
    yield Row(case.name, name, "same bits twice", float(contender.repeats), "yes/no")
    memory = f"{contender.peak_bytes / 2**30:.2f} GiB more at its peak, " if torch.cuda.is_available() else ""
    note = f"; {provider.unequal}" if provider.unequal else ""
    print(f"  {'':<28}{memory}{'repeats' if contender.repeats else 'does not repeat'} its bits{note}")


def show_errors(rows: Iterator[Row]) -> Iterator[Row]:
    for row in rows:
        print(f"{row.case}  {row.provider:<24}{row.metric:<22}{row.value:10.3g} {row.unit}")
        yield row
    _free()


def _ready(provider: Provider, case: Case, device: torch.device) -> Contender | None:
    """None, and a line that says why, for one that is absent or fails."""
    try:
        work, renew = provider.prepare(), partial(make, case, device, provider.logits_dtype)
        contender = Contender(provider, work, renew(), renew)
        prove(contender)
    except (AbsentError, ImportError) as error:
        print(f"  {provider.name:<28}absent: {error}")
    except torch.OutOfMemoryError:
        print(f"  {provider.name:<28}does not fit this device")
        _free()
    except Exception as error:  # a peer's failure is its own
        if provider.name.startswith("fastsvs"):
            raise
        print(f"  {provider.name:<28}failed: {type(error).__name__}: {str(error).splitlines()[:1]}")
        _free()
    else:
        return contender
    return None


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
