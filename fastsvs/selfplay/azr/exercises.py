"""Programs with inputs and outputs, and the bounded buffers that proposals end up in."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from fastsvs.data.sources import read_tables
from fastsvs.errors import UserError
from fastsvs.sandbox import Value
from fastsvs.shipped import missing


@dataclass(frozen=True, slots=True)
class Exercise:
    """`program` defines `f`, which gives `outputs[i]` for `inputs[i]`. The paper's triplet has one of each."""

    program: str
    inputs: tuple[str, ...]
    """The arguments of one call each, as literal text."""
    outputs: tuple[str, ...]
    """As literal text, which `literal` reads back."""
    message: str = ""
    """Induction: what the proposer tells the solver."""

    @property
    def seen(self) -> int:
        """Induction: so many of the pairs, the first half, are shown; the others are what the answer is tried on."""
        return (len(self.inputs) + 1) // 2

    def as_json(self) -> dict[str, Any]:
        inputs, outputs = list(self.inputs), list(self.outputs)
        return {"program": self.program, "inputs": inputs, "outputs": outputs, "message": self.message}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Exercise:
        return cls(tree["program"], tuple(tree["inputs"]), tuple(tree["outputs"]), tree["message"])


IDENTITY = Exercise("def f(x): return x", ("1",), ("1",))
"""What the buffers begin with: the paper's seed is the identity function too."""


def literal(text: str) -> Value:
    """The plain data that `literal_text` wrote; not for what a model wrote."""
    return ast.literal_eval(text)


def literal_text(value: Value, longest: int) -> str | None:
    """The value as text that reads back as it; None when there is no such text of up to `longest` characters.

    Infinity, not-a-number and frozen sets have none.
    """
    try:
        text = repr(value)
        return text if len(text) <= longest and ast.literal_eval(text) == value else None
    except (ValueError, SyntaxError):
        return None


def read_seeds(path: str | None) -> list[Exercise]:
    """The rows `snippet`, `input`, `output` of a jsonl file; outputs are taken as they stand. Raises UserError."""
    if path is None:
        return [IDENTITY]
    if not Path(path).is_file():
        raise UserError(f"selfplay.azr.seed_file: {missing(path)}")
    return [
        _seed(row, f"{table.where} row {index}")
        for table in read_tables(path, "train")
        for index, row in enumerate(table.rows)
    ]


def _seed(row: Mapping[str, Any], where: str) -> Exercise:
    texts = [row.get(name) for name in ("snippet", "input", "output")]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where} must have the texts snippet, input and output")
    snippet, given, output = map(str, texts)
    try:
        text = literal_text(literal(output), len(output) + 100)
    except (ValueError, SyntaxError):
        text = None
    if text is None:
        raise UserError(f"{where}: the output {output!r} is no literal of plain data")
    return Exercise(snippet, (given,), (text,))


class Buffer:
    """The newest `size` exercises, none twice: one that comes again counts as new.

    (The AZR code truncates to the oldest, so that a full buffer never changes again.)
    """

    def __init__(self, size: int, exercises: Iterable[Exercise] = ()) -> None:
        self._size = size
        self._fresh = 0
        self._exercises: dict[Exercise, None] = {}
        """Oldest first."""
        self.push(exercises)

    def __len__(self) -> int:
        return len(self._exercises)

    @property
    def exercises(self) -> Sequence[Exercise]:
        """Oldest first."""
        return list(self._exercises)

    def push(self, exercises: Iterable[Exercise]) -> int:
        """How many of the (different) exercises it had already. All of them are fresh until the next push."""
        new = list(dict.fromkeys(exercises))
        repeated = sum(exercise in self._exercises for exercise in new)
        for exercise in new:
            self._exercises.pop(exercise, None)
            self._exercises[exercise] = None
        for exercise in self.exercises[: -self._size]:
            del self._exercises[exercise]
        self._fresh = min(len(new), self._size)
        return repeated

    def draw(self, count: int, random: Random) -> list[Exercise]:
        """Up to `count` different ones, in any order."""
        return random.sample(self.exercises, min(count, len(self)))

    def draw_newest(self, count: int, random: Random) -> list[Exercise]:
        """Up to `count` different ones: the fresh ones first, newest first, then any of the others."""
        exercises = self.exercises
        older = len(exercises) - self._fresh
        fresh = list(reversed(exercises[older:]))[:count]
        return fresh + random.sample(exercises[:older], min(count - len(fresh), older))

    def memory(self) -> dict[str, Any]:
        """JSON for `recall`."""
        return {"exercises": [exercise.as_json() for exercise in self._exercises], "fresh": self._fresh}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Also from a larger buffer: the newest stay."""
        kept = memory["exercises"][-self._size :]
        self._exercises = dict.fromkeys(map(Exercise.from_json, kept))
        self._fresh = min(memory["fresh"], self._size)
