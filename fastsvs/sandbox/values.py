"""Python's plain data as JSON and back, so that a program's results can be read without running any of its code."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

DEEPEST = 50

Value = Any
"""Plain data: None, bool, int, float, str, bytes, and lists, tuples, sets, frozensets and dicts of them."""


class NotPlainError(ValueError):
    """Error for a value that is no plain data, or too much of it."""


def encode(value: Value, budget: int) -> Any:
    """Return JSON that `decode` reads. Only exact types count, as a subclass may lie about itself. Elements of sets are
    sorted, so that equal values have equal encodings. Raises NotPlainError for a value that is not plain, and for more
    than `budget` characters and elements."""
    return _Encoder(budget).encode(value, 0)


def decode(tree: Any) -> Value:
    """Return the value of JSON from `encode`. Raises ValueError for anything else, as the JSON may come from a program
    that forged it."""
    try:
        return _decode(tree)
    except (TypeError, KeyError, RecursionError, OverflowError) as error:
        raise ValueError(f"no encoded value: {error}") from error


class _Encoder:
    def __init__(self, budget: int) -> None:
        self._left = budget

    def encode(self, value: Value, depth: int) -> Any:
        if depth > DEEPEST:
            raise NotPlainError(f"nested deeper than {DEEPEST}")
        kind = type(value)
        if value is None or kind is bool:
            return self._spend(1, value)
        if kind is int:
            return self._spend(1 + value.bit_length() // 3, value)
        if kind is float:
            return self._spend(1, value if math.isfinite(value) else {"float": str(value)})
        if kind is str:
            self._spend(1 + len(value), None)
            if not value.isascii() and any(0xD800 <= ord(c) < 0xE000 for c in value):
                raise NotPlainError("a text with lone surrogates")
            return value
        if kind is bytes:
            return self._spend(1 + len(value), {"bytes": value.hex()})
        if kind is dict:
            return {"dict": [[self.encode(k, depth + 1), self.encode(v, depth + 1)] for k, v in value.items()]}
        if kind in (list, tuple, set, frozenset):
            self._spend(1, None)
            items = [self.encode(item, depth + 1) for item in value]
            return items if kind is list else {kind.__name__: items if kind is tuple else sorted(items, key=repr)}
        raise NotPlainError(f"a value of type {kind.__name__}")

    def _spend(self, cost: int, encoded: Any) -> Any:
        self._left -= cost
        if self._left < 0:
            raise NotPlainError("more output than allowed")
        return encoded


def _decode(tree: Any) -> Value:
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, list):
        return list(_items(tree))
    ((kind, content),) = tree.items()
    match kind:
        case "float":
            return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[content]
        case "bytes":
            return bytes.fromhex(content)
        case "tuple":
            return tuple(_items(content))
        case "set":
            return set(_items(content))
        case "frozenset":
            return frozenset(_items(content))
        case "dict":
            return {_decode(key): _decode(value) for key, value in content}
    raise ValueError(f"no kind of value: {kind!r}")


def _items(trees: list[Any]) -> Iterator[Value]:
    return (_decode(tree) for tree in trees)
