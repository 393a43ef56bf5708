"""Evaluates sympy trees without sympy's own evaluation: exactly where they are rational, else to any number of digits.

sympy evaluates `9^{9^{9^9}}` when it can, and calls what is below 1e-15 zero. Here sizes are bounded before anything is
computed, and two numbers are equal when their difference vanishes at the rate at which the precision grows.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import mpmath
import sympy
from mpmath import mp
from sympy.core.function import AppliedUndef

MOST_BITS = 200_000
"""Size of an exact number, in bits, beyond which it is not computed."""
MOST_TERMS = 2_000
"""Number of terms of a sum or product up to which it is computed."""
SPARE_DIGITS = 50
"""Number of digits that are computed beyond those that numbers are written with."""

Point = Mapping[str, Fraction]
"""Values of the variables."""

NOWHERE: Point = {}
"""The point for a tree without variables."""


class NotComputedError(Exception):
    """The tree holds something that is not evaluated here, or is too big."""


class UndefinedError(Exception):
    """The tree has no value at this point: it divides by zero, say."""


FUNCTIONS: Mapping[type, Callable[..., Any]] = {
    **{sympy.sin: mpmath.sin, sympy.cos: mpmath.cos, sympy.tan: mpmath.tan, sympy.cot: mpmath.cot},
    **{sympy.sec: mpmath.sec, sympy.csc: mpmath.csc, sympy.asin: mpmath.asin, sympy.acos: mpmath.acos},
    **{sympy.atan: mpmath.atan, sympy.acot: mpmath.acot, sympy.asec: mpmath.asec, sympy.acsc: mpmath.acsc},
    **{sympy.sinh: mpmath.sinh, sympy.cosh: mpmath.cosh, sympy.tanh: mpmath.tanh, sympy.exp: mpmath.exp},
    **{sympy.asinh: mpmath.asinh, sympy.acosh: mpmath.acosh, sympy.atanh: mpmath.atanh, sympy.Abs: abs},
    **{sympy.floor: mpmath.floor, sympy.ceiling: mpmath.ceil, sympy.gamma: mpmath.gamma},
    **{sympy.re: mpmath.re, sympy.im: mpmath.im, sympy.conjugate: mpmath.conj, sympy.arg: mpmath.arg},
}
CONSTANTS: Mapping[Any, Callable[[], Any]] = {
    **{sympy.pi: lambda: +mp.pi, sympy.E: lambda: +mp.e, sympy.I: lambda: mpmath.mpc(0, 1)},
    **{sympy.GoldenRatio: lambda: +mp.phi, sympy.oo: lambda: mp.inf, sympy.S.NegativeInfinity: lambda: -mp.inf},
}


def rational(tree: Any, point: Point = NOWHERE) -> Fraction | None:
    """Return the exact value at a point of a tree of rational numbers, variables, sums, products, whole powers and
    factorials, or None where it holds anything else. Raises NotComputedError for one of over `MOST_BITS` bits,
    UndefinedError for a division by zero."""
    if isinstance(tree, sympy.Rational):
        return Fraction(int(tree.p), int(tree.q))
    if isinstance(tree, sympy.Symbol):
        return point.get(tree.name)
    if isinstance(tree, sympy.Float):
        return decimal(tree)
    if isinstance(tree, sympy.UnevaluatedExpr):
        return rational(tree.args[0], point)
    if isinstance(tree, (sympy.Add, sympy.Mul)):
        return _folded(tree, point)
    if isinstance(tree, sympy.Pow):
        base, exponent = rational(tree.args[0], point), rational(tree.args[1], point)
        return None if base is None or exponent is None else _power(base, exponent)
    if isinstance(tree, sympy.factorial):
        number = rational(tree.args[0], point)
        if number is None or number.denominator != 1 or number < 0:
            return None
        return Fraction(math.factorial(_bounded(int(number), int(number) * max(1, int(number).bit_length()))))
    return None


def decimal(number: sympy.Float) -> Fraction:
    """Return the decimal that a float was written as."""
    return Fraction(str(number))


def value(tree: Any, point: Point) -> Any:
    """Return the value of a tree at a point as an mpmath number, at mpmath's precision. Raises NotComputedError and
    UndefinedError."""
    try:
        return _value(tree, point)
    except (ZeroDivisionError, ValueError, OverflowError, mpmath.libmp.NoConvergence) as error:
        raise UndefinedError from error


def digits(*trees: Any) -> int:
    """Return the number of digits that must be computed to tell numbers apart that are written with such numbers.
    Raises NotComputedError where they are too many."""
    total = SPARE_DIGITS
    for tree in trees:
        for node in sympy.preorder_traversal(tree):
            if isinstance(node, sympy.Rational):
                total += (int(node.p).bit_length() + int(node.q).bit_length()) // 3
            elif isinstance(node, sympy.Float):
                total += len(str(node))
            elif isinstance(node, sympy.Pow) and all(isinstance(part, sympy.Rational) for part in node.args):
                base, exponent = node.args
                total += int(abs(exponent)) * (int(base.p).bit_length() + int(base.q).bit_length()) // 3
            elif isinstance(node, sympy.factorial) and isinstance(node.args[0], sympy.Integer):
                total += int(abs(node.args[0])) * 4
            if total * 4 > MOST_BITS:
                raise NotComputedError
    return total


def same(first: Callable[[], Any], second: Callable[[], Any], precision: int) -> bool:
    """Check whether two computations give the same number; `precision` is a number of digits (see `digits`).

    Their difference must vanish at the rate at which the precision grows. Raises what the computations raise, and
    UndefinedError for what is no number.
    """
    differences = []
    for places in (precision, 2 * precision):
        with mp.workdps(places):
            one, other = first(), second()
            if mpmath.isnan(one) or mpmath.isnan(other):
                raise UndefinedError
            if mpmath.isinf(one) or mpmath.isinf(other):
                return bool(one == other)
            differences.append(abs(one - other))
            size = abs(one) + abs(other) or mpmath.mpf(1)
            if differences[-1] > mpmath.mpf(10) ** (-places // 2) * max(1, size):
                return False
    noise = max(differences[0], size * mpmath.mpf(10) ** -precision)
    return bool(differences[1] <= noise * mpmath.mpf(10) ** (-precision // 2))


def is_real(tree: Any, point: Point) -> bool:
    """Check whether the tree is a real number at the point. Raises NotComputedError and UndefinedError."""
    number = value(tree, point)
    return not isinstance(number, mpmath.mpc) or abs(number.imag) <= abs(number) * mpmath.mpf(10) ** (-mp.dps // 2)


def _folded(tree: Any, point: Point) -> Fraction | None:
    total = Fraction(isinstance(tree, sympy.Mul))
    for argument in tree.args:
        number = rational(argument, point)
        if number is None:
            return None
        total = total + number if isinstance(tree, sympy.Add) else total * number
        _bounded(0, total.numerator.bit_length() + total.denominator.bit_length())
    return total


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        return None
    if base == 0 and exponent < 0:
        raise UndefinedError
    if base in (0, 1):
        return base if exponent else Fraction(1)
    if base == -1:
        return Fraction(1 - 2 * (exponent.numerator % 2))
    bits = base.numerator.bit_length() + base.denominator.bit_length()
    return base ** _bounded(int(exponent), abs(int(exponent)) * bits)


def _bounded(number: int, bits: int) -> int:
    if bits > MOST_BITS:
        raise NotComputedError
    return number


def _value(tree: Any, point: Point) -> Any:
    exact = rational(tree)
    if exact is not None:
        return mpmath.mpf(exact.numerator) / exact.denominator
    if tree in CONSTANTS:
        return CONSTANTS[tree]()
    if isinstance(tree, sympy.Symbol):
        return _variable(tree.name, point)
    if isinstance(tree, (sympy.Sum, sympy.Product)):
        return _series(tree, point)
    arguments = [_value(argument, point) for argument in tree.args]
    if isinstance(tree, sympy.Add):
        return mpmath.fsum(arguments)
    if isinstance(tree, sympy.Mul):
        return mpmath.fprod(arguments)
    if isinstance(tree, sympy.Pow):
        return _power_value(*arguments)
    if isinstance(tree, sympy.log):
        return mpmath.log(arguments[0]) / (mpmath.log(arguments[1]) if len(arguments) > 1 else 1)
    return _function_value(tree, arguments)


def _function_value(tree: Any, arguments: Sequence[Any]) -> Any:
    if isinstance(tree, AppliedUndef):
        return _any_function(str(tree.func), arguments)
    if isinstance(tree, sympy.factorial):
        return mpmath.factorial(_small(arguments[0]))
    if isinstance(tree, sympy.binomial):
        return mpmath.binomial(_small(arguments[0]), _small(arguments[1]))
    if isinstance(tree, (sympy.Max, sympy.Min)):
        return (max if isinstance(tree, sympy.Max) else min)(arguments)
    if isinstance(tree, sympy.UnevaluatedExpr):
        return arguments[0]
    for kind, function in FUNCTIONS.items():
        if isinstance(tree, kind):
            return function(*map(_small, arguments) if kind is sympy.exp else arguments)
    raise NotComputedError


def _power_value(base: Any, exponent: Any) -> Any:
    if base == 0:
        if mpmath.re(exponent) <= 0:
            raise UndefinedError
        return base
    return base ** _small(exponent)


def _small(number: Any) -> Any:
    if abs(number) > MOST_BITS:
        raise NotComputedError
    return number


def _variable(name: str, point: Point) -> Any:
    if name == "i" and name not in point:
        return mpmath.mpc(0, 1)
    number = point.get(name)
    if number is None:
        raise NotComputedError
    return mpmath.mpf(number.numerator) / number.denominator


def _series(tree: Any, point: Point) -> Any:
    if len(tree.args) != 2 or len(tree.args[1]) != 3:
        raise NotComputedError
    index, *bounds = tree.args[1]
    first, last = (mpmath.mpf(_value(bound, point)) for bound in bounds)
    if not (mpmath.isint(first) and mpmath.isint(last) and last - first < MOST_TERMS):
        raise NotComputedError
    terms = [_value(tree.args[0], {**point, index.name: Fraction(term)}) for term in range(int(first), int(last) + 1)]
    return mpmath.fsum(terms) if isinstance(tree, sympy.Sum) else mpmath.fprod(terms)


def _any_function(name: str, arguments: Sequence[Any]) -> Any:
    """Return a number that depends on the function's name and arguments alone: what holds for it holds for any
    function."""
    key = name + ",".join(mpmath.nstr(argument, 20) for argument in arguments)
    return mpmath.mpf(zlib.crc32(key.encode()) + 1) / 2**31
