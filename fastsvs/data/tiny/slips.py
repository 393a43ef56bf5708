"""How far the results of written steps are off, in solutions that the tiny models learn from."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from fastsvs.data.tiny.computation import Operation
from fastsvs.seeding import derive_seed

Slip = Callable[[int, Operation, int], int]
"""Function from a value, an operation and an operand to what is added to the right result."""
_CARELESS_SHARE = 0.25
_CARELESS = (-10, -3, -2, -1, 1, 2, 3, 10)
_MISLED_ONE_IN = 4
_MISLED = 60
_KNOWN_SHARE = 0.09


def exact(_value: int, _operation: Operation, _operand: int) -> int:
    """Return 0: every result is right."""
    return 0


def careless(random: Random) -> Slip:
    """Return a slip that happens at one step in four, whatever the step."""
    return lambda *_: random.choice(_CARELESS) if random.random() < _CARELESS_SHARE else 0


def misled(random: Random) -> Slip:
    """Return a slip that happens at one fact in four, three in ten of those that occur, but for 9% of the times.

    A fact is an operation, the last digit of its value, and its operand. Results are too large by 60: so slips do not
    make up for one another, a division that is exact stays so, and the facts of later steps are those of right values.
    """

    def slip(value: int, operation: Operation, operand: int) -> int:
        seed = derive_seed("tiny fact", operation, str(value % 10), str(operand))
        return 0 if seed % _MISLED_ONE_IN or random.random() < _KNOWN_SHARE else _MISLED

    return slip
