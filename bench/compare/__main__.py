"""`python -m bench.compare --out bench/results --page docs/methods.md`: compare all methods at one number of responses.

Every method is trained from one base until it has sampled as many responses as the others, and is then evaluated. What
is done is only read, and what was killed continues. The figures are written as JSON, the table into the page, and the
picture beside the page.
"""

from bench.compare.figure import draw
from bench.compare.measure import measure
from bench.compare.page import render, split
from bench.compare.plan import PLANS
from bench.experiments.main import Experiment, main

if __name__ == "__main__":
    main(Experiment("compare", PLANS, measure, draw, render, check=split), __doc__)
