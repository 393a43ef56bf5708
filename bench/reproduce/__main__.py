"""`python -m bench.reproduce --out bench/results --page docs/reproduction.md`: reproduce the papers on the tiny task.

SvS, RLVR and SFT are trained from the tiny base at three seeds, and their checkpoints are evaluated. What is done is
only read, and what was killed continues. The figures are written as JSON, then the page and its picture.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.jobs import finish
from bench.report import write
from bench.reproduce import page
from bench.reproduce.figure import draw
from bench.reproduce.measure import measure
from bench.reproduce.plan import PLANS
from fastsvs.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.reproduce", description=__doc__)
    parser.add_argument("--suite", choices=PLANS, default="tiny", help="smoke: that all of it runs")
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduce"), help="folder of runs and evaluations")
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON file")
    parser.add_argument("--page", type=Path, required=True, help="Markdown to write; its pictures go beside it")
    parser.add_argument("--workers", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--shared", action="store_true", help="the machine did other work: note it, quote no seconds")
    options = parser.parse_args()
    plan = PLANS[options.suite]
    try:
        finish((plan.runs(options.runs), plan.evaluations(options.runs)), options.workers)
    except UserError as error:
        sys.exit(f"bench.reproduce: {error}")
    results = measure(plan, options.runs, "the machine did other work at the same time" if options.shared else None)
    source = write(plan.suite, results.rows, options.out)
    pictures = draw(options.page.with_suffix(".png"), plan, results)
    page.write(options.page, plan, results, source, pictures)
    print(f"wrote {options.page}, {source} and {', '.join(map(str, pictures))}")


if __name__ == "__main__":
    main()
