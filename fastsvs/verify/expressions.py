"""Compares mathematical expressions: parsed by math-verify's LaTeX grammar, then evaluated at fixed points.

Two expressions are equal when they have the same value at every point where both have one. What is not evaluated here
(integrals, limits, sets) is compared by sympy, or by math-verify as a last resort.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import lru_cache, partial
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import latex2sympy
from mpmath import mp

from fastsvs.verify.evaluation import (
    NotComputedError,
    Point,
    UndefinedError,
    decimal,
    digits,
    is_real,
    rational,
    same,
    value,
)
from fastsvs.verify.numbers import LEAST_DIGITS, Number, rounds, significant_digits
from fastsvs.verify.structure import DEEPEST, deepest, split

LONGEST = 1000
"""Number of characters up to which an expression is parsed."""
POINTS = ((5, 1, 13), (16, -1, 14), (27, 1, 0), (38, 1, 16), (49, -1, 17), (60, 1, 0), (1007, 1, 0), (2011, -1, 18))
"""Start, sign and denominator (0 for none) of the points at which expressions with variables are compared."""

_UNREADABLE = re.compile(
    r"\\dots|\\pmod|\\text|\\gcd|\\lcm|\\equiv|[?:'\"@#%$]|(?<![_^\d])\d+ \d|!\s?!|\\not|\\begin|\\operatorname"
)
_MIXED = re.compile(r"(?<![\d.^_}])(\d+)\s?\\frac\s?\{\s?(\d+)\s?\}\s?\{\s?(\d+)\s?\}")
_IMPLICIT = re.compile(r"(?<=\d)\s?(?=\()|(?<=\d\))\s?(?=\(\d)|(?<=\))\s?(?=\d)|(?<=\d)\s?(?=\\frac)")
_SUM = re.compile(r"(?<=[\w)}\]!'])\s?([+-])\s?(?=[\w({\\.])")
_WIDE = re.compile(r"\\(?:sum|int|prod|lim|oint|log|ln|frac\{d)|[|=<>]|\\(?:in|cup|cap|le|ge|ne|to|setminus)(?![a-z])")
_DEGREES = re.compile(
    r"\\(sin|cos|tan|cot|sec|csc)\s?(?:\(\s?(\d+(?:\.\d+)?)\s?\^\\circ\s?\)|(\d+(?:\.\d+)?)\s?\^\\circ)"
)
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_GROUPED = re.compile(r"(?<![\d.,(\[{])(\d{1,3}(?:,\d{3})+)(?![\d,])")


def equal(gold: str | Fraction, found: str | Fraction) -> bool | None:
    """Check whether two plain texts (see `spelling.plain`) or numbers are the same expression. Returns None when that
    cannot be decided: the gold expression cannot be parsed, or not computed."""
    expected, tree = (
        parse(side) if isinstance(side, str) else sympy.Rational(*side.as_integer_ratio()) for side in (gold, found)
    )
    if expected is None:
        return None
    return False if tree is None else trees_equal(expected, tree)


def are_sets(*trees: Any) -> bool:
    """Check whether all trees are sets."""
    return all(isinstance(tree, sympy.Set) for tree in trees)


def rounded(number: Number, text: str) -> bool:
    """Check whether an expression without variables, rounded, is the decimal."""
    if number.places is None or significant_digits(number) < LEAST_DIGITS:
        return False
    tree = parse(text)
    if tree is None or _variables(tree):
        return False
    try:
        exact = rational(tree)
        if exact is not None:
            return exact == number.value or rounds(number, exact)
        half = Fraction(1, 2 * 10**number.places)
        low, high = (
            sympy.Rational(bound.numerator, bound.denominator) for bound in (number.value - half, number.value + half)
        )
        return _between(low, tree, high, digits(tree, low))
    except (NotComputedError, UndefinedError, TypeError):
        return False


def multiplied(text: str, factor: Fraction) -> str:
    """Return the text of the expression times the factor."""
    return text if factor == 1 else rf"({text})\cdot\frac{{{factor.numerator}}}{{{factor.denominator}}}"


def is_closed(text: str) -> bool:
    """Check whether a plain text is an expression without variables."""
    tree = parse(text)
    return tree is not None and isinstance(tree, sympy.Expr) and not _variables(tree)


@lru_cache(maxsize=4096)
def parse(text: str) -> Any | None:
    """Return the sympy tree of a plain text, or None where math-verify's grammar does not read the whole of it."""
    if len(text) > LONGEST or _UNREADABLE.search(text) or deepest(text) > DEEPEST:
        return None
    text = _MIXED.sub(_mixed, text)
    text = _DEGREES.sub(lambda match: rf"\{match[1]}(\frac{{{match[2] or match[3]}\pi}}{{180}})", text)
    if r"^\circ" in text and _TRIGONOMETRY.search(text):
        return None
    text = _IMPLICIT.sub(r"\\cdot ", _GROUPED.sub(lambda match: match[1].replace(",", ""), text.replace(r"^\circ", "")))
    terms, signs = ([text], []) if _WIDE.search(text) else split(text, _SUM)
    trees = [_parsed(term) for term in terms]
    if len(trees) == 1 or any(not isinstance(tree, sympy.Expr) for tree in trees):
        return trees[0] if len(trees) == 1 else _parsed(text)
    signed = [
        tree if sign == "+" else sympy.Mul(-1, tree, evaluate=False)
        for sign, tree in zip(["+", *signs], trees, strict=True)
    ]
    return sympy.Add(*signed, evaluate=False)


@lru_cache(maxsize=8192)
def _parsed(text: str) -> Any | None:
    try:
        tree = latex2sympy(text, is_real=True, convert_degrees=False, normalization_config=None)
    except Exception:
        return None
    return tree if isinstance(tree, (sympy.Basic, sympy.MatrixBase)) else None


def trees_equal(gold: Any, found: Any) -> bool | None:
    """Check whether two sympy trees are equal. Returns None when that cannot be decided."""
    if gold == found:
        return True
    if isinstance(gold, sympy.Set) or isinstance(found, sympy.Set):
        return _sets_equal(gold, found)
    if not (isinstance(gold, sympy.Expr) and isinstance(found, sympy.Expr)):
        return _last_resort(gold, found)
    verdict = _equal_everywhere(gold, found)
    return _last_resort(gold, found) if verdict is None and (_foreign(gold) or _foreign(found)) else verdict


def relations_equal(gold: Sequence[str], found: Sequence[str], signs: tuple[str, str]) -> bool | None:
    """Check whether left and right side of two relations with the same sign differ by the same expression up to a
    constant factor, which must be positive for the same inequality and negative for the reversed one."""
    trees = [parse(f"({left})-({right})") for left, right in (gold, found)]
    if trees[0] is None:
        return None
    if trees[1] is None:
        return False
    factors = {True, False} if signs[0] in ("=", r"\ne") else {signs[0] == signs[1]}
    try:
        return _proportional(trees[0], trees[1], factors)
    except NotComputedError:
        return None


def _mixed(match: re.Match[str]) -> str:
    whole, over, under = match[1], match[2], match[3]
    joint = "+" if int(over) < int(under) else r"\cdot"
    return rf"({whole}{joint}\frac{{{over}}}{{{under}}})"


def _variables(*trees: Any) -> list[str]:
    return sorted({symbol.name for tree in trees for symbol in tree.free_symbols} - {"i"})


def _points(names: Sequence[str]) -> Iterable[Point]:
    """Return fixed points with other values for every name: fractions of both signs, whole numbers, as some equations
    hold for these alone, and large ones."""
    for start, sign, under in POINTS:
        yield {
            name: Fraction(sign * (7 * place + start), (under and under + 2 * place) or 1)
            for place, name in enumerate(names)
        }


def _equal_everywhere(gold: Any, found: Any) -> bool | None:
    """Check whether two trees have the same value at all points where both are real numbers, or, where there is no such
    point, at all others."""
    names = _variables(gold, found)
    imaginary = any(tree.has(sympy.I) or "i" in {symbol.name for symbol in tree.free_symbols} for tree in (gold, found))
    verdicts: dict[bool, list[bool]] = {True: [], False: []}
    for point in _points(names):
        try:
            comparable, verdict = _equal_at(gold, found, point)
        except (UndefinedError, NotComputedError):
            verdict = None
        if verdict is not None:
            comparable = comparable or imaginary or not names
            verdicts[comparable].append(verdict)
            if comparable and not verdict:
                return False
        if not names:
            break
    decided = verdicts[True] or verdicts[False]
    return all(decided) if decided else None


def _equal_at(gold: Any, found: Any, point: Point) -> tuple[bool, bool]:
    """Return whether both trees are real numbers at the point, and whether they are the same number."""
    exact = rational(gold, point), rational(found, point)
    if None not in exact:
        return True, exact[0] == exact[1]
    precision = digits(gold, found)
    with mp.workdps(precision):
        real = is_real(gold, point) and is_real(found, point)
    return real, same(partial(value, gold, point), partial(value, found, point), precision)


def _proportional(gold: Any, found: Any, positive: set[bool]) -> bool | None:
    """Check whether one tree is a constant multiple of the other, and whether it is in `positive` that the factor
    is."""
    names = _variables(gold, found)
    if names != _variables(gold) or names != _variables(found):
        return False
    precision = digits(gold, found)
    first: Point | None = None
    for point in _points(names):
        try:
            with mp.workdps(precision):
                if not is_real(gold, point) or not is_real(found, point) or not value(found, point):
                    continue
                if first is None:
                    first = point
                    if (mp.re(_product(gold, point, found, point)) > 0) not in positive:
                        return False
            if not same(
                partial(_product, gold, point, found, first), partial(_product, gold, first, found, point), precision
            ):
                return False
        except (UndefinedError, NotComputedError):
            continue
    return None if first is None else True


def _product(gold: Any, point: Point, found: Any, other: Point) -> Any:
    return value(gold, point) * value(found, other)


def _between(low: Any, tree: Any, high: Any, precision: int) -> bool:
    with mp.workdps(precision):
        return is_real(tree, {}) and bool(value(low, {}) <= mp.re(value(tree, {})) <= value(high, {}))


def _foreign(tree: Any) -> bool:
    return tree.has(sympy.Integral, sympy.Limit, sympy.Derivative, sympy.Sum, sympy.Product)


def _exact(tree: Any) -> Any:
    """Return a set evaluated, with exact numbers."""
    if isinstance(tree, (sympy.Union, sympy.Intersection, sympy.Complement)):
        return tree.func(*map(_exact, tree.args))
    return tree.xreplace({number: sympy.Rational(decimal(number)) for number in tree.atoms(sympy.Float)})


def _sets_equal(gold: Any, found: Any) -> bool | None:
    if isinstance(gold, sympy.Expr):
        gold = sympy.FiniteSet(gold)
    if isinstance(found, sympy.Expr):
        found = sympy.FiniteSet(found)
    try:
        return _exact(gold).symmetric_difference(_exact(found)).is_empty
    except Exception:
        return None


def _last_resort(gold: Any, found: Any) -> bool | None:
    """Compare what is not computed here, once sympy has evaluated it; else ask math-verify."""
    from math_verify import verify

    try:
        done = [tree.doit() if _foreign(tree) else tree for tree in (gold, found)]
        if all(isinstance(tree, sympy.Expr) and not _foreign(tree) for tree in done):
            return _equal_everywhere(*done)
        return bool(verify([gold], [found], timeout_seconds=None, raise_on_error=True))
    except Exception:
        return None
