"""`python -m bench.reproduce --out bench/results --page docs/reproduction.md`: reproduce the papers on the tiny task.

SvS, RLVR and SFT are trained from the tiny base at three seeds, and their checkpoints are evaluated. What is done is
only read, and what was killed continues. The figures are written as JSON, then the page and its picture.
"""

from bench.experiments.main import Experiment, main
from bench.reproduce.figure import draw
from bench.reproduce.measure import measure
from bench.reproduce.page import render
from bench.reproduce.plan import PLANS

if __name__ == "__main__":
    main(Experiment("reproduce", PLANS, measure, draw, render), __doc__)
