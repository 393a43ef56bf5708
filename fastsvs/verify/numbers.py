"""Reads numbers that are written out, exactly: integers, decimals, repeating decimals, fractions, mixed numbers and
scientific notation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from fastsvs.verify.structure import enclosed

MOST_DIGITS = 4000
"""Number of digits, or largest exponent of ten, up to which a number is read."""
ROUNDED_DIGITS = 10
"""Number of significant digits from which on a decimal stands for a longer one."""
LEAST_DIGITS = 6
"""Number of significant digits that a decimal must have to stand for a number that it only rounds."""

_NUMERALS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
NUMERALS = {word: value for value, word in enumerate(_NUMERALS.split())}
"""English words for small numbers."""

_UNSIGNED = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+\.?\d*|\.\d+)"
_SCIENTIFIC = re.compile(
    rf"({_UNSIGNED})(?:[eE]([+-]?\d+)|\s?(?:\\times|\\cdot|[xX])\s?10\s?\^\s?(?:\{{\s?([+-]?\s?\d+)\s?\}}|([+-]?\d+)))"
)
_POWER_OF_TEN = re.compile(r"10\s?\^\s?(?:\{\s?([+-]?\s?\d+)\s?\}|(\d))")
_DECIMAL = re.compile(_UNSIGNED)
_REPEATING = re.compile(r"(\d*)\.(\d*)(?:\\(?:overline|dot)\s?\{(\d+)\}|\\(?:overline|dot)\s?(\d)|\((\d+)\))")
_CONTINUED = re.compile(r"(\d*)\.(\d{0,20}?)(\d{1,6}?)\3{2,}\s?\\dots")
_MIXED = re.compile(r"(\d+)\s?\\frac\s?\{\s?(\d+)\s?\}\s?\{\s?(\d+)\s?\}|(\d+) (\d+)\s?/\s?(\d+)")
_FRACTION = re.compile(r"\\frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}|([^/{}\\]+)/([^/{}\\]+)")


@dataclass(frozen=True, slots=True)
class Number:
    """A number that is written out."""

    value: Fraction
    places: int | None = None
    """Number of decimals that the decimal is written with, or None where it is no decimal."""


@lru_cache(maxsize=8192)
def read_number(text: str) -> Number | None:
    """Return the number that a plain text (see `spelling.plain`) writes out, or None where it is none, or has more than
    `MOST_DIGITS` digits."""
    text = text.strip()
    if len(text) > 3 * MOST_DIGITS:
        return None
    sign = re.match(r"(?:\\approx\s?)?([+-]?)\s?", text)
    assert sign is not None
    unsigned = text[sign.end() :]
    inner = enclosed(unsigned, "(", ")") or enclosed(unsigned, "{", "}")
    if inner is not None and re.match(r"[+-]?\s?(?:\d|\.|\\frac)", inner):
        number = read_number(inner)
    else:
        number = _unsigned(unsigned)
    return Number(-number.value, number.places) if number and sign[1] == "-" else number


def numeral(words: str) -> Number | None:
    """Return the number that an English word from zero to twenty names, or None."""
    value = NUMERALS.get(words.lower())
    return None if value is None else Number(Fraction(value))


def rounds(decimal: Number, value: Fraction) -> bool:
    """Check whether a decimal with at least `LEAST_DIGITS` significant digits is the other number, rounded. The other
    number must have no decimal of its own, as 1/3 has none."""
    if decimal.places is None or not _endless(value) or significant_digits(decimal) < LEAST_DIGITS:
        return False
    return abs(decimal.value - value) * 2 <= Fraction(1, 10**decimal.places)


def same_decimal(one: Number, other: Number) -> bool:
    """Check whether the longer of two decimals, of which both have `ROUNDED_DIGITS` significant digits, rounds to the
    shorter."""
    if one.places is None or other.places is None or one.places == other.places:
        return False
    shorter, longer = sorted((one, other), key=lambda number: number.places or 0)
    close = abs(shorter.value - longer.value) * 2 <= Fraction(10) ** -(shorter.places or 0)
    return close and significant_digits(shorter) >= ROUNDED_DIGITS


def significant_digits(decimal: Number) -> int:
    """Return the number of digits of a decimal without the zeros at both ends."""
    return len(str(abs(decimal.value.numerator * 10 ** (decimal.places or 0) // decimal.value.denominator)).strip("0"))


def _endless(value: Fraction) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest > 1


def _unsigned(text: str) -> Number | None:
    if match := _SCIENTIFIC.fullmatch(text):
        return _scaled(match[1], (match[2] or match[3] or match[4]).replace(" ", ""))
    if match := _POWER_OF_TEN.fullmatch(text):
        return _scaled("1", (match[1] or match[2]).replace(" ", ""))
    if _DECIMAL.fullmatch(text):
        return _scaled(text, "0")
    if match := _REPEATING.fullmatch(text) or _CONTINUED.fullmatch(text):
        return _repeating(match[1], match[2], next(block for block in match.groups()[2:] if block))
    if match := _MIXED.fullmatch(text):
        whole, over, under = (match[1], match[2], match[3]) if match[1] else (match[4], match[5], match[6])
        return _mixed(whole, over, under)
    if match := _FRACTION.fullmatch(text):
        over, under = (match[1], match[2]) if match[1] is not None else (match[3], match[4])
        return _ratio(read_number(over), read_number(under))
    return None


def _scaled(digits: str, exponent: str) -> Number | None:
    """Return `digits` times ten to the `exponent`."""
    whole, _, decimals = digits.replace(",", "").partition(".")
    if len(whole + decimals) > MOST_DIGITS or len(exponent) > 9 or abs(int(exponent)) > MOST_DIGITS:
        return None
    places = len(decimals) - int(exponent)
    value = Fraction(int(whole + decimals or "0")) * Fraction(10) ** -places
    return Number(value, places if "." in digits or int(exponent) else None)


def _repeating(whole: str, before: str, block: str) -> Number | None:
    if len(whole + before + block) > MOST_DIGITS // 4:
        return None
    once, twice = int(whole + before or "0"), int(whole + before + block)
    return Number(Fraction(twice - once, (10 ** len(block) - 1) * 10 ** len(before)))


def _mixed(whole: str, over: str, under: str) -> Number | None:
    """Return a mixed number; what follows its whole part must be a proper fraction."""
    if max(map(len, (whole, over, under))) > MOST_DIGITS // 4 or not int(over) < int(under):
        return None
    return Number(int(whole) + Fraction(int(over), int(under)))


def _ratio(over: Number | None, under: Number | None) -> Number | None:
    if over is None or under is None or under.value == 0:
        return None
    return Number(over.value / under.value)
