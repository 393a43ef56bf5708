"""`python -m bench.reproduce --paper configs/paper/3b_math12k_svs.yaml --out bench/results --page docs/paper_3b.md`:
the page of one pair of rows of the paper, from what its runs and evaluations have left."""

from __future__ import annotations

from pathlib import Path

from bench.report import write
from bench.reproduce.paper.arms import arms_of
from bench.reproduce.paper.measure import rows_of
from bench.reproduce.paper.page import render
from bench.usage import exits_on_errors, parser_of
from fastsvs.files import write_atomic


def main() -> None:
    """Run the command line. Exits with status 2 and a message where a UserError is raised."""
    parser = parser_of("reproduce", __doc__)
    parser.add_argument("--paper", type=Path, required=True, metavar="CONFIG", help="either run of a pair")
    parser.add_argument("--page", type=Path, required=True, help="Markdown to write")
    options = parser.parse_args()
    with exits_on_errors(parser):
        arms = arms_of(options.paper)
        source = write(f"paper-{options.paper.stem.rpartition('_')[0]}", rows_of(arms), options.out)
        earlier = options.page.read_text(encoding="utf-8") if options.page.exists() else ""
        write_atomic(options.page, render(options.paper, arms, source.name, earlier))
    print(f"wrote {options.page} and {source}")
