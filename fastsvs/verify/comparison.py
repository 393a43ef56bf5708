"""Compares the form of an answer with that of the right one.

All comparisons give True, False, or None where it cannot be decided. Numbers are compared exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from fastsvs.verify import expressions
from fastsvs.verify.forms import (
    Based,
    Choice,
    Clock,
    Congruence,
    Expression,
    Form,
    Items,
    Matrix,
    Mixed,
    Named,
    Percent,
    Quantity,
    Ratio,
    Relation,
    Words,
)
from fastsvs.verify.numbers import Number, rounds, same_decimal
from fastsvs.verify.reader import is_name, read
from fastsvs.verify.sequences import all_of, sequences_equal
from fastsvs.verify.spelling import squeezed

SYNONYMS = {"dne": "does not exist", "no solutions": "no solution"}
_HALF_DAY = 12 * 3600
LONGEST_VARIABLES = 3
"""Number of letters up to which a word may be a product of variables."""


def equal(gold: Form, found: Form) -> bool | None:
    """Check whether an answer is equal to the right one."""
    if gold == found:
        return True
    for kinds, compare in COMPARISONS:
        if isinstance(gold, kinds) or isinstance(found, kinds):
            return compare(gold, found)
    return _values(gold, found)


def _named(gold: Form, found: Form) -> bool | None:
    if isinstance(gold, Named) and isinstance(found, Named):
        letters = [re.sub(r"[\s{}\\]", "", form.name) for form in (gold, found)]
        if letters[0] != letters[1] and all(len(letter) == 1 for letter in letters):
            return expressions.relations_equal((gold.name, gold.text), (found.name, found.text), ("=", "=")) or False
        return equal(gold.value, found.value)
    if isinstance(gold, Relation) and isinstance(found, Named):
        return _relations(gold, Relation((found.name, found.text), ("=",)))
    if isinstance(gold, Named):
        if isinstance(found, Relation) and len(found.sides) == 2 and not isinstance(gold.value, (Items, Relation)):
            return _relations(Relation((gold.name, gold.text), ("=",)), found) or equal(gold.value, found)
        return equal(gold.value, found)
    assert isinstance(found, Named)
    return equal(gold, found.value)


def _relations(gold: Form, found: Form) -> bool | None:
    if isinstance(gold, Relation) and isinstance(found, Relation):
        return _both_relations(gold, found)
    if isinstance(found, Relation):
        return equal(gold, read(found.sides[-1])) if _consistent(found) else False
    assert isinstance(gold, Relation)
    closed = set(gold.signs) == {"="} and expressions.is_closed(gold.sides[0])
    return equal(read(gold.sides[-1]), found) if closed else False


def _both_relations(gold: Relation, found: Relation) -> bool | None:
    if set(gold.signs) == set(found.signs) == {"="} and len(gold.sides) + len(found.sides) > 4:
        return equal(read(gold.sides[-1]), read(found.sides[-1])) if _consistent(found) else False
    if len(gold.sides) != len(found.sides):
        return False
    if found.signs[0][:2] in (">", r"\g") and gold.signs[0][:2] in ("<", r"\l"):
        flipped = {">": "<", r"\ge": r"\le"}
        found = Relation(found.sides[::-1], tuple(flipped.get(sign, sign) for sign in found.signs[::-1]))
    if gold.signs[0][:2] in (">", r"\g") and found.signs[0][:2] in ("<", r"\l"):
        flipped = {"<": ">", r"\le": r"\ge"}
        found = Relation(found.sides[::-1], tuple(flipped.get(sign, sign) for sign in found.signs[::-1]))
    if gold.signs != found.signs:
        return False
    pairs = range(len(gold.signs))
    return all_of(
        expressions.relations_equal(gold.sides[i : i + 2], found.sides[i : i + 2], (gold.signs[i], found.signs[i]))
        for i in pairs
    )


def _consistent(chain: Relation) -> bool:
    """Check whether a chain of equations is true as far as it holds no variables."""
    if set(chain.signs) != {"="}:
        return False
    closed = [side for side in chain.sides if expressions.is_closed(side)]
    return all(equal(read(side), read(closed[-1])) for side in closed[:-1])


def _choices(gold: Form, found: Form) -> bool | None:
    if isinstance(gold, Choice) and isinstance(found, Choice):
        return gold.letter == found.letter
    if isinstance(gold, Choice):
        if gold.content is not None:
            return equal(gold.content, found)
        return isinstance(found, Expression) and found.text.strip("()").upper() == gold.letter
    assert isinstance(found, Choice)
    if found.content is not None:
        return equal(gold, found.content)
    return isinstance(gold, Expression) and gold.text.upper() == found.letter


def _measures(gold: Form, found: Form) -> bool | None:
    if isinstance(gold, Quantity) and isinstance(found, Quantity):
        return _quantities(gold, found)
    if isinstance(gold, Percent) and isinstance(found, Percent):
        return equal(gold.value, found.value)
    if isinstance(gold, Percent):
        return equal(gold.value, found) or equal(_times(gold.value, Fraction(1, 100)), found)
    if isinstance(found, Percent):
        whole = isinstance(gold, Number) and gold.value.denominator == 1 and abs(gold.value) != 1
        return equal(gold, found.value) or (not whole and equal(gold, _times(found.value, Fraction(1, 100))))
    if isinstance(gold, Quantity):
        return False if gold.compound else equal(gold.value, found)
    assert isinstance(found, Quantity)
    return equal(gold, found.value)


def _quantities(gold: Quantity, found: Quantity) -> bool | None:
    units = (gold.unit, found.unit)
    if units[0] and units[1] and units[0].dimensions and units[1].dimensions:
        if units[0].dimensions != units[1].dimensions:
            return False
        return equal(gold.value, _times(found.value, units[1].factor / units[0].factor))
    words = [set(form.words.split()) for form in (gold, found)]
    same = equal(gold.value, found.value)
    fits = (units[0] or units[1]) and not all(unit is None or unit.dimensions for unit in units)
    return same if fits or words[0] <= words[1] or words[1] <= words[0] else (None if same else same)


def _times(value: Form, factor: Fraction) -> Form:
    if isinstance(value, Number):
        return Number(value.value * factor, value.places if factor == 1 else None)
    return Expression(expressions.multiplied(value.text, factor)) if isinstance(value, Expression) else value


def _systems(gold: Form, found: Form) -> bool | None:
    """Compare bases, congruences, times of day and ratios."""
    if isinstance(gold, Based) and isinstance(found, (Number, Expression)):
        digits = str(found.value) if isinstance(found, Number) else found.text
        return digits == gold.digits
    if isinstance(found, Based) and isinstance(gold, Number):
        return True if gold.value == found.value else None if str(gold.value) == found.digits else False
    if isinstance(gold, Congruence) or isinstance(found, Congruence):
        return _congruences(gold, found)
    if isinstance(gold, (Ratio, Clock)) and isinstance(found, (Ratio, Clock)):
        return _colons(gold, found)
    for ratio, other in ((gold, found), (found, gold)):
        if isinstance(ratio, Ratio) and len(ratio.terms) == 2 and isinstance(other, (Number, Expression)):
            over, under = ratio.terms
            if _seconds(ratio) is None and isinstance(over, Number) and isinstance(under, Number) and under.value:
                quotient = Number(over.value / under.value)
                return equal(quotient, other) if ratio is gold else equal(other, quotient)
    return False


def _congruences(gold: Form, found: Form) -> bool | None:
    if isinstance(gold, Congruence) and isinstance(found, Congruence):
        return False
    congruence, number = (gold, found) if isinstance(gold, Congruence) else (found, gold)
    assert isinstance(congruence, Congruence)
    if not isinstance(number, Number):
        return None if congruence is gold and isinstance(number, Expression) else False
    return {number.value} == congruence.remainders


def _colons(gold: Form, found: Form) -> bool | None:
    if isinstance(gold, Ratio) and isinstance(found, Ratio):
        return _ratios(gold, found)
    if isinstance(gold, Clock) and isinstance(found, Clock):
        return False
    clock, ratio = (gold, found) if isinstance(gold, Clock) else (found, gold)
    assert isinstance(clock, Clock)
    assert isinstance(ratio, Ratio)
    seconds = _seconds(ratio)
    if seconds is None or (seconds - clock.seconds) % _HALF_DAY:
        return False
    if seconds >= 13 * 3600:
        return seconds == clock.seconds
    return True if clock is found else None


def _ratios(gold: Ratio, found: Ratio) -> bool | None:
    terms = [[term for term in form.terms if isinstance(term, (Number, Expression))] for form in (gold, found)]
    same = all_of(equal(one, other) for one, other in zip(*terms, strict=False))
    if len(terms[0]) < len(gold.terms) or len(terms[1]) < len(found.terms):
        return False if same is False else None
    if len(terms[0]) != len(terms[1]):
        return False
    numbers = [[term.value for term in side if isinstance(term, Number)] for side in terms]
    if same or _seconds(gold) is not None or len(numbers[0]) != len(terms[0]) or len(numbers[1]) != len(terms[1]):
        return same
    first, second = numbers
    return all(first[0] * b == second[0] * a for a, b in zip(first, second, strict=True)) and bool(
        first[0] and second[0]
    )


def _seconds(ratio: Ratio) -> int | None:
    """Return the seconds since midnight where the text of a ratio is a time of day, else None."""
    match = re.fullmatch(r"([01]?\d|2[0-3])\s?:\s?([0-5]\d)(?:\s?:\s?([0-5]\d))?", ratio.text)
    return int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3] or 0) if match else None


def _texts(gold: Form, found: Form) -> bool | None:
    """Compare words, and what holds words beside numbers."""
    if isinstance(gold, Mixed):
        if not isinstance(found, Mixed):
            return False if len(gold.numbers) > 1 and isinstance(found, (Number, Words)) else None
        if squeezed(gold.text).lower() == squeezed(found.text).lower():
            return True
        names = is_name(gold.text) and is_name(found.text)
        return None if gold.numbers == found.numbers and not names else False
    words = [SYNONYMS.get(form.text, form.text) if isinstance(form, Words) else None for form in (gold, found)]
    if words[0] is not None and words[0] == words[1]:
        return True
    letters = [form.text for form in (gold, found) if isinstance(form, (Words, Expression))]
    if len(letters) == 2 and all(
        (len(text) <= LONGEST_VARIABLES and text.isascii()) or isinstance(form, Expression)
        for text, form in zip(letters, (gold, found), strict=True)
    ):
        return expressions.equal(letters[0], letters[1])
    return None if isinstance(gold, Expression) and expressions.parse(gold.text) is None else False


def _values(gold: Form, found: Form) -> bool | None:
    """Compare numbers and expressions."""
    if isinstance(gold, Number) and isinstance(found, Number):
        if gold.value == found.value or same_decimal(gold, found):
            return True
        one_decimal = (gold.places is None) != (found.places is None)
        return one_decimal and (rounds(gold, found.value) or rounds(found, gold.value))
    for number, other in ((gold, found), (found, gold)):
        if isinstance(number, Number) and isinstance(other, Expression) and expressions.rounded(number, other.text):
            return True
    if isinstance(gold, Expression) and isinstance(found, Expression):
        return _expressions(gold.text, found.text)
    sides = [form.value if isinstance(form, Number) else form.text for form in (gold, found)]  # type: ignore[union-attr]
    return expressions.equal(sides[0], sides[1])


def _expressions(gold: str, found: str) -> bool | None:
    if squeezed(gold) == squeezed(found):
        return True
    if r"\dots" in gold and r"\dots" in found:
        ends = [text.rpartition(r"\dots")[2].strip(" +-,") for text in (gold, found)]
        return False if equal(read(ends[0]), read(ends[1])) is False else None
    verdict = expressions.equal(gold, found)
    return False if verdict is None and is_name(gold) and is_name(found) else verdict


COMPARISONS: Sequence[tuple[tuple[type, ...], Callable[[Form, Form], bool | None]]] = (
    *(((Named,), _named), ((Relation,), _relations), ((Choice,), _choices)),
    *(((Items, Matrix), lambda gold, found: sequences_equal(gold, found, equal)), ((Percent, Quantity), _measures)),
    *(((Based, Congruence, Clock, Ratio), _systems), ((Words, Mixed), _texts)),
)
