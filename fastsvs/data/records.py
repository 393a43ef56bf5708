"""Problems and dialogues, wherever they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, str]
"""One chat turn: `{"role": ..., "content": ...}`, and `reasoning_content` where it has thoughts apart from that."""
REASONING = "reasoning_content"


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with a verifiable answer. `id` is unique within its data set and stable between runs."""

    id: str
    question: str
    answer: str
    solution: str | None = None
    source: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Notes of whoever made the problem: a stage, or the tiny task."""
    system: str | None = None
    """System message that the data set sends before the question, in the place of `data.system_prompt`."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """All columns of the data row, as they were read."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A supervised example: the assistant's turns are learned."""

    messages: tuple[Message, ...]
