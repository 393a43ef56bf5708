"""`python -m bench.compare --out bench/results --page docs/methods.md`: compare all methods at one number of responses.

Every method is trained from one base until it has sampled as many responses as the others, and is then evaluated. What
is done is only read, and what was killed continues. The figures are written as JSON, the table into the page, and the
picture beside the page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.compare import page
from bench.compare.figure import draw
from bench.compare.measure import measure
from bench.compare.plan import PLANS
from bench.compare.results import Results
from bench.jobs import finish
from bench.report import write
from fastsvs.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("--suite", choices=PLANS, default="tiny", help="smoke: that all of it runs")
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"), help="folder of runs and evaluations")
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON file")
    parser.add_argument("--page", type=Path, required=True, help="Markdown with a place for the table")
    parser.add_argument("--workers", type=int, default=2, help="runs side by side, one thread each")
    options = parser.parse_args()
    plan, root = PLANS[options.suite], options.runs
    try:
        finish(([plan.base(root)], plan.runs(root), plan.evaluations(root)), options.workers)
        finish((plan.timings(root),), workers=1)
        rows = measure(plan, root)
        source = write(plan.suite, rows, options.out)
        results = Results(tuple(rows))
        pictures = draw(options.page.with_suffix(".png"), plan, results)
        page.write(options.page, plan, results, source.name, [picture.name for picture in pictures])
    except UserError as error:
        sys.exit(f"bench.compare: {error}")
    print(f"wrote {options.page}, {source} and {', '.join(map(str, pictures))}")


if __name__ == "__main__":
    main()
