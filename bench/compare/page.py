"""The table of a comparison inside docs/methods.md, between two marks; the text around it is written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from bench.compare.plan import BASE, CONFIGS, RLVR, UNTIMED, Plan
from bench.compare.results import Results
from fastsvs.errors import UserError
from fastsvs.files import write_atomic

BEGIN, END = "<!-- made by make compare-tiny -->", "<!-- end of what is made -->"


def write(path: Path, plan: Plan, results: Results, source: str, pictures: Sequence[str]) -> None:
    """Put the table in its place. Raises UserError when the page has none."""
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise UserError(f"{path} needs the lines {BEGIN} and {END} where the table goes")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    write_atomic(path, f"{before}{BEGIN}\n\n{render(plan, results, source, pictures)}\n{END}{after}")


def render(plan: Plan, results: Results, source: str, pictures: Sequence[str]) -> str:
    light, dark = pictures
    many = f"pass@{plan.samples}"
    columns = {
        **{name: f"{name}, %" for name in ("pass@1", "pass@8", many) if name in {f"pass@{k}" for k in plan.ks}},
        "entropy": "entropy, nats/token",
        "sparsity/bf16": "weights equal in bf16, %",
        "responses": "responses",
        "steps": "steps",
        "milliseconds": "ms a response",
        "valuation": "valuation, %",
    }
    rows = [[method, *(_cell(results, method, metric) for metric in columns)] for method in (BASE, *CONFIGS)]
    table = _table(["", *columns.values()], rows)
    differences = _table(
        ["difference of", "pass@1, points", f"{many}, points", "entropy, nats/token"],
        [
            [f"{method} to {other}", *(_difference(results, method, other, m) for m in ("pass@1", many, "entropy"))]
            for method, other in ((method, BASE if method == RLVR else RLVR) for method in CONFIGS)
        ],
    )
    return f"""\
<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}"><img alt="pass@1, {many} and entropy of each \
method, and the solve rate in training" src="{light}"></picture>

Means of seeds {", ".join(map(str, plan.seeds))} (least to largest), on the problems of `tiny:heldout` at temperature 1,
{plan.samples} samples each; at the checkpoint nearest to {plan.budget:,} responses. Figures:
[{source}](../bench/results/{source}).

{table}

Time is that of whole steps over the responses sampled in them, steps {UNTIMED + 1} to {UNTIMED + plan.timed}, one
process with one thread alone on the machine; valuation is the share of rewards and advantages in it. Weights are
compared with the base's.

Bold: the 95% interval (bootstrap over problems and seeds) leaves out 0.

{differences}
"""


def _cell(results: Results, method: str, metric: str) -> str:
    values = results.seeds(method, metric)
    if not values:
        return ""
    if metric in ("responses", "steps"):
        return f"{fmean(values):,.0f}"
    if metric in ("milliseconds", "valuation"):
        return f"{values[0] * (1 if metric == 'milliseconds' else 100):.1f}"
    if metric == "entropy":
        return _spread(values, 1, 3)
    return _spread(values, 100, 1)


def _spread(values: Sequence[float], scale: float, digits: int) -> str:
    mean, low, high = (f"{scale * value:.{digits}f}" for value in (fmean(values), min(values), max(values)))
    return f"{mean} ({low} to {high})"


def _difference(results: Results, method: str, other: str, metric: str) -> str:
    scale, digits = (1, 3) if metric == "entropy" else (100, 1)
    value, low, high = (scale * each for each in results.difference(method, other, metric))
    text = f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
