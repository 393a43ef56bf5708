"""`python -m bench.reproduce --out bench/results --page docs/reproduction.md`: reproduce the papers on the tiny task.

SvS, its controls, RLVR and SFT are trained from the tiny base at three seeds, and their checkpoints are evaluated. What
is done is only read, and what was killed continues. The figures are written as JSON, then the page and its picture.
`--quick` shows the shape at one seed in 20 minutes; `--seeds 0` makes a page of the seeds that are done, and
`--methods` one of some methods.
With `--paper CONFIG` it is a page of the paper's own scale instead: `--paper CONFIG --help` says what it takes.
"""

import sys

from bench.experiments.main import Experiment, main
from bench.reproduce.figure import draw
from bench.reproduce.measure import measure
from bench.reproduce.page import render
from bench.reproduce.paper import main as write_paper_page
from bench.reproduce.plan import PLANS

if __name__ == "__main__":
    if any(word.split("=")[0] == "--paper" for word in sys.argv[1:]):
        write_paper_page()
    else:
        main(Experiment("reproduce", PLANS, measure, draw, render), __doc__)
