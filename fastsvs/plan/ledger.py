"""Lines of a plan: an amount, and how far it can be believed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Basis:
    """Basis that an amount rests on."""

    kind: Literal["exact", "calibrated", "assumed"]
    source: str = ""
    """File with the measurements behind a calibrated amount, or the reason for an assumed one; empty for an exact
    one."""

    def __str__(self) -> str:
        return f"{self.kind} ({self.source})" if self.source else self.kind


EXACT = Basis("exact")


def calibrated(file: str) -> Basis:
    """Return the basis of an amount that follows from the measurements in `file`."""
    return Basis("calibrated", file)


def assumed(why: str) -> Basis:
    """Return the basis of an amount that nothing here has measured."""
    return Basis("assumed", why)


@dataclass(frozen=True, slots=True)
class Line:
    """One amount of a plan, in bytes or in seconds."""

    name: str
    amount: float
    basis: Basis = EXACT
    between: bool = False
    """True for seconds of messages between devices."""


def total(lines: Iterable[Line]) -> float:
    """Return the sum of the amounts."""
    return sum(line.amount for line in lines)


def certain(lines: Iterable[Line]) -> float:
    """Return the sum of the amounts that are exact whatever the data."""
    return total(line for line in lines if line.basis == EXACT)
