"""Command line: run a suite, print each case as it ends, keep one JSON file up to date.

python -m bench.kernels --suite h200|smoke|simulated --out DIR
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from bench import report
from bench.kernels.accuracy import errors
from bench.kernels.budget import Budget
from bench.kernels.cases import run_case
from bench.kernels.ceilings import Ceilings
from bench.kernels.checks import checks, is_broken
from bench.kernels.measure import NO_ROOM, attempt, free
from bench.kernels.parts import parts
from bench.kernels.providers import providers
from bench.kernels.simulated import simulate
from bench.kernels.suites import BYTES, CHECK_SECONDS, SUITES, Case, Suite, flop_of
from bench.kernels.targets import OURS, verdicts
from bench.report import Row
from bench.usage import parser_of

SIMULATED = "simulated"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("kernels", __doc__, {*SUITES, SIMULATED})
    parser.add_argument("--without", nargs="+", default=[], help="names of providers to leave out, e.g. one that hangs")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="end sooner or later than the suite would")
    chosen = parser.parse_args(arguments)
    if chosen.suite == SIMULATED:
        report.introduce(SIMULATED, needs_gpu=False)
        report.keep(f"kernels-{SIMULATED}", map(show, simulate()), chosen.out)
        return
    suite = SUITES[chosen.suite]
    suite = replace(suite, limit_seconds=chosen.limit or suite.limit_seconds)
    report.introduce(chosen.suite, suite.needs_gpu)
    if not suite.needs_gpu:
        print("smoke: tiny shapes, to see that the benchmark runs; its figures say nothing about speed on a GPU")
    print(f"{flop_of()}\n{BYTES}")

    rows = report.keep(f"kernels-{chosen.suite}", run(suite, chosen.without), chosen.out)
    report.write(f"kernels-{chosen.suite}", [*rows, *verdicts(rows)], chosen.out)
    failed = (row for row in rows if row.metric == "measured" and row.note != NO_ROOM)
    if any(row.provider.startswith(OURS) for row in failed) or any(map(is_broken, rows)):
        sys.exit("fastsvs itself failed: see above")


def run(suite: Suite, without: Collection[str]) -> Iterator[list[Row]]:
    """Yield the rows of case after case, as far as the time allows.

    The first case of an operator is followed by its errors to float64, the first policy loss by its parts too. On a GPU
    the checks come last.
    """
    device = torch.device("cuda" if suite.needs_gpu else "cpu")
    budget, ceilings = Budget(suite), Ceilings(suite.needs_gpu)
    seen: set[str] = set()
    for wanted in suite.cases:
        case = next(filter(budget.fits, (wanted, replace(wanted, peers=False))), None)
        if case != wanted:
            what = "left out" if case is None else "without peers"
            print(f"\n{wanted.name}: {what}, it would not end within {suite.limit_seconds:.0f} s of the suite's start")
        if case is None:
            continue
        yield ceilings.measure(case)
        yield list(run_case(case, budget, ceilings, device, without))
        if case.operator not in seen:
            seen.add(case.operator)
            yield from first_of_operator(case, ceilings, device, without)
    if suite.needs_gpu:
        print()
        yield list(checks(CHECK_SECONDS))
    print(f"\n{budget.elapsed():.0f} s in all")


def first_of_operator(
    case: Case, ceilings: Ceilings, device: torch.device, without: Collection[str]
) -> Iterator[list[Row]]:
    chosen = [p for p in providers(case, ceilings.gpu) if p.complete and p.name not in without]
    studies: dict[str, Callable[[], Iterable[Row]]] = {"errors": partial(errors, case, chosen, device)}
    if case.operator == "linear_policy_loss":
        studies = {"parts": partial(parts, case, device, ceilings), **studies}
    for name, study in studies.items():
        rows, reason = attempt(OURS, lambda study=study: show(study()))
        if rows is None:
            print(f"{case.name}: {name} {reason}")
            rows = [Row(f"{case.name}/{name}", OURS, "measured", 0.0, "yes/no", note=reason)]
        yield rows


def show(rows: Iterable[Row]) -> list[Row]:
    shown = []
    for row in rows:
        print(f"{row.case}  {row.provider:<31}{row.metric:<22}{row.value:10.3g} {row.unit}")
        shown.append(row)
    free()
    return shown


if __name__ == "__main__":
    main()
