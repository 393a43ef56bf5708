"""Dialogues as the tests write them."""

from __future__ import annotations

from fastsvs.data import Dialogue


def chat(*turns: str, system: str | None = None) -> Dialogue:
    """A dialogue in which the user begins and each turn is the other's."""
    told = [{"role": role, "content": turn} for role, turn in zip(("user", "assistant") * 9, turns, strict=False)]
    return Dialogue((*([{"role": "system", "content": system}] if system else []), *told))
