"""Results of an evaluation as text for a console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from fastsvs.evaluate.pass_at_k import Estimate
from fastsvs.evaluate.published import compare, missing_text

SHARES = ("truncated", "unverified", "distinct_answers", "called_right", "unread_votes", "unjudged")
SETS_ABREAST = 4
WIDTH = 120
"""Width of the text where there is no terminal, in characters."""


def show_results(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the results as tables with a column for each set and a line for each figure."""
    names = list(results)
    for first in range(0, len(names), SETS_ABREAST):
        sets = [(name, results[name]) for name in names[first : first + SETS_ABREAST]]
        table = Table("", *(name for name, _ in sets))
        for figure in dict.fromkeys(figure for _, result in sets for figure in result):
            table.add_row(figure, *(_show(figure, result.get(figure)) for _, result in sets))
        _print(table)


def show_comparison(name: str, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Print `results` of the model `name` beside the published figures, in percent, and the cells that it lacks."""
    comparisons = compare(name, results)
    if not comparisons:
        _print("nothing to compare: no set of this evaluation is in the published tables")
    for comparison in comparisons:
        table = Table("model", *comparison.sets, "average", title=comparison.metric)
        for index, (model, values) in enumerate(comparison.rows):
            shown = ["-" if value is None else f"{value:.1f}" for value in values]
            table.add_row(model, *shown, style="bold" if index == 0 else "")
        _print(table)
        if comparison.missing:
            _print(f"missing in the row of {name}: {missing_text(comparison.missing)}")


def _show(figure: str, value: Any) -> str:
    match value:
        case None:
            return "-"
        case {"mean": _}:
            return str(Estimate(**value))
        case int():
            return f"{value:,}"
    return f"{value:.1%}" if figure in SHARES else f"{value:,.3f}"


def _print(content: Table | str) -> None:
    terminal = Console().is_terminal
    Console(width=None if terminal else WIDTH).print(content, markup=False)
