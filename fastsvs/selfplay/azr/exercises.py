"""Exercises (programs with inputs and outputs), and the bounded buffers that keep valid proposals."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from fastsvs.data import read_tables
from fastsvs.errors import UserError
from fastsvs.sandbox import Value
from fastsvs.shipped import missing


@dataclass(frozen=True, slots=True)
class Exercise:
    """A program that defines `f`, where `f` gives `outputs[i]` for `inputs[i]`. The paper's triplet has one of each."""

    program: str
    inputs: tuple[str, ...]
    """Arguments of one call each, as literal text."""
    outputs: tuple[str, ...]
    """Result of each call, as literal text that `literal` reads back."""
    message: str = ""
    """Message of the proposer to the solver, for induction."""

    @property
    def seen(self) -> int:
        """Return how many of the pairs induction shows, which is the first half. The answer is tried on the others."""
        return (len(self.inputs) + 1) // 2

    def as_json(self) -> dict[str, Any]:
        inputs, outputs = list(self.inputs), list(self.outputs)
        return {"program": self.program, "inputs": inputs, "outputs": outputs, "message": self.message}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Exercise:
        return cls(tree["program"], tuple(tree["inputs"]), tuple(tree["outputs"]), tree["message"])


IDENTITY = Exercise("def f(x): return x", ("1",), ("1",))
"""First exercise of the buffers: the paper's seed is the identity function too."""


def literal(text: str) -> Value:
    """Return the plain data that `literal_text` wrote. Do not use it on what a model wrote."""
    return ast.literal_eval(text)


def literal_text(value: Value, longest: int) -> str | None:
    """Return the value as text that reads back as it, or None when there is no such text of up to `longest` characters.

    Infinity, not-a-number and frozen sets have none.
    """
    try:
        text = repr(value)
        return text if len(text) <= longest and ast.literal_eval(text) == value else None
    except (ValueError, SyntaxError):
        return None


def read_seeds(path: str | None) -> list[Exercise]:
    """Read exercises from the rows `snippet`, `input`, `output` of a jsonl file, or return the identity without a file.

    Outputs are taken as they stand. Raises UserError when the file is missing or a row cannot be used.
    """
    if path is None:
        return [IDENTITY]
    if not Path(path).is_file():
        raise UserError(f"selfplay.azr.seed_file: {missing(path)}")
    return [
        _seed(row, f"{table.where} row {index}")
        for table in read_tables(path, "train")[0]
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
    """The newest `size` exercises, each once: an exercise that comes again counts as new.

    (The AZR code truncates to the oldest, so that a full buffer never changes again.)
    """

    def __init__(self, size: int, exercises: Iterable[Exercise] = ()) -> None:
        self._size = size
        self._fresh = 0
        self._exercises: dict[Exercise, None] = {}
        """Exercises, oldest first."""
        self.push(exercises)

    def __len__(self) -> int:
        return len(self._exercises)

    @property
    def exercises(self) -> Sequence[Exercise]:
        """Return the exercises, oldest first."""
        return list(self._exercises)

    def push(self, exercises: Iterable[Exercise]) -> int:
        """Add exercises and return how many of them, each counted once, the buffer already had.

        The added exercises are the fresh ones until the next push.
        """
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
        """Return up to `count` different exercises, in random order."""
        return random.sample(self.exercises, min(count, len(self)))

    def draw_newest(self, count: int, random: Random) -> list[Exercise]:
        """Return up to `count` different exercises: the fresh ones first, newest first, then random ones of the
        others."""
        exercises = self.exercises
        older = len(exercises) - self._fresh
        fresh = list(reversed(exercises[older:]))[:count]
        return fresh + random.sample(exercises[:older], min(count - len(fresh), older))

    def state_dict(self) -> dict[str, Any]:
        """Return JSON that `load_state_dict` reads."""
        return {"exercises": [exercise.as_json() for exercise in self._exercises], "fresh": self._fresh}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave. When it comes from a larger buffer, the newest exercises stay."""
        kept = state["exercises"][-self._size :]
        self._exercises = dict.fromkeys(map(Exercise.from_json, kept))
        self._fresh = min(state["fresh"], self._size)
