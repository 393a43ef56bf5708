"""What of a run's files could not be read: a page shows the rest, and says so."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fastsvs.errors import UserError
from fastsvs.files import iterate_jsonl, read_mapping

T = TypeVar("T")
Number = float | int | None
LARGEST = sys.float_info.max
DEEPEST = 40
"""Deepest nesting of a value that is read: the page's own functions go through it level by level."""


class Notices:
    """Reader of a run's files that leaves out what is spoiled, and keeps a line about each kind of it."""

    def __init__(self) -> None:
        self._first: dict[tuple[Path, str], str] = {}
        self._count: dict[tuple[Path, str], int] = {}

    def lines(self) -> list[str]:
        """Return what was left out, a line for each file and kind."""
        more = {key: f" (and {count - 1:,} more in this file)" for key, count in self._count.items() if count > 1}
        return [first + more.get(key, "") for key, first in self._first.items()]

    def say(self, path: Path, kind: str, line: str) -> None:
        """Note something about a file. Of several of one kind the first is shown."""
        self._first.setdefault((path, kind), line)
        self._count[path, kind] = self._count.get((path, kind), 0) + 1

    def mapping(self, path: Path) -> dict[str, Any]:
        """Return the mapping in a file, empty when there is none that can be read."""
        return self._attempt(path, lambda: _shallow(read_mapping(path), str(path)), {})

    def rows(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield the objects in a jsonl file that can be read."""

        rows = iterate_jsonl(path, lambda fault: self.say(path, "lines", str(fault)))
        while (row := self._attempt(path, partial(next, rows, None), None)) is not None:
            if (shallow := self._attempt(path, partial(_shallow, row, str(path)), None)) is not None:
                yield shallow

    def number(self, value: Any, path: Path, name: str) -> Number:
        """Return a number of JSON, or None for what is none that a page can show."""
        if isinstance(value, int | float) and abs(value) <= LARGEST:
            return value
        if value is not None:
            self.say(path, "numbers", f"{path}: {name[:80]} is {str(value)[:40]!s} and no finite number: left out")
        return None

    def finite(self, value: Any, path: Path, name: str = "") -> Any:
        """Return a value of JSON with None in place of numbers that are not finite."""
        if isinstance(value, dict):
            return {key: self.finite(part, path, f"{name}.{key}".lstrip(".")) for key, part in value.items()}
        if isinstance(value, list):
            return [self.finite(part, path, name) for part in value]
        return self.number(value, path, name) if isinstance(value, int | float) else value

    def _attempt(self, path: Path, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except UserError as error:
            self.say(path, "files", str(error))
            return otherwise


def total(numbers: Iterable[Number]) -> float | None:
    """Return the sum of the numbers, without those that are missing; None where there are none, or the sum is too large
    to be one."""
    there = [number for number in numbers if number is not None]
    try:
        found = math.fsum(there)
    except OverflowError:
        return None
    return found if there and math.isfinite(found) else None


def _shallow(tree: dict[str, Any], where: str) -> dict[str, Any]:
    """Return `tree`. Raises UserError for one whose values are nested deeper than DEEPEST."""
    level: list[Any] = [tree]
    for _ in range(DEEPEST):
        level = [part for value in level for part in _parts(value)]
        if not level:
            return tree
    raise UserError(f"{where}: values are nested more than {DEEPEST} deep; mend or remove them")


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else []
