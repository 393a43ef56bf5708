"""The computations of the tiny task, and their split.

A computation is a chain of one to three operations (+, -, *, exact division) on integers from 0 to 60. A hash of
(start, steps) sends one computation in eight to held-out, whatever tells it, so no held-out computation can occur in
training or SFT data under any seed or size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from fastsvs.seeding import derive_seed

LARGEST = 60
LARGEST_START = 20
LARGEST_OPERAND = 10
FACTORS = range(2, 6)
Split = Literal["train", "heldout"]
Operation = Literal["+", "-", "*", "/"]
Step = tuple[Operation, int]
OPERATIONS: tuple[Operation, ...] = ("+", "-", "*", "/")
_STEP_WEIGHTS = (2, 2, 1)
"""Relative frequency of problems of one, two and three steps."""


@dataclass(frozen=True, slots=True)
class Computation:
    """A computation: `start`, then each (operation, operand) in turn; all values are integers in 0..LARGEST."""

    start: int
    steps: tuple[Step, ...]

    def values(self) -> list[int]:
        """Return the value after each step."""
        values, value = [], self.start
        for operation, operand in self.steps:
            value = apply(value, operation, operand)
            values.append(value)
        return values

    @property
    def answer(self) -> int:
        return self.values()[-1]

    @property
    def split(self) -> Split:
        return "heldout" if derive_seed("tiny split", self.start, *map(str, self.steps)) % 8 == 0 else "train"


def draw_computation(random: Random, split: Split) -> Computation:
    """Draw a computation of `split`, with operations uniform among those that stay in range."""
    while True:
        start = random.randint(2, LARGEST_START)
        value, steps = start, []
        for _ in range(random.choices((1, 2, 3), _STEP_WEIGHTS)[0]):
            step = _draw_step(random, value)
            value = apply(value, *step)
            steps.append(step)
        computation = Computation(start, tuple(steps))
        if computation.split == split:
            return computation


def _draw_step(random: Random, value: int) -> Step:
    operands: dict[Operation, Sequence[int]] = {
        "+": range(2, min(LARGEST_OPERAND, LARGEST - value) + 1),
        "-": range(2, min(LARGEST_OPERAND, value) + 1),
        "*": [factor for factor in FACTORS if 0 < value * factor <= LARGEST],
        "/": [divisor for divisor in FACTORS if value > 0 and value % divisor == 0],
    }
    operation = random.choice([operation for operation, choices in operands.items() if choices])
    return operation, random.choice(operands[operation])


def apply(value: int, operation: Operation, operand: int) -> int:
    match operation:
        case "+":
            return value + operand
        case "-":
            return value - operand
        case "*":
            return value * operand
        case "/":
            return value // operand
