"""Reads quantities with units, times of day, and words."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from fastsvs.verify.forms import Clock, Expression, Form, Mixed, Percent, Quantity, Words
from fastsvs.verify.numbers import Number, numeral, read_number
from fastsvs.verify.spelling import FUNCTIONS
from fastsvs.verify.units import read_unit

MULTIPLES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
LONGEST = 400
"""Number of characters up to which a text is a quantity."""

_PART = re.compile(r"(\d[\d,]*(?:\.\d+)?)\s?([A-Za-z$]+)\.?\s?(?:,|and)?\s?")
_CLOCK = re.compile(r"(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?\s?([AaPp])\.?\s?[Mm]\.?")
_CURRENCY = re.compile(r"([+-]?)\s?(\\\$|[$€£¥₹]|Rs\.?|USD|EUR|GBP)\s?(.+)", re.DOTALL)
_PERCENT = re.compile(r"(.+?)\s?(?:%|(?<![A-Za-z])(?:percent|per cent|pct|percentage)(?: points?)?)", re.DOTALL)
_GLUED = re.compile(r"(.*[\d)}])\s?(\^\\circ(?:\s?[CF])?|[€£¥₹¢]|[A-Za-z]{2,}(?:[\^/].*)?)", re.DOTALL)
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_LETTERS = frozenset(("m", "s", "g", "h", "L", "N", "J", "W", "V", "K"))
"""Letters that are units when they stand alone behind a number and a space."""
_BETWEEN_NUMBERS = re.compile(r"\d (?![xX])[A-Za-z]{1,3} \d|(?<![\\A-Za-z])[A-Za-z]{2,} \d")
_FEET = re.compile(r"(\d+)\s?'\s?(\d+(?:\.\d+)?)\s?(?:\"|'')")
_WORD = re.compile(r"(?<![\\A-Za-z\d_^{])(?<![+*/^=<>_-]\s)[A-Za-z]{3,}(?![A-Za-z\d_^(}])(?!\s?[+*/^=<>_-])")
_NUMERAL = re.compile(r"\d+(?:\.\d+)?")


def read_compound(text: str) -> Form | None:
    """Read `3 hours 20 minutes`: a sum of falling units of one kind, in the last of them."""
    if len(text) > LONGEST:
        return None
    parts, end = [], 0
    text = _FEET.sub(r"\1 ft \2 in", text)
    while match := _PART.match(text, end):
        end = match.end()
        parts.append((read_number(match[1]), read_unit(match[2])))
    if end < len(text) or len(parts) < 2:
        return None
    total, last = Fraction(0), parts[-1][1]
    factors = []
    for number, unit in parts:
        if number is None or unit is None or last is None or unit.dimensions != last.dimensions:
            return None
        factors.append(unit.factor)
        total += number.value * unit.factor / last.factor
    if factors != sorted(set(factors), reverse=True):
        return None
    return Quantity(Number(total), last, text, compound=True)


def read_clock(text: str) -> Form | None:
    """Read a time of day with `a.m.` or `p.m.`."""
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in match.groups()[:3])
    half = match[4].lower()
    if not 1 <= hours <= 12:
        return None
    return Clock((hours % 12 + 12 * (half == "p")) * 3600 + minutes * 60 + seconds, half)


def read_quantity(text: str, read: Callable[[str], Form]) -> Form | None:
    """Read a value with a unit, of which `read` reads the value: a percentage, a sum of money, a length, 12 apples."""
    if len(text) > LONGEST:
        return None
    if match := _PERCENT.fullmatch(text):
        return Percent(read(match[1]))
    if match := _CURRENCY.fullmatch(text):
        value = read(match[1] + match[3])
        value = value.value if isinstance(value, Quantity) else value
        return Quantity(value, read_unit(match[2]), match[2]) if isinstance(value, (Number, Expression)) else None
    words = text.split(" ")
    for index in range(1, len(words)):
        amount, rest = " ".join(words[:index]), " ".join(words[index:])
        quantity = _quantity(amount, rest, read)
        if quantity is not None:
            return quantity
    glued = _GLUED.fullmatch(text)
    unit = read_unit(glued[2]) if glued and not _TRIGONOMETRY.search(text) else None
    return Quantity(read(glued[1]), unit, glued[2]) if glued and unit else None


def read_words(text: str) -> Form | None:
    """Read a text with words in it."""
    whole = re.fullmatch(r"[A-Za-z]{2,}", text) is not None
    words = whole or not text.isascii() or any(word not in FUNCTIONS for word in _WORD.findall(text))
    if not words and not _BETWEEN_NUMBERS.search(text):
        return None
    numbers = tuple(_NUMERAL.findall(text))
    if numbers or "\\" in text:
        return Mixed(text, numbers)
    return numeral(text) or Words(_bare(text))


def _bare(text: str) -> str:
    text = re.sub(r"[^\w\s]|_", " ", text.lower())
    return " ".join(re.sub(r"^\s*(?:the|an?)\s", "", text).split())


def _quantity(amount: str, rest: str, read: Callable[[str], Form]) -> Form | None:
    number = read_number(amount)
    multiple, _, counted = rest.partition(" ")
    if number is not None and multiple in MULTIPLES:
        value = Number(number.value * MULTIPLES[multiple])
        return Quantity(value, read_unit(counted), _bare(counted)) if counted else value
    unit = read_unit(rest) if len(rest) > 1 or rest in _LETTERS else None
    if unit is None:
        things = re.fullmatch(r"[A-Za-z][A-Za-z' -]*", rest) and _WORD.search(rest)
        return Quantity(number, None, _bare(rest)) if things and number else None
    if number is None and (len(rest) == 1 or _WORD.search(amount)):
        return None
    return Quantity(number or read(amount), unit, rest)
