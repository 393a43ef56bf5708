"""What an answer can be: the forms that `fastsvs.verify.reader` reads and `fastsvs.verify.comparison` compares."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from fastsvs.verify.numbers import Number
from fastsvs.verify.units import Unit


@dataclass(frozen=True, slots=True)
class Expression:
    """Mathematics to be parsed; also what no reader knows."""

    text: str


@dataclass(frozen=True, slots=True)
class Words:
    """Words without a number, in lower case."""

    text: str


@dataclass(frozen=True, slots=True)
class Mixed:
    """Words and numbers that no reader takes for a quantity."""

    text: str
    numbers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the options of a question, A to J, with what stands behind its letter."""

    letter: str
    content: Form | None = None


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number or expression with a unit."""

    value: Form
    unit: Unit | None
    """Unit of the value, or None where it is not known."""
    words: str
    """Unit as it is written."""
    compound: bool = False
    """True for a sum of several units, such as hours and minutes, in the smallest of them."""


@dataclass(frozen=True, slots=True)
class Percent:
    """A number of hundredths."""

    value: Form


@dataclass(frozen=True, slots=True)
class Dots:
    """An ellipsis among the items of a sequence."""


@dataclass(frozen=True, slots=True)
class Items:
    """Several answers, or the parts of one.

    The kind is the two brackets around them (`()`, `[)`, `{}`, `<>`; an interval is `()` too), `list` for items without
    brackets, or `union`.
    """

    kind: str
    items: tuple[Form, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of the entries of a matrix or vector."""

    rows: tuple[tuple[Form, ...], ...]


@dataclass(frozen=True, slots=True)
class Named:
    """A value with the name of what has it, as in `x = 5`; an interval of values, for an inequality."""

    name: str
    value: Form
    text: str
    """Text of the value."""


@dataclass(frozen=True, slots=True)
class Relation:
    """Sides of an equation or inequality, or a chain of them, with the sign between each two."""

    sides: tuple[str, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Based:
    """Digits in a base other than ten."""

    digits: str
    base: int

    @property
    def value(self) -> Fraction:
        return Fraction(int(self.digits, self.base))


@dataclass(frozen=True, slots=True)
class Congruence:
    """Remainders modulo a number."""

    remainders: frozenset[int]
    modulus: int


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day, in seconds since midnight; before noon or after it where `half` is `a` or `p`."""

    seconds: int
    half: str


@dataclass(frozen=True, slots=True)
class Ratio:
    """Terms of a ratio, which may be a time of day."""

    terms: tuple[Form, ...]
    text: str


Form: TypeAlias = (
    Number
    | Expression
    | Words
    | Mixed
    | Choice
    | Quantity
    | Percent
    | Dots
    | Items
    | Matrix
    | Named
    | Relation
    | Based
    | Congruence
    | Clock
    | Ratio
)
