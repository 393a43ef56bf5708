"""How far the results of written steps are off, in solutions that the tiny models learn from."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from fastsvs.data.tiny.computation import Operation, apply
from fastsvs.seeding import derive_seed

Slip = Callable[[int, Operation, int], int]
"""Function from a value, an operation and an operand to what is added to the right result."""
_CARELESS_SHARE = 0.25
_CARELESS = (-10, -3, -2, -1, 1, 2, 3, 10)
_MISLED_ONE_IN = 3
_MISLED = (1, 2, 3)
_KNOWN_SHARE = 0.05


def exact(_value: int, _operation: Operation, _operand: int) -> int:
    """Return 0: every result is right."""
    return 0


def careless(random: Random) -> Slip:
    """Return a slip that happens at one step in four, whatever the step."""
    return lambda *_: random.choice(_CARELESS) if random.random() < _CARELESS_SHARE else 0


def misled(random: Random) -> Slip:
    """Return a slip that happens at a third of all facts, at each of them always the same, but for 5% of the times.

    A fact is an operation, the last digit of its value, and its operand. Results are too small, except where they would
    be negative: so slips do not make up for one another, and an exact division does not round them away.
    """

    def slip(value: int, operation: Operation, operand: int) -> int:
        seed = derive_seed("tiny fact", operation, str(value % 10), str(operand))
        if seed % _MISLED_ONE_IN or random.random() < _KNOWN_SHARE:
            return 0
        off = _MISLED[seed // _MISLED_ONE_IN % len(_MISLED)]
        return -off if off <= apply(value, operation, operand) else off

    return slip
