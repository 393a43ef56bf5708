"""The table of a comparison inside docs/methods.md, between two marks; the text around it is written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from bench.compare.plan import CONFIGS, REFERENCES, UNTIMED, Comparison
from bench.compare.results import Results
from bench.experiments.page import interval, scale_of, spread, table
from bench.experiments.plan import BASE
from fastsvs.errors import UserError

BEGIN, END = "<!-- made by make compare-tiny -->", "<!-- end of what is made -->"


def render(plan: Comparison, results: Results, source: str, pictures: Sequence[str], earlier: str) -> str:
    """Return the page before with the tables in their place."""
    before, after = split(earlier)
    return f"{before}{BEGIN}\n\n{made(plan, results, source, pictures)}\n{END}{after}"


def split(page: str) -> tuple[str, str]:
    """Return what stands before and after the tables. Raises UserError when the page has no place for them."""
    if BEGIN not in page or END not in page:
        raise UserError(f"the file of --page needs the lines {BEGIN} and {END} where the table goes")
    return page.partition(BEGIN)[0], page.partition(END)[2]


def made(plan: Comparison, results: Results, source: str, pictures: Sequence[str]) -> str:
    """Return what stands between the marks. Times with a note are not quoted."""
    light, dark = pictures
    many = f"pass@{plan.samples}"
    columns = {
        **{name: f"{name}, %" for name in ("pass@1", "pass@8", many) if name in {f"pass@{k}" for k in plan.ks}},
        "entropy": "entropy, nats/token",
        "sparsity/bf16": "weights equal in bf16, %",
        "responses": "responses",
        "steps": "steps",
        **({} if results.notes else {"milliseconds": "ms a response", "credit": "credit, %"}),
    }
    rows = [[method, *(_cell(results, method, metric) for metric in columns)] for method in (BASE, *CONFIGS)]
    endings = table(["", *columns.values()], rows)
    differences = table(
        ["difference of", "pass@1, points", f"{many}, points", "entropy, nats/token"],
        [
            [f"{method} to {other}", *(_difference(results, method, other, m) for m in ("pass@1", many, "entropy"))]
            for method, other in REFERENCES.items()
        ],
    )
    return f"""\
<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}"><img alt="pass@1, {many} and entropy of each \
method, and the solve rate in training" src="{light}"></picture>

Means of seeds {", ".join(map(str, plan.seeds))} (least to largest), on the problems of `tiny:heldout` at temperature 1,
{plan.samples} samples each; at the checkpoint nearest to {plan.budget:,} responses. Figures:
[{source}](../bench/results/{source}).

{endings}

{_times(plan, results)} Weights are
compared with the base's.

Bold: the 95% interval (bootstrap over problems and seeds) leaves out 0.

{differences}
"""


def _times(plan: Comparison, results: Results) -> str:
    if results.notes:
        return f"No times are quoted: {'; '.join(results.notes)}."
    return f"""\
Time is that of whole steps over the responses sampled in them, steps {UNTIMED + 1} to {UNTIMED + plan.timed}, one
process with one thread alone on the machine; credit is the share of rewards and advantages in it."""


def _cell(results: Results, method: str, metric: str) -> str:
    values = results.seeds(method, metric)
    if not values:
        return ""
    if metric in ("responses", "steps"):
        return f"{fmean(values):,.0f}"
    if metric in ("milliseconds", "credit"):
        return f"{values[0] * (1 if metric == 'milliseconds' else 100):.1f}"
    return spread(values, *scale_of(metric))


def _difference(results: Results, method: str, other: str, metric: str) -> str:
    found = results.difference(method, other, metric)
    text = interval(found, metric)
    return f"**{text}**" if found.low > 0 or found.high < 0 else text
