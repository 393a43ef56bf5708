"""Compares tuples, intervals, sets, lists, unions and matrices, of which `equal` compares the parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import pairwise

from fastsvs.verify import expressions
from fastsvs.verify.forms import Dots, Expression, Form, Items, Matrix, Named
from fastsvs.verify.numbers import Number

MOST_TERMS = 1000
"""Number of terms up to which an ellipsis between numbers is filled in."""
UNORDERED = ("list", "{}", "union")

Equal = Callable[[Form, Form], bool | None]


def all_of(verdicts: Iterable[bool | None]) -> bool | None:
    """Return False when one is False, else None when one is None, else True."""
    unknown = False
    for verdict in verdicts:
        if verdict is False:
            return False
        unknown = unknown or verdict is None
    return None if unknown else True


def sequences_equal(gold: Form, found: Form, equal: Equal) -> bool | None:
    """Check whether two forms are equal, of which at least one is a sequence or matrix."""
    if isinstance(gold, Matrix) or isinstance(found, Matrix):
        return _matrices(gold, found, equal)
    if not (isinstance(gold, Items) and isinstance(found, Items)) or _is_single(gold) != _is_single(found):
        return _alone(gold, found, equal)
    if Dots() in gold.items or Dots() in found.items:
        return _dotted(gold, found, equal)
    if gold.kind in UNORDERED and found.kind in UNORDERED:
        verdict = _unordered(gold.items, found.items, equal)
        intervals = any(isinstance(item, Items) for item in (*gold.items, *found.items))
        return verdict if verdict or not intervals else _as_sets(gold, found, verdict)
    if _same_brackets(gold, found):
        return _ordered(gold.items, found.items, equal)
    return _as_sets(gold, found, False) if "union" in (gold.kind, found.kind) else False


def _alone(gold: Form, found: Form, equal: Equal) -> bool | None:
    """Compare a sequence with what is none: a set of one item is that item, and some sets have names."""
    for items, other in ((gold, found), (found, gold)):
        if isinstance(items, Items) and _is_single(items):
            return equal(items.items[0], other) if items is gold else equal(other, items.items[0])
    if (
        isinstance(gold, (Items, Expression))
        and isinstance(found, (Items, Expression))
        and "list"
        not in (
            getattr(gold, "kind", ""),
            getattr(found, "kind", ""),
        )
    ):
        return _as_sets(gold, found, False if isinstance(gold, Items) else None)
    return False


def _is_single(items: Items) -> bool:
    return len(items.items) == 1 and items.kind in UNORDERED


def _as_sets(gold: Items | Expression, found: Items | Expression, verdict: bool | None) -> bool | None:
    """Return what the sets say that the two texts write, or `verdict` where these are no sets."""
    trees = [expressions.parse(form.text) for form in (gold, found)]
    if trees[0] is None:
        return verdict if isinstance(gold, Items) else None
    if trees[1] is None or not expressions.are_sets(*trees):
        return False
    return expressions.trees_equal(trees[0], trees[1])


def _same_brackets(gold: Items, found: Items) -> bool:
    kinds = {"()" if kind == "<>" else kind for kind in (gold.kind, found.kind)}
    if len(gold.items) != 2 and "[]" in kinds:
        kinds = (kinds - {"[]"}) | {"()"}
    return len(kinds) == 1 or kinds == {"()", "list"}


def _ordered(gold: Sequence[Form], found: Sequence[Form], equal: Equal) -> bool | None:
    if len(gold) != len(found):
        return False
    return all_of(equal(one, other) for one, other in zip(gold, found, strict=True))


def _unordered(gold: Sequence[Form], found: Sequence[Form], equal: Equal) -> bool | None:
    """Compare in any order, but in the given one where only one side names its values by different letters."""
    if len(gold) != len(found):
        return False
    named = [[item for item in items if isinstance(item, Named)] for items in (gold, found)]
    if len(named[0]) == len(named[1]) == len(gold):
        return _matched(gold, found, lambda one, other: _same_name(one, other) and equal(one, other))
    for names in named:
        letters = {item.name.partition("_")[0] for item in names}
        if len(names) == len(gold) and len(letters) == len(names) > 1:
            return _ordered(gold, found, equal)
    return _matched(gold, found, equal)


def _same_name(one: Form, other: Form) -> bool:
    return isinstance(one, Named) and isinstance(other, Named) and _bare(one.name) == _bare(other.name)


def _bare(name: str) -> str:
    return "".join(sign for sign in name if sign not in " {}")


def _matched(gold: Sequence[Form], found: Sequence[Form], equal: Equal) -> bool | None:
    """Give each right item an answer that is equal to it, and to no other."""
    left, unknown = list(found), False
    for item in gold:
        verdicts = [equal(item, other) for other in left]
        if True in verdicts:
            left.pop(verdicts.index(True))
        elif None in verdicts:
            unknown = True
        else:
            return False
    return None if unknown else True


def _dotted(gold: Items, found: Items, equal: Equal) -> bool | None:
    sides = [_filled(form.items) for form in (gold, found)]
    if Dots() not in sides[0] and Dots() not in sides[1]:
        return _ordered(sides[0], sides[1], equal)
    if len(sides[0]) == len(sides[1]):
        verdict = all_of(
            one == other or equal(one, other) for one, other in zip(*sides, strict=True) if Dots() not in (one, other)
        )
        if verdict and sides[0].index(Dots()) == sides[1].index(Dots()):
            return True
    if Dots() in sides[0] and Dots() not in sides[1] and len(sides[1]) < len(sides[0]) - 1:
        return False
    if Dots() not in sides[0] or any(equal(sides[0][end], sides[1][end]) is False for end in (0, -1)):
        return False
    return None


def _filled(items: tuple[Form, ...]) -> tuple[Form, ...]:
    """Return the items with the numbers that an ellipsis between numbers with one distance stands for, or as they are
    where it stands for anything else."""
    place = items.index(Dots()) if items.count(Dots()) == 1 else 0
    known = [item.value for item in items if isinstance(item, Number)]
    if place < 2 or place == len(items) - 1 or len(known) != len(items) - 1:
        return items
    before, after = known[:place], known[place:]
    step = before[1] - before[0]
    count = (after[0] - before[-1]) / step if step else Fraction(0)
    if count.denominator != 1 or not 0 < count <= MOST_TERMS:
        return items
    numbers = [*before, *(before[-1] + step * index for index in range(1, int(count))), *after]
    if any(b - a != step for a, b in pairwise(numbers)):
        return items
    return tuple(Number(number) for number in numbers)


def _matrices(gold: Form, found: Form, equal: Equal) -> bool | None:
    if isinstance(gold, Matrix) and isinstance(found, Matrix):
        if len(gold.rows) != len(found.rows):
            return False
        return all_of(_ordered(one, other, equal) for one, other in zip(gold.rows, found.rows, strict=True))
    vectors = [_vector(form) for form in (gold, found)]
    if vectors[0] is None or vectors[1] is None:
        return False
    return _ordered(vectors[0], vectors[1], equal)


def _vector(form: Form) -> Sequence[Form] | None:
    """Return the entries of a tuple, or of a matrix with one row or column."""
    if isinstance(form, Matrix):
        return (
            form.rows[0] if len(form.rows) == 1 else [row[0] for row in form.rows] if len(form.rows[0]) == 1 else None
        )
    return form.items if isinstance(form, Items) and form.kind in ("()", "[]", "<>", "list") else None
