"""Tokens of responses, of the groups that a run kept them of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

MOST_TOKENS = 500_000
"""Largest number of tokens of one run that a page holds, dealt evenly over its steps: about 6 MB of the page."""
Figures = list[float | None]


class TokenRow(BaseModel):
    """Types that the page needs of the values in a row of a file of tokens."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    key: str
    prompt: str
    texts: list[list[str]]
    engine_logprobs: list[Figures]
    policy_logprobs: list[Figures | None]
    entropies: list[Figures | None]

    @model_validator(mode="after")
    def _has_a_figure_for_each_token(self) -> TokenRow:
        lengths = [len(texts) for texts in self.texts]
        for figures in (self.engine_logprobs, self.policy_logprobs, self.entropies):
            found = [length if each is None else len(each) for each, length in zip(figures, lengths, strict=False)]
            if len(figures) != len(lengths) or found != lengths:
                raise ValueError("not a figure for each token")
        return self


def tokens_of(row: Mapping[str, Any]) -> int:
    """Return the number of tokens of a group's responses."""
    return sum(len(texts) for texts in row["texts"])


def for_page(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page takes of a row."""
    return {name: row[name] for name in TokenRow.model_fields if name != "key"}


def fitting(families: Sequence[Sequence[Mapping[str, Any]]], room: int) -> list[Mapping[str, Any]]:
    """Return the rows of the first families whose tokens fit into the room together, those of one family at least."""
    taken: list[Mapping[str, Any]] = []
    for rows in families:
        room -= sum(map(tokens_of, rows))
        if taken and room < 0:
            break
        taken += rows
    return taken
