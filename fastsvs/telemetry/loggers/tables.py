"""Samples of a step as a table for loggers: some groups of each kind, one row for each of their responses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice, zip_longest
from typing import Any

OF_THE_GROUP = ("step", "kind", "problem", "question", "answer")
BY_RESPONSE = {"response": "responses", "verdict": "verdicts", "reward": "rewards", "tokens": "tokens"}
"""Columns with a value of each response, and the names of these values in the samples of a step."""
COLUMNS = (*OF_THE_GROUP, *BY_RESPONSE)
"""Columns of a table, in order."""


def table_of(groups: Iterable[Mapping[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Return the rows of at most `limit` groups of samples, dealt evenly over the kinds, each kind's first ones."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for group in groups:
        kinds.setdefault(group["kind"], []).append(group)
    dealt = (group for turn in zip_longest(*kinds.values()) for group in turn if group is not None)
    return [
        {**{name: group[name] for name in OF_THE_GROUP}, **dict(zip(BY_RESPONSE, values, strict=True))}
        for group in islice(dealt, limit)
        for values in zip(*(group[name] for name in BY_RESPONSE.values()), strict=True)
    ]


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the values of a table by column."""
    return {name: [row[name] for row in rows] for name in COLUMNS}


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table as Markdown."""
    lines = chain([COLUMNS, ["---"] * len(COLUMNS)], ([row[name] for name in COLUMNS] for row in rows))
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def _cell(value: Any) -> str:
    """Return a value as the text of one cell, which shows it as it is."""
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    return "<br>".join(text.splitlines())
