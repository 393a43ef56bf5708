"""Python's plain data as JSON and back, so that a program's results can be read without running any of its code."""

from __future__ import annotations

import math
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


def decode(tree: Any, budget: int) -> Value:
    """Return the value of JSON from `encode`. Raises ValueError for anything else, and for more than the `budget` that
    `encode` had, as the JSON may come from a program that forged it: thousands of keys with one hash, say, would take
    seconds to put into a dict."""
    try:
        return _Decoder(budget).decode(tree)
    except (TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"no encoded value: {error}") from error


class _Budget:
    def __init__(self, budget: int) -> None:
        self._left = budget

    def _scalar(self, value: bool | int | float | str | None) -> Any:
        """Pay for a value, and return it. Raises NotPlainError for a text that cannot be written as UTF-8."""
        if type(value) is int:
            return self._spend(1 + value.bit_length() // 3, value)
        if type(value) is not str:
            return self._spend(1, value)
        self._spend(1 + len(value), None)
        if not value.isascii() and any(0xD800 <= ord(c) < 0xE000 for c in value):
            raise NotPlainError("a text with lone surrogates")
        return value

    def _spend(self, cost: int, encoded: Any) -> Any:
        self._left -= cost
        if self._left < 0:
            raise NotPlainError("more output than allowed")
        return encoded


class _Encoder(_Budget):
    def encode(self, value: Value, depth: int) -> Any:
        if depth > DEEPEST:
            raise NotPlainError(f"nested deeper than {DEEPEST}")
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return self._scalar(value)
        if kind is float:
            return self._spend(1, value if math.isfinite(value) else {"float": str(value)})
        if kind is bytes:
            return self._spend(1 + len(value), {"bytes": value.hex()})
        if kind is dict:
            return {"dict": [[self.encode(k, depth + 1), self.encode(v, depth + 1)] for k, v in value.items()]}
        if kind in (list, tuple, set, frozenset):
            self._spend(1, None)
            items = [self.encode(item, depth + 1) for item in value]
            return items if kind is list else {kind.__name__: items if kind is tuple else sorted(items, key=repr)}
        raise NotPlainError(f"a value of type {kind.__name__}")


class _Decoder(_Budget):
    def decode(self, tree: Any) -> Value:
        if tree is None or isinstance(tree, bool | int | float | str):
            return self._scalar(tree)
        if isinstance(tree, list):
            return self._items(tree)
        ((kind, content),) = tree.items()
        match kind:
            case "float":
                return self._spend(1, {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[content])
            case "bytes":
                return self._spend(1 + len(content) // 2, bytes.fromhex(content))
            case "tuple":
                return tuple(self._items(content))
            case "set":
                return set(self._items(content))
            case "frozenset":
                return frozenset(self._items(content))
            case "dict":
                return {self.decode(key): self.decode(value) for key, value in content}
        raise ValueError(f"no kind of value: {kind!r}")

    def _items(self, trees: list[Any]) -> list[Value]:
        self._spend(1, None)
        return [self.decode(tree) for tree in trees]
