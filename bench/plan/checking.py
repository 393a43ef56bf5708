"""Processor time of checking an answer that is no plain integer, as the verifier's processes do it."""

from __future__ import annotations

from itertools import product
from time import process_time

from fastsvs.verify.worker import check

ANSWERS = (
    *(r"\frac{6}{8}", r"\sqrt{12}", r"(1, 2)", r"[0, +\infty)", r"(x+1)^2", r"\frac{5}{2}", r"90^\circ", r"31.4"),
    *(r"-1/3", r"(-\infty,-1)\cup(1,\infty)", r"2^{10}", r"\text{Evelyn}", r"\frac{157}{50}", r"\$12.50", r"5\%"),
    *(r"\begin{pmatrix}1\\2\end{pmatrix}", r"\frac{3}{4}", r"2\sqrt{3}", r"x^2+2x+1", r"10\pi", r"0.05", r"3.14"),
)
"""Forms that answers of MATH have. Each is compared with each."""


def seconds() -> float:
    """Return the processor time of a check, the mean over all pairs."""
    pairs = [(f"\\boxed{{{answer}}}", gold) for answer, gold in product(ANSWERS, ANSWERS)]
    for pair in pairs[: len(ANSWERS)]:
        check(*pair)
    began = process_time()
    for pair in pairs:
        check(*pair)
    return (process_time() - began) / len(pairs)
